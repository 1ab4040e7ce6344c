"""The file of stored samples, baselines/<module>.json: its form, its digests, and what is refused on reading.

    {"format": 1,
     "cells": {"op/b1": {"commit": "1f0c2aa", "deciding": "psnr", "digest": "...", "dtype": "float64",
                         "machine": {"fingerprint": "...", "threads": "1", "torch": "2.14.1"},
                         "metrics": {"psnr": {"better": "higher", "unit": "dB", "values": [24.1, 25.3, ...],
                                              "tolerance": 1e-05, "platform_spread": 1e-06, "seed_spread": 0.81}},
                         "protocol": "...", "reason": "first sample"}}}

The tolerance is absolute and per seed; the two spreads are its basis. "protocol" is the digest of everything that was
set. Each entry has a digest, which catches edits by hand and bad merges, but not someone who recomputes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gia.numerics import digest_of, replacing

FORMAT = 1
COMMAND = 'pytest --gia-rebaseline --gia-reason "why it moved"'
_FIELDS = {"commit", "deciding", "digest", "dtype", "machine", "metrics", "protocol", "reason"}
_METRIC_FIELDS = {"better", "platform_spread", "seed_spread", "tolerance", "unit", "values"}


class BaselineError(AssertionError):
    """A stored baseline does not hold, or cannot be used."""


class BaselineCorrupt(BaselineError):
    """The file is not readable, not of the expected form, or was edited by hand."""


class Quantity(Protocol):
    """What a baseline needs to know of a metric or a count.

    Attributes:
        unit: as it is shown.
        higher_is_better: whether a higher value is better for the attack.
        tolerance: how far the value of a seed may move on one machine, absolute; 0 for counts, which must agree on
            every machine.
        platform_spread: the largest difference seen for one seed between machines, at most the tolerance.
    """

    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def tolerance(self) -> float: ...
    @property
    def platform_spread(self) -> float: ...


def new_content(
    entry: str, sample: Mapping[str, list[float]], quantities: Mapping[str, Quantity], **facts: object
) -> dict[str, Any]:
    """The content of an entry, with its digest.

    Args:
        sample: quantity -> one value per seed.
        facts: the fields commit, deciding, dtype, machine, protocol and reason.
    """
    content = {
        **facts,
        "metrics": {
            metric: {
                "better": "higher" if quantities[metric].higher_is_better else "lower",
                "platform_spread": quantities[metric].platform_spread,
                "seed_spread": spread(values),
                "tolerance": quantities[metric].tolerance,
                "unit": quantities[metric].unit,
                "values": values,
            }
            for metric, values in sample.items()
        },
    }
    return {**content, "digest": digest_of([entry, content])}


def load(path: Path) -> dict[str, Any]:
    """Entry -> content, every one validated; empty if the file does not exist.

    Raises BaselineCorrupt for bad JSON, repeated or unknown keys, values that are not finite, a spread that does not
    follow from the values, a tolerance below the recorded spread, or a wrong digest (an edit by hand).
    """
    if not path.exists():
        return {}
    mend = f"Restore the file from version control, or delete what is broken and store it again: {COMMAND}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_not_finite)
    except (ValueError, RecursionError, OverflowError, OSError) as error:
        raise BaselineCorrupt(f"{path.name} is not a readable baseline file: {error}. {mend}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("cells"), dict):
        raise BaselineCorrupt(f"{path.name}: expected an object with 'format' {FORMAT} and 'cells'. {mend}")
    for entry, stored in content["cells"].items():
        try:
            problem = _problem(entry, stored)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            problem = f"its fields are malformed ({type(error).__name__}: {error})"
        if problem:
            raise BaselineCorrupt(f"{path.name}: entry {entry!r}: {problem}. {mend}")
    return dict(content["cells"])


def is_stored(path: Path) -> bool:
    """Whether a JSON file of the folder holds stored samples: not records, what was measured elsewhere, or the paper's.

    >>> is_stored(Path("batch_size.json")), is_stored(Path("claims-paper.json"))
    (True, False)
    """
    others = {"claims", "confirm", "drift", "ledger", "reach", "reported"}  # and those of a scale: "claims-paper"
    return path.stem.partition("-")[0] not in others and not path.stem.endswith(".obtained")


def write(path: Path, entries: Mapping[str, Any]) -> None:
    """Write the whole file or nothing: sorted, one value per line. A file without entries is removed."""
    if not entries:
        path.unlink(missing_ok=True)
        return
    text = json.dumps({"cells": entries, "format": FORMAT}, indent=1, sort_keys=True, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation over seeds.

    >>> spread([24.0, 26.0])
    1.4142135623730951
    """
    return float(np.std(values, ddof=1))


def _problem(entry: str, stored: Any) -> str | None:
    """What is wrong with an entry, or None."""
    if not isinstance(stored, dict) or set(stored) != _FIELDS:
        return f"expected the fields {sorted(_FIELDS)}"
    if stored["digest"] != digest_of([entry, {field: value for field, value in stored.items() if field != "digest"}]):
        return "its digest does not fit its content: it was edited by hand or merged badly"
    metrics = stored["metrics"]
    if not isinstance(metrics, dict) or not all(isinstance(row, dict) for row in metrics.values()):
        return f"expected a table of metrics, got {metrics!r}"
    if stored["deciding"] not in metrics or any(set(row) != _METRIC_FIELDS for row in metrics.values()):
        return f"expected for each metric, {stored['deciding']!r} among them, the fields {sorted(_METRIC_FIELDS)}"
    for row in metrics.values():
        numbers = [*row["values"], row["seed_spread"], row["tolerance"], row["platform_spread"]]
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
            return "expected numbers as values, spreads and tolerance"
        if not all(map(math.isfinite, numbers)):
            return "expected finite values, spreads and tolerance"
    if len({len(row["values"]) for row in metrics.values()}) != 1:
        return "its metrics have different numbers of seeds"
    for metric, row in metrics.items():
        # Computed by this version of numpy, so not bit for bit.
        if not math.isclose(row["seed_spread"], spread(row["values"]), rel_tol=1e-9, abs_tol=1e-300):
            return f"{metric}: the recorded seed spread {row['seed_spread']!r} does not follow from its values"
        if row["tolerance"] < row["platform_spread"]:
            return f"{metric}: tolerance {row['tolerance']:g} is below the recorded spread {row['platform_spread']:g}"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"repeated key {next(key for key in keys if keys.count(key) > 1)!r}")
    return dict(pairs)


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")
