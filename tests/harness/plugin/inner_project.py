"""An inner project with planted claims, for tests of the plugin from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gia.harness import pictures
from gia.numerics import reproducible

with reproducible():
    pass  # pytester forgets the modules that an inner run imports first, and torch cannot import all of its own twice

ROW = """
[[claim]]
id = "{id}"
statement = "Planted."
kind = "{kind}"
metric = "psnr"
unit = "dB"
margin = {margin}
{direction}
source = "Fig. 0"
paper = "SSIM .9 to .1"
expected = {{ reduced = ["{expected}", "planted so"], paper = ["supported", "not run"] }}
"""

#: A measure whose number is `settings.base` less `settings.slope` per doubling, with noise of a tenth of a dB.
PLANTED = """
import math
from dataclasses import replace
from pathlib import Path

import torch

from gia.harness.protocol import Protocol
from gia.harness.controls import Control
from gia.harness.scene import Measurement

PROTOCOL = Protocol(
    attack="dlg", victim={"name": "mlp"}, data="digits", image_size=8, settings={"slope": 2.0, "void": 0}
)


def with_slope(slope, **changes):
    return replace(PROTOCOL, settings={**PROTOCOL.settings, "slope": slope}, **changes)


def batch(protocol, size):
    return replace(protocol, batch_size=size)


def planted(protocol, block):
    with open("computed.txt", "a") as log:
        log.write(f"{block.claim} {block.index} {protocol.batch_size}\\n")
    noise = float(torch.rand((), generator=block.generator("noise", protocol.batch_size)))
    return Measurement(values={"psnr": 20 + 0.1 * noise - protocol.settings["slope"] * math.log2(protocol.batch_size)})


def first_six_undecided(protocol, block):
    if block.index >= 6:
        return planted(protocol, block)
    sign = 1 if block.index % 2 else -1
    return Measurement(values={"psnr": 20 + 3 * sign * math.log2(protocol.batch_size)})


def two_undecided(protocol, block):
    return planted(protocol if block.index not in (2, 5) else replace(protocol, settings={"slope": -1.0}), block)


def fails_at_first(protocol, block):
    return Control(block.index >= protocol.settings["void"], "planted")


def crashing(protocol, block):
    if block.index == 3:
        raise ZeroDivisionError("planted in block 3")
    return planted(protocol, block)
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
    claims.trend("{id}", with_slope({slope}), levels=(1, 2, 4), change=batch, x=math.log2, measure={measure})
"""


def row(id: str, expected: str = "supported", kind: str = "trend", margin: float = 0.5) -> str:
    """A row of an inner register."""
    direction = 'direction = "worse"' if kind in ("trend", "paired") else ""
    return ROW.format(id=id, kind=kind, margin=margin, direction=direction, expected=expected)


def trend(id: str, slope: float = 2.0, measure: str = "planted") -> str:
    """A test of a trend."""
    return TREND.format(id=id, name=id.replace(".", "_"), slope=slope, measure=measure)


class Inner:
    """An inner project: its register, its claims, and how it is run."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CI", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
            monkeypatch.delenv(name, raising=False)
        self._monkeypatch = monkeypatch
        self._curves = pictures.curves
        monkeypatch.setattr(pictures, "curves", lambda path, *_, **__: path.touch())  # half of an inner run's time
        self.pytester = pytester
        self.path = pytester.path
        (self.path / "claims").mkdir()
        (self.path / "planted.py").write_text(PLANTED)
        (self.path / "pytest.ini").write_text(
            "[pytest]\naddopts = -p gia.harness.plugin -p no:cacheprovider\npythonpath = .\n"
        )

    def write(self, *rows: str, tests: str = "", module: str = "test_toy") -> None:
        register = self.path / "claims" / "claims.toml"
        before = register.read_text() if register.exists() else 'scales = ["reduced", "paper"]\n'
        register.write_text(before + "".join(rows))
        (self.path / "claims" / f"{module}.py").write_text(HEAD + tests)

    def draw_pictures(self) -> None:
        """Draw for real what is otherwise an empty file."""
        self._monkeypatch.setattr(pictures, "curves", self._curves)

    def run(self, *options: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess("claims", "--workers=0", *options, no_reraise_ctrlc=True)

    @property
    def folder(self) -> Path:
        (folder,) = (self.path / ".gia" / "runs").iterdir()
        return folder

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in json.loads((self.folder / "verdicts.json").read_text())}

    @property
    def computed(self) -> list[str]:
        path = self.path / "computed.txt"
        return path.read_text().splitlines() if path.exists() else []
