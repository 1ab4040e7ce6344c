"""Every row of the reduced scale whose blocks are all void: it is inconclusive, and its test does not break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Loaded by the inner run: every control fails, and rows that measure no blocks, or none with a control, are left out.
PLUGIN = """
import pytest

from gia.harness.blocks import executor
from gia.harness.blocks.results import Control
from gia.harness.plugin.claims import Claims


def fails(experiment, block, cache):
    if all(level.control is None for level in experiment.levels.values()):
        left_out(None)
    return {str(label): Control(False, "planted", {}) for label in experiment.levels}


def left_out(self, *arguments, **options):
    pytest.skip("this row measures no blocks")


executor._controls = fails
Claims.universal = Claims.exact = Claims.spread = Claims.without_attack = left_out
"""


def test_a_row_whose_blocks_are_all_void_is_inconclusive(tmp_path: Path) -> None:
    """A path that nowhere works would end a run of an hour with a traceback in place of a verdict."""
    (tmp_path / "void_controls.py").write_text(PLUGIN, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "pytest", "claims", "-m", "claim", "-p", "void_controls", "--workers", "0"]
    command += ["--run-dir", str(folder), "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": paths, "CI": "true"}  # blocks are kept with the run
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    rows = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    assert len(rows) > 60, done.stdout[-3000:]
    assert {row["id"]: row["outcome"] for row in rows if row["outcome"] != "inconclusive"} == {}
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED claims/")]
    allowed = ("UnexpectedOutcomeError", "this row measures no blocks")  # the first: it is supported on record
    assert [line for line in failed if not any(reason in line for reason in allowed)] == []
