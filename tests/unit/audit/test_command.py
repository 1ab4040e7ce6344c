"""`python -m gia audit`: its files, its exit codes, and what it refuses to overwrite."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys

import pytest
import torch

from gia.__main__ import main
from gia.audit import command
from gia.audit.trial import Trial


@pytest.fixture
def words(monkeypatch, tmp_path):
    """A command line with a module that it can import, and what follows it."""
    (tmp_path / "nets_of_a_user.py").write_text(
        "from torch import nn\n"
        "def make_model():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))\n"
        "def loss(outputs, labels):\n    return nn.functional.cross_entropy(outputs, labels)\n"
        "broken = 3\ndef fails():\n    raise KeyError('width')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = torch.get_rng_state()
    options = "--data digits --image-size 8 --batch-size 1 --steps 3 --against ana_linear,op"
    yield ["audit", "nets_of_a_user:make_model", *options.split(), "--out", str(tmp_path / "out")]
    assert torch.get_rng_state().equal(state), "the seed of the user's model is not that of the process"


def test_an_audit_writes_its_report_and_page_and_leaves_no_parts(words, tmp_path, capsys):
    """If it fails, the command shows another number than its files, or leaves private images behind."""
    assert main([*words, "--defense", "clip=1.0", "--loss", "nets_of_a_user:loss"]) == 0
    shown = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json"]
    found = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert found["setup"]["defenses"] == "clip(norm=1.0)"
    assert f"{found['results']['ana_linear']['leak']:.1f}" in shown
    assert "a page that contains private images" in shown
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "This page contains private images" in page
    assert (tmp_path / "out" / "audit.html").stat().st_mode & 0o077 == 0


def test_files_of_an_audit_are_replaced_and_foreign_ones_are_not(words, tmp_path, capsys):
    """If it fails, a file of the user is lost, or an audit cannot be repeated."""
    assert main(words) == 0
    assert main(words) == 0
    for name in ("audit.html", "audit.json"):
        path = tmp_path / "out" / name
        own = path.read_text(encoding="utf-8")
        path.write_text("{}", encoding="utf-8")
        assert main(words) == 2
        assert f"out: expected a folder without a foreign {name}" in capsys.readouterr().err
        assert path.read_text(encoding="utf-8") == "{}"
        path.write_text(own, encoding="utf-8")


def test_a_run_that_was_stopped_goes_on(words, tmp_path, monkeypatch, capsys):
    """If it fails, a long audit that is interrupted begins from the start."""
    result = Trial.result

    def stopped(self, *given):
        if self.name == "op":
            raise KeyboardInterrupt
        return result(self, *given)

    monkeypatch.setattr(Trial, "result", stopped)
    assert main(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    ran = []
    monkeypatch.setattr(Trial, "result", lambda self, *given: ran.append(self.name) or result(self, *given))
    assert main([*words]) == 0
    assert "goes on: 1 of 2 attack types were finished\n" in capsys.readouterr().err
    assert "ana_linear" not in ran[:1]
    assert not (tmp_path / "out" / "audit.parts").exists()


def test_more_than_the_allowed_leak_is_exit_code_1(words, capsys):
    """If it fails, a CI job passes although more leaks."""
    assert main([*words, "--max-leak", "ana_linear=1000"]) == 0
    assert main([*words, "--max-leak", "ana_linear=1"]) == 1
    assert "max_leak: expected at most 1 dB of ana_linear" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("nets_of_a_user", [], "model: expected package.module:name, got 'nets_of_a_user'"),
        ("nets_of_a_user:make_modl", [], "model: expected one of .*did you mean 'make_model'"),
        ("nets_of_nobody:make", [], "model: expected a module that can be imported in 'nets_of_nobody:make'"),
        ("nets_of_a_user:broken", [], "model: expected a function that makes a module at .*, got int"),
        ("nets_of_a_user:fails", [], "model: expected nets_of_a_user:fails to make a module, got 'width'"),
        (None, ["--data", "digit"], "data: expected one of"),
        (None, ["--against", "opp"], "against: expected one of"),
        (None, ["--gradient", "absent.pt"], "gradient: expected a file, got absent.pt"),
        (None, ["--image-size", "32x"], "image-size: expected N or HxW, such as 32 or 24x32, got '32x'"),
        (None, ["--image-size", "9"], "image_size: expected images that the model takes, got 9x9"),
        (None, ["--defense", "noise"], r"defense: expected settings that noise takes, as in noise=0\.01, got 'noise'"),
        (None, ["--max-leak", "op"], "max-leak: expected TYPE=DB, got 'op'"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(words, model, more, message, capsys):
    """If it fails, a user sees a traceback."""
    if model is not None:
        words[1] = model
    assert main([*words, *more]) == 2
    shown = capsys.readouterr().err
    assert re.fullmatch(rf"python -m gia audit: {message}[^\n]*\n", shown)


def test_a_wrong_size_is_said_before_torch_is_imported():
    """If it fails, a typing mistake costs seconds before it is named."""
    said = "import os, sys; from gia.__main__ import main; code = main(['audit', 'nets:make', '--image-size', '3y'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{said}; print(code, 'torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2 False PASSIVE\n"
    assert done.stderr == "python -m gia audit: image-size: expected N or HxW, such as 32 or 24x32, got '3y'\n"


def test_the_folder_of_the_full_data_sets_has_two_names():
    """If it fails, a user of the name that says what it is gets the usage of the whole command."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = (parser.parse_args(["nets:make", name, "sets"]).root for name in ("--root", "--data-root"))
    assert list(given) == ["sets", "sets"]


def test_a_size_may_have_two_numbers():
    """If it fails, images that are not square cannot be audited from the command line."""
    assert [command._size(text) for text in ("32", "24x32")] == [32, (24, 32)]
