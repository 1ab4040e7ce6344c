"""The largest values that honest models reach: the default limits, and how limits are derived from reports."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from gia.errors import expected_one_of
from gia.federated.validation.report import ValidationReport

#: check -> the largest accepted value, or a TOML file with a table of these.
Limits = Mapping[str, float] | str | os.PathLike[str]
#: How many reports set a limit that one of them may exceed; a training sends about three models, so 1 % of trainings.
_ONE_IN = 300
#: check -> limit of a check that no honest training sets: running statistics are not trained, and servers that send
#: others move them towards those of the data.
BY_DESIGN: dict[str, float] = {"statistics": 0.8}
#: Checks without a default limit, since honest models reach what malicious ones do; they are measured and noted.
ADVISORY = frozenset({"dsnr"})


def fit_limits(reports: Iterable[ValidationReport]) -> dict[str, float]:
    """Limits from reports on honest models; `limits.toml` was made in this way.

    A limit is twice the value that one report in 300 exceeds, or the largest of fewer; for cosines it is half as far
    from 1. Otherwise a single training that collapsed would set it. Advisory checks get infinity, and `statistics` its
    limit by design.

    Args:
        reports: of models that you trust, at all stages of their training, on batches of the sizes that clients have.
            Count false alarms on other models.

    Returns:
        check -> limit, for `validate_model`.

    >>> from gia.federated import ValidationReport, fit_limits
    >>> fit_limits([ValidationReport((), values={"drift": 0.25}), ValidationReport((), values={"drift": 0.5})])
    {'drift': 1.0}
    """
    measured: dict[str, list[float]] = {}
    for report in reports:
        for check, value in report.values.items():
            measured.setdefault(check, []).append(value)
    largest = {check: sorted(values, reverse=True)[len(values) // _ONE_IN] for check, values in measured.items()}
    limits = {check: 1 - (1 - value) / 2 if check == "similar_rows" else 2 * value for check, value in largest.items()}
    limits |= {check: limit for check, limit in BY_DESIGN.items() if check in limits}
    return limits | dict.fromkeys(ADVISORY & set(limits), math.inf)


@lru_cache(maxsize=1)
def default_limits() -> Mapping[str, float]:
    """check -> limit, fitted on the honest models that `limits.toml` lists.

    >>> from gia.federated.validation import default_limits
    >>> default_limits()["dsnr"]
    inf
    """
    return _read(Path(__file__).with_name("limits.toml"))


def complete_limits(given: Limits | None) -> dict[str, float]:
    """The default limits, with those of the caller in their places.

    Raises ValueError for a limit of an unknown check, or one that is not a number of at least 0.

    >>> from gia.federated.validation import complete_limits
    >>> limits = complete_limits({"drift": 1.0})
    >>> limits["drift"], limits["statistics"]
    (1.0, 0.8)
    """
    own = {} if given is None else dict(given) if isinstance(given, Mapping) else _read(given)
    if unknown := sorted(set(own) - set(default_limits())):
        raise ValueError(expected_one_of("limits", unknown[0], sorted(default_limits())))
    if wrong := [
        check
        for check, limit in own.items()
        if isinstance(limit, bool) or not (isinstance(limit, int | float) and limit >= 0)
    ]:
        raise ValueError(f"limits[{wrong[0]!r}]: expected a number of at least 0, got {own[wrong[0]]!r}")
    return {**default_limits(), **own}


def _read(path: str | os.PathLike[str]) -> dict[str, float]:
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content.get("limits"), dict):
        raise ValueError(f"limits: expected a table [limits] in {os.fspath(path)}, got {sorted(content)}")
    return dict(content["limits"])
