"""The HTML page of a run, and the file with what the project knew, from which it can be made again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gia.harness.decide.register import Register
from gia.harness.plugin.options import OPTIONS, destination
from gia.harness.report.material import ABOUT, PAGE, material_in
from gia.harness.report.page import html
from gia.harness.report.rows import Run
from gia.numerics import environment, replacing

#: Options that change what a row measures, so that its command repeats them.
_REPEATED = [
    name for name in OPTIONS if name in ("scale", "device", "data", "lane", "attack", "attack-settings", "defense")
]


def write(folder: Path, about: Mapping[str, Any], report: Run) -> None:
    """Write `about.json` and `report.html`.

    Args:
        folder: of the run, with its verdicts and their evidence.
        about: what the project knows, and what earlier runs say.
    """
    of_the_run = {
        "environment": dict(report.environment),
        "here": environment(),
        "without_verdict": dict(report.without_verdict),
        "not_covered": None if report.not_covered is None else list(report.not_covered),
        "notices": list(report.notices),
        "baselines": list(report.baselines),
    }
    with replacing(folder / ABOUT) as partial:
        partial.write_text(json.dumps({**about, **of_the_run}, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(folder / PAGE) as partial:
        partial.write_text(html(material_in(folder)), encoding="utf-8")


def commands(tests_of: Mapping[str, Sequence[str]], register: Register, config: pytest.Config) -> dict[str, str]:
    """Claim id -> the command that runs its test again, with the options that this run was given."""
    usual = {name: OPTIONS[name].get("default") for name in _REPEATED} | {"scale": register.scales[0]}
    options = []
    for name in _REPEATED:
        value = config.getoption(destination(name))
        if value not in (None, usual[name]):
            options += [f"--gia-{name}={each}" for each in (value if isinstance(value, list) else [value])]
    return {id: shlex.join(["python", "-m", "pytest", *tests, *options]) for id, tests in tests_of.items()}
