"""An inner project with planted claims, for tests of the plugin from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gia.harness.blocks import sources, unkeyed
from gia.numerics import REPEATABLE, reproducible
from tests.harness import planted

with reproducible():
    pass  # pytester forgets modules that an inner run imports first; some of torch cannot be imported twice

#: The root of this repository, where an inner run in another process finds gia.
REPOSITORY = Path(__file__).parents[3]

#: Options of a run that puts its verdicts on record, and of a confirm run.
RECORD = ("--gia-record", "--gia-reason=planted")
CONFIRM = "--gia-lane=confirm"

HEADER = 'scales = ["reduced", "paper"]\nleak_metrics = ["leak"]\n'

ROW = """
[[claim]]
id = "{id}"
statement = "Planted."
kind = "{kind}"
metric = "{metric}"
unit = "dB"
{margin}
{direction}
source = "Fig. 0"
paper = "SSIM .9 to .1"
{more}
"""

HEAD = """
import math
from dataclasses import replace
import pytest
from planted import *
"""

TREND = """
@pytest.mark.claim("{id}")
def test_{name}(claims):
    claims.trend("{id}", Level(slope={slope}), levels=(1, 2, 4), change=batch, x=math.log2{measure})
"""


def row(id: str, kind: str = "trend", *, metric: str = "psnr", more: str = "") -> str:
    """A row of an inner register; `more` are further lines of it."""
    direction = 'direction = "worse"' if kind in ("trend", "paired") else ""
    margin = "" if kind in ("universal", "exact") else "margin = 0.5"
    return ROW.format(id=id, kind=kind, metric=metric, margin=margin, direction=direction, more=more)


def trend(id: str, slope: float = 2.0, measure: str | None = None) -> str:
    """A test of a trend; the measure is the laboratory's own or another one of the module `planted`."""
    own = "" if measure is None else f", measure={measure}"
    return TREND.format(id=id, name=id.replace(".", "_"), slope=slope, measure=own)


class Inner:
    """An inner project: its register, its claims, and how it is run."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CI", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in REPEATABLE.items():
            monkeypatch.setenv(name, value)  # as nox does
        self.pytester = pytester
        self.path = pytester.path
        (self.path / "claims").mkdir()
        self.write_settings()
        monkeypatch.syspath_prepend(write_entry_point(self.path / "installed"))
        shutil.copy(planted.__file__, self.path / "planted.py")

    def write_settings(self, *lines: str, experiment: str = "planted", plugins: str = "") -> None:
        """The file pytest.ini; `plugins` are named on the command line."""
        settings = (f"addopts = -p no:cacheprovider {plugins}", "pythonpath = .", f"claims_experiment = {experiment}")
        (self.path / "pytest.ini").write_text("\n".join(["[pytest]", *settings, *lines]) + "\n", encoding="utf-8")

    def write(self, *rows: str, tests: str = "", module: str = "test_toy") -> None:
        """Add rows to the register, which has at least one, and write a module of tests."""
        register = self.path / "claims" / "claims.toml"
        before = (
            register.read_text(encoding="utf-8") if register.exists() else HEADER + ("" if rows else row("toy.unused"))
        )
        register.write_text(before + "".join(rows), encoding="utf-8")
        (self.path / "claims" / f"{module}.py").write_text(HEAD + tests, encoding="utf-8")

    def run(self, *options: str) -> pytest.RunResult:
        """Run the claims in this process, without worker processes; sources are read again, as in another process."""
        for function in (*vars(sources).values(), *vars(unkeyed).values()):
            if hasattr(function, "cache_clear"):
                function.cache_clear()
        return self.pytester.runpytest_inprocess("claims", "--gia-workers=0", *options, no_reraise_ctrlc=True)

    def commit(self) -> str:
        """Put everything under git; returns the hash."""
        ignored = self.path / ".gitignore"
        ignored.write_text(".gia/\n__pycache__/\ncomputed.txt\ninstalled/\n", encoding="utf-8")
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "planted"]):
            names = ["-c", "user.name=planted", "-c", "user.email=planted@example.org"]
            subprocess.run(["git", *names, *command], cwd=self.path, check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=self.path, check=True, capture_output=True, text=True)
        return head.stdout.strip()

    def records(self, lane: str) -> dict[str, dict[str, Any]]:
        """Claim id -> row of a lane's file in the folder baselines."""
        found: dict[str, dict[str, Any]] = json.loads(
            (self.path / "baselines" / f"{lane}.json").read_text(encoding="utf-8")
        )["rows"]
        return found

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The entries of the ledger."""
        path = self.path / "claims" / "ledger.toml"
        return tomllib.loads(path.read_text(encoding="utf-8"))["entry"] if path.exists() else []

    @property
    def folder(self) -> Path:
        """The last run folder."""
        return self.folders[-1]

    @property
    def folders(self) -> list[Path]:
        """The run folders, the last one at the end."""
        return sorted(folder for folder in (self.path / ".gia" / "runs").iterdir() if not folder.is_symlink())

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Claim id -> row of the last run folder."""
        return verdicts_in(self.folder)

    @property
    def computed(self) -> list[str]:
        """What was measured: claim, block, size."""
        path = self.path / "computed.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def set_slope(inner: Inner, id: str, slope: float) -> None:
    """A module with one trend of this slope."""
    (inner.path / "claims" / "test_toy.py").write_text(
        "import math\nimport pytest\nfrom planted import *\n" + trend(id, slope), encoding="utf-8"
    )


def announce(inner: Inner, *options: str) -> str:
    """Commit everything, announce the confirm runs, and commit that; returns the frozen commit."""
    frozen = inner.commit()
    inner.run(CONFIRM, "--gia-open", *options)
    inner.commit()
    return frozen


def write_entry_point(folder: Path) -> Path:
    """What pip would leave in a folder of `sys.path`, so that pytest finds the plugin where gia is not installed."""
    facts = folder / "gia-0.1.0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: gia\nVersion: 0.1.0\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text("[pytest11]\ngia = gia.harness.plugin\n", encoding="utf-8")
    return folder


def verdicts_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Claim id -> row of a run folder."""
    return {row["id"]: row for row in json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))}


def environment(folder: Path, **more: str) -> Mapping[str, str]:
    """The environment of an inner run in another process, for which `folder` gets an entry point."""
    paths = [str(REPOSITORY), str(write_entry_point(folder)), os.environ.get("PYTHONPATH", "")]
    unset = ("CI", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), **more}
