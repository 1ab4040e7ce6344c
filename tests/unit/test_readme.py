"""README.md and docs/: snippets run and give the numbers and pictures that they announce, commands and links exist."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from claims import table1
from gia.__main__ import COMMANDS
from gia.audit import command as audit_command
from gia.harness.decide.register import load_register
from gia.harness.plugin.options import OPTIONS
from gia.numerics import REPEATABLE
from tests.harness.plugin.inner_project import environment, verdicts_in

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Further pages with links.
MORE = ["CHANGELOG.md", "baselines/README.md"]

#: Pages that are generated, or that record history in the words of their time.
KEPT = {"results.md", "pilots.md"}

#: Options that are not the plugin's: of the mutation run, `python -m gia cache`, `python -m gia report`, `nox -s lock`.
OTHERS = {"--changed", "--prune", "--upgrade", "--without-images", "--yes"}

#: Phrases of this project's own that a reader cannot know, or that are hard to read.
PRIVATE = r"anew|in vain|what is left|to be had|stands? beside|of its own|so many|tells (?:what|which|how)"

SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^```[a-z]+\n# (\w[\w/]*\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANNOUNCED = re.compile(r"^print\((.+)\)  # about (-?\d+(?:\.\d+)?)(?: .*)?$", re.MULTILINE)
TOLERANCE = 1.5  # dB: what another processor or torch release may change


def snippets() -> list[tuple[str, str, dict[str, str]]]:
    """("file:line", code, files) of each Python block; files are the named blocks above it on its page."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in SNIPPET.finditer(text):
            line = text[: match.start()].count("\n") + 1
            before = saved(text[: match.start()])
            found.append((f"{path.relative_to(ROOT).as_posix()}:{line}", match[1], before))
    return found


def saved(text: str) -> dict[str, str]:
    """Name -> content of the blocks that a reader saves as a file: their first line is a comment with the name."""
    return {name: f"# {name}\n{rest}" for name, rest in FILE.findall(text)}


def write(files: dict[str, str], folder: Path) -> None:
    """Save these files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def checked(code: str) -> str:
    """The code with an assertion after each `print(...)  # about N unit`."""
    return ANNOUNCED.sub(rf"shown = \1; print(shown); assert abs(float(shown) - \2) <= {TOLERANCE}, shown", code)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process, in an empty folder, so that files that a snippet writes stay out of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("code", "files"), [pytest.param(*rest, id=place) for place, *rest in snippets()])
def test_every_snippet_runs_and_gives_the_number_that_it_announces(
    code: str, files: dict[str, str], tmp_path: Path
) -> None:
    """If it fails, the first thing that a new user copies does not work, or promises another result."""
    write(files, tmp_path)
    if "claims/claims.toml" in code:  # of this repository, in whose folder the reader is
        write({"claims/claims.toml": (ROOT / "claims" / "claims.toml").read_text(encoding="utf-8")}, tmp_path)
    assert code.count("# about ") == len(ANNOUNCED.findall(code)), "expected `print(...)  # about N unit`"
    done = run(checked(code), tmp_path)
    if re.search("ModuleNotFoundError: (timm|peft): expected to be installed", done.stderr):
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    for drawn in tmp_path.glob("*.png"):
        assert differs(drawn, PICTURES / drawn.name) < 0.1


def differs(drawn: Path, shown: Path) -> float:
    """Root mean square difference of two pictures of the same size, whose values run from 0 to 1."""
    first, second = (np.asarray(Image.open(path).convert("RGB"), float) / 255 for path in (drawn, shown))
    assert first.shape == second.shape
    return float(np.sqrt(np.mean((first - second) ** 2)))


def test_the_other_papers_project_gives_the_verdicts_that_its_page_shows(tmp_path: Path) -> None:
    """If it fails, the harness does not work without gradient inversion, or not as its page says."""
    text = (ROOT / "docs" / "reproducing_another_paper.md").read_text(encoding="utf-8")
    files = saved(text)
    assert set(files) == {"pytest.ini", "claims/claims.toml", "laboratory.py", "claims/test_doe.py"}
    write(files, tmp_path)
    variables = {**environment(tmp_path / "installed"), **REPEATABLE}
    command = [sys.executable, "-m", "pytest", "claims", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts_in(tmp_path / ".gia" / "runs" / "latest")
    assert {id: row["outcome"] for id, row in found.items()} == {"pi.points": "supported", "euler.primes": "refuted"}
    (shown,) = re.findall(r"pi\.points     supported: \+([.0-9]+) ", text)
    assert found["pi.points"]["effect"] == pytest.approx(float(shown), abs=0.05)
    assert "fails at n=" in found["euler.primes"]["measured"]


def test_the_attack_of_the_guide_is_an_attack_that_rows_of_the_register_take(tmp_path: Path) -> None:
    """If it fails, who writes an attack as the guide says cannot put it on trial."""
    text = (ROOT / "docs" / "add_an_attack.md").read_text(encoding="utf-8")
    write(saved(text), tmp_path)
    code = """
from claims.reduced.spaces import OP
from gia.experiment import measure, substitution
from gia.harness.blocks.block import Block
put = substitution("my_attack:matching", {"steps": 20})
small = put(OP.with_({"batch.data": "digits", "batch.image_size": 8, "victim.name": "mlp"}))
seen = measure(small.with_({"scoring.control": None, "vary": {}}), Block("guide", 0, {}))
assert seen.values["leak"] > 5, seen.values
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_row_of_the_guide_is_a_row_that_the_register_takes(tmp_path: Path) -> None:
    """If it fails, who copies the guide's row gets an error."""
    text = (ROOT / "docs" / "add_a_claim.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "claims.toml"
    path.write_text(f'scales = ["reduced"]\nleak_metrics = ["leak"]\n\n{row}', encoding="utf-8")
    assert list(load_register(path)) == ["op.width"]
    assert 'claims.trend("op.width"' in saved(text)["claims/test_width.py"]


def test_a_snippet_with_a_wrong_number_is_noticed(tmp_path: Path) -> None:
    """If it fails, the numbers of the snippets are not checked."""
    code = "values = [20.0, 21.6]\nprint(values[{}])  # about 20 dB, (in parentheses)\n"
    assert [run(checked(code.format(index)), tmp_path).returncode for index in (0, 1)] == [0, 1]
    assert snippets(), "no snippet was found"


def test_a_picture_that_a_snippet_does_not_draw_is_noticed(tmp_path: Path) -> None:
    """If it fails, the README may show any picture below its snippet."""
    for name, level in (("a.png", 20), ("b.png", 30), ("c.png", 60)):
        Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / name)
    assert differs(tmp_path / "a.png", tmp_path / "b.png") < 0.1 < differs(tmp_path / "a.png", tmp_path / "c.png")


def code(text: str) -> Iterator[str]:
    """The commands of a page: its indented or fenced lines and its code spans, without those in Python blocks."""
    text = SNIPPET.sub("", text)
    for block in re.findall(r"^```[a-z]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", text)


def unknown(text: str, sessions: set[str]) -> set[str]:
    """Names of sessions, options, sub-commands and modules in a page's commands that do not exist."""
    found = set()
    for line in code(text):
        for words in re.findall(r"nox -s ([a-z][a-z_ ]*)", line):
            found |= set(words.split()) - sessions
        if module := re.search(r"python -m ([a-z_0-9.]+)(?: ([a-z]+))?", line):
            found |= {module[2]} - {None, *COMMANDS} if module[1] == "gia" else set()
            # pip is always there, and setuptools warns whoever asks for it after distutils was imported.
            if module[1] != "pip" and not importlib.util.find_spec(module[1]):
                found.add(module[1])
        if re.match(r"\W*(?:nox|pytest|--|.*python -m gia audit)", line) and "pip" not in line:
            options = set(re.findall(r"(?<!\S)--([a-z][a-z-]*)", line))
            found |= {f"--{each}" for each in options if each.removeprefix("gia-") not in OPTIONS} - OTHERS - audited()
    return found


@cache
def audited() -> set[str]:
    """The options of `python -m gia audit`."""
    parser = argparse.ArgumentParser()
    audit_command.add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


@pytest.fixture(scope="module")
def sessions() -> set[str]:
    """What `nox -l` lists."""
    command = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), "--list"]
    printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    return set(re.findall(r"^[*-] (\w+)", printed, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path, sessions: set[str]) -> None:
    """If it fails, a reader types a command of the docs and gets an error."""
    assert unknown(page.read_text(encoding="utf-8"), sessions | {"NAME"}) == set()


def test_a_command_that_does_not_exist_is_noticed() -> None:
    """If it fails, the check of commands cannot fail."""
    text = "Run `nox -s lint typos -- --lane x`, `python -m gia dta`, or `python -m gia.data`.\n"
    text += "```\npytest claims --atack x\npython -m claims.nowhere\n- run: python -m gia audit a:b --seeed 0\n```\n"
    assert unknown(text, {"lint"}) == {"typos", "dta", "--atack", "claims.nowhere", "--seeed"}


def broken(page: Path, root: Path) -> list[str]:
    """Links of a page to files or headings that are not there, and pictures without a text for those who cannot see."""
    text, lines = page.read_text(encoding="utf-8"), []
    for picture, label, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", SNIPPET.sub("", text)):
        path, _, heading = target.partition("#")
        file = page if not path else page.parent / path
        if "://" in target:
            continue
        if not file.exists() or (heading and heading not in anchors(file.read_text(encoding="utf-8"))):
            lines.append(target)
        if picture and len(label.split()) < 5:
            lines.append(f"{target}: no text")
    return lines


def anchors(text: str) -> set[str]:
    """The names of a page's headings and anchors, as code hosts form them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return plain | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("name", [*(page.relative_to(ROOT).as_posix() for page in PAGES), *MORE])
def test_every_link_leads_somewhere_and_every_picture_has_a_text(name: str) -> None:
    """If it fails, a reader ends on a page that does not exist, or a screen reader says nothing of a picture."""
    assert broken(ROOT / name, ROOT) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    """If it fails, the check of links cannot fail."""
    page = tmp_path / "page.md"
    page.write_text("# A b\n[a](#a-b) [b](#c) [c](none.md) [d](page.md#a-b) ![e](page.md)", encoding="utf-8")
    assert broken(page, tmp_path) == ["#c", "none.md", "page.md: no text"]


def test_the_readme_fits_on_a_few_screens() -> None:
    """If it fails, the front page has become a manual again; its place is docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_verdict_that_the_readme_explains_is_the_one_on_record() -> None:
    """If it fails, the front page explains a verdict that was replaced."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row, verdict) = re.findall(r"^> `([^`]+)` (.+)$", readme, re.MULTILINE)[0]
    (line,) = [
        line
        for line in (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{row}`")
    ]
    assert f"| {verdict} |" in line


def test_table_one_in_the_readme_is_what_the_records_give() -> None:
    """If it fails, the front page shows old verdicts: `python -m claims.table1` writes them again."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == table1.replaced(readme, table1.from_files(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in KEPT], ids=lambda page: page.name)
def test_a_page_is_written_in_plain_english(page: Path) -> None:
    """If it fails, a page has a phrase that a reader must guess at; say it as the docs of pytest would."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert re.findall(rf"\b(?:{PRIVATE})\b", text) == []
