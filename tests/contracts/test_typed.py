"""A type checker sees the signatures that users call: right calls pass, mistakes are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gia
from gia.attacks import ATTACKS

REQUIRED = {"fishing": "target=3, ", "learning_to_invert": "inverter=inverter, "}

HEAD = """
import torch
import gia
from gia.attacks import ATTACKS, CARDS, Attack, Card, Inverter, Reconstruction, card_of, find, run_many
"""

#: Errors inside gia are reported elsewhere. Torch's types are left out, since reading them takes a minute.
CONFIGURATION = """
[mypy]
follow_imports = silent
[mypy-torch.*,torchvision.*,numpy.*,scipy.*,skimage.*,sklearn.*,lpips.*,h5py.*,cma.*,dtcwt.*,PIL.*,safetensors.*]
follow_imports = skip
ignore_missing_imports = True
"""

#: Call of `dlg` -> what mypy says about it.
WRONG = {
    "dlg(model, observation, generator=generator, step=3)": 'Unexpected keyword argument "step"',
    'dlg(model, observation, generator=generator, steps="3")': 'Argument "steps" .* has incompatible type "str"',
    "dlg(model, observation, steps=3)": 'Missing named argument "generator"',
    "dlg(model, [observation], generator=generator)": 'Argument 2 .* has incompatible type "list',
    "dlg(model, observation, generator=generator).image": '"Reconstruction" has no attribute "image"',
}


def user_s_file() -> tuple[str, int]:
    """Right calls of all attacks followed by wrong ones, and the number of lines before these."""
    calls = [
        f"    results.append({name}(model, observation, generator=generator, {REQUIRED.get(name, '')}loss=loss))"
        for name in ATTACKS
    ]
    lines = [
        *HEAD.splitlines(),
        *(f"from gia.attacks import {name}" for name in ATTACKS),
        "def attack_them_all(model: torch.nn.Module, observation: gia.Observation, inverter: Inverter) -> None:",
        "    generator, loss = torch.Generator(), torch.nn.functional.cross_entropy",
        "    results: list[Reconstruction] = []",
        *calls,
        "    results.append(inverting_gradients(model, observation, generator=generator, steps=3, space='pixels'))",
        "    attack: Attack = dlg",
        "    card: Card = dlg.card",
        "    maybe: Card | None = card_of('dlg')",
        "    results.append(ATTACKS['dlg'](model, observation, generator=generator, steps=3))",
        "    results += run_many(attack, model, [observation], generators=[generator], steps=3)",
        "    results += run_many(find('dlg'), model, [observation], generators=[generator])",
        "    results += dlg.many(model, [observation], generators=[generator])",
    ]
    return "\n".join([*lines, *(f"    {call}" for call in WRONG)]) + "\n", len(lines)


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """Line -> what mypy --strict says about it, counted from the first wrong call."""
    text, right = user_s_file()
    folder = tmp_path_factory.mktemp("user")
    (folder / "user.py").write_text(text, encoding="utf-8")
    (folder / "mypy.ini").write_text(CONFIGURATION, encoding="utf-8")
    root = str(Path(gia.__file__).parents[1])
    environment = {**os.environ, "MYPYPATH": root, "PYTHONPATH": root}
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "user.py"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not ran.stderr
    said: dict[int, str] = {}
    for line in ran.stdout.splitlines():
        _, number, rest = line.split(":", 2)
        said[int(number) - right] = said.get(int(number) - right, "") + rest
    return said


def test_mypy_accepts_right_calls_of_all_attacks(complaints):
    """If it fails, a user who checks types cannot call gia."""
    assert {line: said for line, said in complaints.items() if line <= 0} == {}


@pytest.mark.parametrize(
    ("number", "call"), list(enumerate(WRONG, 1)), ids=["name", "type", "missing", "list", "result"]
)
def test_mypy_names_a_mistake(complaints, number, call):
    """If it fails, a mistyped setting is found when the search runs, after hours."""
    assert number in complaints
    assert re.search(WRONG[call], complaints[number])
