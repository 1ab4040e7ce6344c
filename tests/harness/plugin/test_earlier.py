"""What a run says of the time that is left, and where it knows it from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gia.harness.plugin.earlier import Remaining, placebos, seconds_of_rows


def a_run(runs: Path, name: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """A run folder of an earlier run, which ended."""
    folder = runs / name
    folder.mkdir(parents=True)
    about = {"written_by": "gia.harness", "kind": "reduced", "state": "ended", "scale": "reduced", "device": "cpu"}
    (folder / "run.json").write_text(json.dumps({**about, **facts}), encoding="utf-8")
    (folder / "verdicts.json").write_text(json.dumps(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("done", "text"),
    [
        ({}, "about 3 min left for 3 rows, and 1 row without an earlier time"),
        ({"a": 60.0}, "about 2 min left for 2 rows, and 1 row without an earlier time"),
        ({"a": 30.0}, "about 60 s left for 2 rows, and 1 row without an earlier time"),
        ({"a": 0.001}, "about 12 s left for 2 rows, and 1 row without an earlier time"),
        ({"a": 60.0, "b": 100.0, "d": 5.0}, "about 20 s left for 1 row"),
        ({"a": 60.0, "b": 100.0, "c": 20.0}, ""),
    ],
)
def test_the_time_left_follows_the_pace_of_this_run(done: dict[str, float], text: str) -> None:
    """A run of stored blocks, or on a slower machine, would be told the time of the last one."""
    assert Remaining({"a": 60.0, "b": 100.0, "c": 20.0}, ["a", "b", "c", "d"]).text(done) == text


def test_the_last_run_of_each_row_counts_at_the_same_scale_lane_and_device(tmp_path: Path) -> None:
    """The time of a confirm run, or of a graphics card, says nothing about this run."""
    facts = {"scale": "reduced", "device": "cpu"}
    a_run(tmp_path, "20261101-a", [{"id": "a", "seconds": 9.0}, {"id": "b", "seconds": 5.0}])
    a_run(tmp_path, "20261102-a", [{"id": "a", "seconds": 1.0}])
    a_run(tmp_path, "20261103-a", [{"id": "a", "seconds": 2.0}], lane="confirm")
    a_run(tmp_path, "20261104-a", [{"id": "a", "seconds": 3.0}], device="cuda")
    a_run(tmp_path, "20261105-a", [{"id": "a", "seconds": 4.0}], state="running")
    (tmp_path / "20261106-foreign").mkdir()
    assert seconds_of_rows(tmp_path, facts) == {"a": 1.0, "b": 5.0}
    assert seconds_of_rows(tmp_path, {**facts, "lane": "confirm"}) == {"a": 2.0}
    assert seconds_of_rows(tmp_path / "nowhere", facts) == {}


def test_placebos_are_those_of_the_last_run_that_tried_them(tmp_path: Path) -> None:
    """The report would say that nobody asked what an attacker gets without the gradient."""
    said = {"outcome": "inconclusive", "leak": 0.1, "leak_decides": True}
    row = {"id": "a", "seconds": 1.0, "placebo": "noise", **said}
    a_run(tmp_path, "20261101-a", [{**row, "leak": 0.4}, {**row, "placebo": "constant"}], lane="placebo-all")
    a_run(tmp_path, "20261102-a", [row], lane="placebo-noise")
    a_run(tmp_path, "20261103-a", [{**row, "leak": 9.0}], lane="placebo-noise", scale="paper")
    assert placebos(tmp_path, "reduced") == {"a": {"noise": said, "constant": said}}
