"""Files of stored baselines: what an entry holds, and which files and entries are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gia.harness.baseline import file as baseline_file
from gia.harness.baseline.file import BaselineCorrupt
from gia.numerics import digest_of
from tests.harness.baseline.stored import HERE, PSNR, QUANTITIES, Quantity, baseline_of, opened, store
from tests.malformed import changed_bytes, changed_json


def edit(file: Path, change: Callable[[dict[str, Any]], object], *, forge: bool = False) -> None:
    """Change the entry op/b1 in the file; `forge` recomputes its digest."""
    content = json.loads(file.read_text(encoding="utf-8"))
    entry = content["cells"]["op/b1"]
    change(entry)
    if forge:
        body = {field: value for field, value in entry.items() if field != "digest"}
        entry["digest"] = digest_of(["op/b1", body])
    file.write_text(json.dumps(content), encoding="utf-8")


def test_an_entry_says_where_its_numbers_come_from(file: Path) -> None:
    """Without setting, machine, commit and reason nobody can tell whether a moved number matters."""
    entry = json.loads(file.read_text(encoding="utf-8"))["cells"]["op/b1"]
    assert entry["protocol"] == "p1"
    assert entry["machine"] == HERE
    assert (entry["commit"], entry["reason"], entry["dtype"]) == ("abc1234", "first sample", "float64")
    row = entry["metrics"]["psnr"]
    assert row["values"] == PSNR
    assert row["unit"] == "dB"
    assert row["seed_spread"] == pytest.approx(np.std(PSNR, ddof=1))
    assert (row["tolerance"], row["platform_spread"]) == (1e-5, 1e-6)


def test_files_are_sorted_so_that_a_change_is_a_small_diff(tmp_path: Path) -> None:
    """Two people who store the same entries in another order would otherwise conflict on every line."""
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for target, entries in ((one, ("b", "a")), (other, ("a", "b"))):
        for entry in entries:
            store(target, entry=entry)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "<<<<<<< HEAD\n",
        "[]",
        '{"cells": [], "format": 1}',
        '{"cells": {}, "format": 2}',
        '{"cells": {}, "cells": {}, "format": 1}',
        '{"cells": {"a": NaN}, "format": 1}',
        '{"cells": {"a": {"protocol": "p1"}}, "format": 1}',
    ],
    ids=["empty", "cut", "conflict", "list", "cells", "format", "repeated", "nan", "fields"],
)
@pytest.mark.parametrize("rebaseline", [False, True])
def test_a_corrupt_file_is_refused_on_load_and_never_overwritten(file: Path, text: str, rebaseline: bool) -> None:
    """Taking a broken file for an empty one would turn every lost baseline into a missing one that is stored again."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineCorrupt, match=r"batch_size\.json.*Restore the file"):
        baseline_of(file, machine=HERE, rebaseline=rebaseline, reason="r", ci=False)
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["metrics"]["psnr"]["values"].__setitem__(0, 24.1),
        lambda entry: entry["metrics"]["psnr"].update(tolerance=1.0),
        lambda entry: entry["metrics"].pop("lpips"),
        lambda entry: entry.update(protocol="p2"),
        lambda entry: entry.update(reason="a better story"),
    ],
    ids=["value", "tolerance", "metric", "protocol", "reason"],
)
def test_an_edit_by_hand_is_refused(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A number typed in is not a measurement."""
    edit(file, change)
    with pytest.raises(BaselineCorrupt, match="edited by hand"):
        baseline_of(file, machine=HERE)


def test_an_entry_moved_to_another_name_is_refused(file: Path) -> None:
    """Renaming an entry in the file would give it the numbers of another."""
    file.write_text(file.read_text(encoding="utf-8").replace("op/b1", "op/b2"), encoding="utf-8")
    with pytest.raises(BaselineCorrupt, match=r"'op/b2'.*edited by hand"):
        baseline_of(file, machine=HERE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda entry: entry["metrics"]["psnr"].update(tolerance=1e-7),
            "psnr: tolerance 1e-07 is below the recorded spread",
        ),
        (lambda entry: entry["metrics"]["psnr"].update(seed_spread=5.0), "seed spread 5.0 does not follow"),
        (lambda entry: entry["metrics"]["psnr"]["values"].pop(), "different numbers of seeds"),
        (lambda entry: entry["metrics"]["psnr"].pop("unit"), "the fields"),
        (lambda entry: entry["metrics"].pop("psnr"), "'psnr' among them"),
    ],
    ids=["tolerance", "spread", "seeds", "field", "deciding"],
)
def test_an_entry_is_validated_even_if_its_digest_fits(file: Path, change: Any, named: str) -> None:
    """Whoever recomputes the digest still cannot store a tolerance without its basis."""
    edit(file, change, forge=True)
    with pytest.raises(BaselineCorrupt, match=named):
        baseline_of(file, machine=HERE)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["metrics"]["psnr"].update(values=None),
        lambda entry: entry["metrics"]["psnr"].update(tolerance=10**400),
        lambda entry: entry.update(deciding=["psnr"]),
        lambda entry: entry["metrics"]["psnr"].update(values=24.1),
    ],
    ids=["missing", "huge", "unhashable", "number"],
)
def test_fields_of_another_type_are_refused_even_if_the_digest_fits(file: Path, change: Any) -> None:
    """If it fails, a merge tool that recomputes digests ends the run in a bare TypeError or OverflowError."""
    edit(file, change, forge=True)
    with pytest.raises(BaselineCorrupt, match=r"entry 'op/b1': its fields are malformed"):
        baseline_of(file, machine=HERE)


def test_a_tolerance_below_the_platform_spread_cannot_be_declared(tmp_path: Path) -> None:
    """It would raise alarms on the next processor."""
    with pytest.raises(ValueError, match=r"tolerance: expected at least the platform spread 0\.1, got 0\.01"):
        opened(tmp_path, quantities={"psnr": Quantity("dB", tolerance=0.01, platform_spread=0.1)})


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=12))
def test_every_storable_sample_survives_the_file_bit_for_bit(sample: list[float]) -> None:
    """A value rounded by the file would break the paired comparison."""
    stored = baseline_file.new_content(
        "name",
        {"psnr": sample},
        QUANTITIES,
        deciding="psnr",
        protocol="p",
        dtype="float64",
        machine=HERE,
        commit="c",
        reason="",
    )
    assert json.loads(json.dumps(stored)) == stored
    assert baseline_file._problem("name", json.loads(json.dumps(stored))) is None


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_changed_is_corrupt_or_loads(data: st.DataObject, file: Path, tmp_path: Path) -> None:
    """If it fails, a damaged or forged file ends in a KeyError, or its digest decides alone."""
    content = file.read_bytes()
    if data.draw(st.booleans()):
        entry = data.draw(changed_json(json.loads(content)["cells"]["op/b1"]))
        if isinstance(entry, dict):
            body = {field: value for field, value in entry.items() if field != "digest"}
            entry["digest"] = digest_of(["op/b1", body])
        content = json.dumps({"format": 1, "cells": {"op/b1": entry}}).encode()
    else:
        content = data.draw(changed_bytes(content))
    changed = tmp_path / "changed.json"
    changed.write_bytes(content)
    try:
        cells = baseline_file.load(changed)
    except BaselineCorrupt:
        return
    for row in (row for entry in cells.values() for row in entry["metrics"].values()):
        assert np.isfinite(row["values"]).all()
