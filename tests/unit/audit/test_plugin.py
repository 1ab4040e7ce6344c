"""The fixture `audit` in a repository of a user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gia

ROOT = Path(gia.__file__).parent.parent

TESTS = """
import pytest
from torch import nn

def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

SMALL = {"data": "digits", "image_size": 8, "batch_size": 1, "batches": 1, "steps": 2, "against": "ana_linear"}

def test_numbers(audit):
    assert audit(make_model(), **SMALL).leak["ana_linear"] > 20

def test_gate(audit):
    audit(make_model(), **SMALL, max_leak={"ana_linear": 1.0})
"""


def test_the_fixture_gives_numbers_and_a_gate_that_fails_with_a_clear_message(tmp_path):
    """In a fresh process and another folder. If it fails, a team cannot gate its own repository."""
    (tmp_path / "test_gate.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "gia.audit.plugin", "-p", "no:cacheprovider", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout + ended.stderr
    assert "TooMuchLeaks: max_leak: expected at most 1 dB of ana_linear" in ended.stdout


def test_loading_the_plugin_loads_no_torch():
    """If it fails, every test run of a project that has gia installed starts seconds later."""
    code = "import sys, gia.audit.plugin; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
