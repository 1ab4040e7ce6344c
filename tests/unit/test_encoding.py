"""Text files are read and written as UTF-8, whatever the locale of the machine is."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "noxfile.py",
    *(path for folder in ("gia", "claims", "tests") for path in (ROOT / folder).rglob("*.py")),
]


def unencoded(source):
    """Lines of calls that open text without an encoding."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(word.arg in ("encoding", None) for word in call.keywords):
            continue
        builtin = isinstance(call.func, ast.Name) and call.func.id == "open"
        method = call.func.attr if isinstance(call.func, ast.Attribute) else None
        modes = [*call.args[1 if builtin else 0 :], *(word.value for word in call.keywords if word.arg == "mode")]
        binary = any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
        if method == "NamedTemporaryFile":  # binary unless a mode says otherwise
            binary = binary or not modes
        if method == "read_text" and call.args:  # a file's encoding, or a distribution's file
            continue
        text = method in ("read_text", "write_text", "fdopen", "NamedTemporaryFile")
        opened = (builtin or method == "open") and not foreign(call)
        if (text or opened) and not binary:
            lines.append(call.lineno)
    return lines


def foreign(call):
    """Whether this `open` is no file's: a file's method is called with a mode alone, or with nothing."""
    owner = getattr(call.func, "value", None)
    if isinstance(owner, ast.Name) and owner.id in ("Image", "zipfile", "tarfile", "webbrowser"):
        return True
    first = call.args[0] if call.args else ast.Constant("r")
    mode = isinstance(first, ast.Constant) and isinstance(first.value, str) and set(first.value) <= set("rwaxbt+")
    return isinstance(call.func, ast.Attribute) and not mode


def test_an_open_without_an_encoding_is_noticed():
    """If it fails, the test below cannot fail."""
    missing = ["path.read_text()", "open(path)"]
    right = [
        'path.open("rb")',
        'baselines.open("toy")',
        'open(path, mode="wb")',
        'path.write_text("a", encoding="utf-8")',
    ]
    source = "\n".join([*missing, *right])
    assert unencoded(source) == [1, 2]


def test_every_text_file_is_opened_with_an_encoding():
    """If it fails, somebody whose locale is not UTF-8 gets an error, or other letters."""
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in FILES for line in unencoded(path.read_text(encoding="utf-8"))
    ]
    assert found == []
