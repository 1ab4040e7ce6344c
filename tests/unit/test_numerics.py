"""Repeatable arithmetic: what a block sets, that it puts everything back, and when a fingerprint changes."""

from __future__ import annotations

import os
import re

import pytest
import torch

from gia.numerics import environment, fingerprint, reproducible
from tests.contracts.snapshots import global_state

PRECISIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def precisions():
    """torch's new switches, one per kind of operation; empty before torch 2.9."""
    found = {}
    for path in PRECISIONS:
        kind, operation = path.split(".")
        place = getattr(getattr(torch.backends, kind), operation, None)
        if hasattr(place, "fp32_precision"):
            found[path] = place.fp32_precision
    return found


@pytest.fixture
def unusual():
    """Every flag another way round than by default; put back by hand."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision(before[1])
    torch.backends.cudnn.allow_tf32 = before[2]


@pytest.mark.usefixtures("unusual")
@pytest.mark.parametrize("leave", ["by its end", "by an error"])
def test_everything_is_put_back(leave):
    """If it fails, a measurement changes how the user's own training runs afterwards."""
    before = global_state(), precisions()
    try:
        with reproducible(threads=2):
            inside = global_state()
            if leave == "by an error":
                raise LookupError("on purpose")
    except LookupError:
        pass
    assert (global_state(), precisions()) == before
    assert inside != before[0]


@pytest.mark.usefixtures("unusual")
def test_the_block_runs_deterministically_in_full_precision_on_its_threads():
    """If it fails, a number that is called reproducible hangs on cuDNN's choice, on TF32 or bfloat16, or on threads."""
    for threads in (1, 2):
        with reproducible(threads=threads):
            assert torch.get_num_threads() == threads
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            assert set(precisions().values()) <= {"ieee"}
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_precision_set_the_new_way_comes_back_too():
    """torch >= 2.9 raises where its old and new switches disagree. If it fails, such a user cannot enter a block."""
    if not precisions():
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with reproducible():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_blocks_nest():
    """If it fails, the inner block's end undoes the outer one."""
    with reproducible(threads=2):
        outer = global_state()
        with reproducible(threads=1):
            assert torch.get_num_threads() == 1
        assert global_state() == outer


def test_a_workspace_that_the_user_chose_is_kept(monkeypatch):
    """If it fails, the user's cuBLAS setting is overwritten, or deleted."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with reproducible():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_a_number_of_threads_is_a_whole_number_from_one(threads, error):
    """If it fails, torch complains in words that do not name the argument."""
    with pytest.raises(error, match="threads: expected"), reproducible(threads=threads):
        pass


def test_a_block_that_cannot_begin_leaves_nothing(monkeypatch):
    """If it fails, half of the flags stay set although the block was never entered."""

    def refuse(*_, **__):
        raise LookupError("on purpose")

    before = global_state(), precisions()
    with monkeypatch.context() as patch:
        patch.setattr("gia.numerics._full_precision", refuse)
        with pytest.raises(LookupError), reproducible(threads=2):
            pass
    assert (global_state(), precisions()) == before


def test_a_fingerprint_repeats_and_moves_nothing():
    """If it fails, stored samples are never compared seed by seed, or asking for it moves random states. That a fresh
    process gives the same digits is tested in `tests/contracts/test_fresh_process.py`."""
    before = global_state()
    with torch.no_grad():
        digits = fingerprint()
    assert global_state() == before
    assert re.fullmatch("[0-9a-f]{12}", digits)
    assert fingerprint() == digits


def test_a_fingerprint_changes_with_what_arithmetic_depends_on(monkeypatch):
    """If it fails, samples made on other threads or instructions are compared tightly, and differ."""
    digits = fingerprint()
    with reproducible(threads=torch.get_num_threads() + 1):
        assert fingerprint() != digits
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert fingerprint() != digits
    monkeypatch.undo()
    assert fingerprint() == digits
    monkeypatch.setattr("platform.python_version", lambda: "0.0")
    assert fingerprint() == digits


def test_the_environment_is_told():
    """If it fails, a stored number does not say what it was measured with."""
    facts = environment()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert {"python", "torchvision", "cpu", "capability", "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY"} <= set(facts)
    assert all(isinstance(value, str) for value in facts.values())
