"""The Python snippets of README.md and docs/ run as they are printed, and give the numbers that they announce."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANNOUNCED = re.compile(r"^print\((.+)\)  # about (-?\d+(?:\.\d+)?)(?: .*)?$", re.MULTILINE)
TOLERANCE = 1.5  # dB: what another processor or torch release may change


def snippets() -> list[tuple[str, str]]:
    """("file:line", code) of each Python block."""
    return [
        (f"{path.relative_to(ROOT).as_posix()}:{text[: match.start()].count(chr(10)) + 1}", match[1])
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for text in [path.read_text(encoding="utf-8")]
        for match in SNIPPET.finditer(text)
    ]


def checked(code: str) -> str:
    """The code with an assertion after each `print(...)  # about N unit`."""
    return ANNOUNCED.sub(rf"shown = \1; print(shown); assert abs(float(shown) - \2) <= {TOLERANCE}, shown", code)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process, in an empty folder, so that files that a snippet writes stay out of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("code", [pytest.param(code, id=place) for place, code in snippets()])
def test_every_snippet_runs_and_gives_the_number_that_it_announces(code: str, tmp_path: Path) -> None:
    """If it fails, the first thing that a new user copies does not work, or promises another result."""
    assert code.count("# about ") == len(ANNOUNCED.findall(code)), "expected `print(...)  # about N unit`"
    done = run(checked(code), tmp_path)
    if re.search("ModuleNotFoundError: (timm|peft): expected to be installed", done.stderr):
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr


def test_a_snippet_with_a_wrong_number_is_noticed(tmp_path: Path) -> None:
    """If it fails, the numbers of the snippets are not checked."""
    code = "values = [20.0, 21.6]\nprint(values[{}])  # about 20 dB, (in parentheses)\n"
    assert [run(checked(code.format(index)), tmp_path).returncode for index in (0, 1)] == [0, 1]
    assert snippets(), "no snippet was found"
