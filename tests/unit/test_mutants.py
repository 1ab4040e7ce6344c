"""The list of planted breaks stays applicable: each stands at one place, and the test that catches it exists."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.parametrize("file", sorted({mutant["file"] for mutant in MUTANTS}))
def test_a_planted_break_can_be_planted(file):
    """If it fails, the code or the test moved on, and a mutation run would pass over this break in silence."""
    source = (ROOT / file).read_text(encoding="utf-8")
    for mutant in (mutant for mutant in MUTANTS if mutant["file"] == file):
        assert source.count(mutant["find"]) == 1, mutant["find"]
        assert mutant["replace"] != mutant["find"]
        if file.endswith(".py"):
            ast.parse(source.replace(mutant["find"], mutant["replace"]))  # a syntax error would fail any test
        module, _, name = mutant["test"].partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / module).read_text(encoding="utf-8"), mutant["test"]
