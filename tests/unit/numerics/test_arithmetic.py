"""Repeatable computations: flags are set and restored; seeds, digests and fingerprints depend on what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from gia.numerics import REPEATABLE, digest_of, environment, file_digest, fingerprint, generator_of, reproducible
from gia.numerics.arithmetic import _sample_computation
from tests.contracts.snapshots import global_state

PRECISIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def precisions():
    """torch's new switches, one per kind of operation; empty before torch 2.9."""
    values = {}
    for path in PRECISIONS:
        kind, operation = path.split(".")
        place = getattr(getattr(torch.backends, kind), operation, None)
        if hasattr(place, "fp32_precision"):
            values[path] = place.fp32_precision
    return values


@pytest.fixture
def unusual():
    """Every flag differs from its default; restored by hand."""
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
def test_every_flag_is_restored(leave):
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
def test_the_body_runs_deterministically_in_full_precision_on_its_threads():
    """If it fails, a reproducible number depends on cuDNN's choice, on TF32 or bfloat16, or on threads."""
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


def test_precision_that_was_set_by_the_new_switches_is_restored_too():
    """torch >= 2.9 raises if its old and new switches disagree. If it fails, such a user cannot call `reproducible`."""
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


def test_calls_nest():
    """If it fails, leaving the inner `with` undoes the outer one."""
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
    """If it fails, torch raises an error that does not name the argument."""
    with pytest.raises(error, match="threads: expected"), reproducible(threads=threads):
        pass


def test_a_body_that_cannot_begin_leaves_no_flag_changed(monkeypatch):
    """If it fails, half of the flags stay set although the body was never entered."""

    def refuse(*_, **__):
        raise LookupError("on purpose")

    before = global_state(), precisions()
    with monkeypatch.context() as patch:
        patch.setattr("gia.numerics.arithmetic._full_precision", refuse)
        with pytest.raises(LookupError), reproducible(threads=2):
            pass
    assert (global_state(), precisions()) == before


def test_a_fingerprint_repeats_and_leaves_the_global_state():
    """If it fails, stored samples are never compared seed by seed, or computing it changes random states. That a fresh
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
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0")
    assert fingerprint() == digits
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert fingerprint() != digits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(torch.nn.functional, "conv2d"), (torch, "sigmoid"), (torch.Tensor, "__matmul__"), (torch, "mv")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fingerprint_sees_the_last_bit_of_each_kernel(monkeypatch, owner, name, backward, dtype):
    """If it fails, two machines with other arithmetic are compared seed by seed, and every stored sample fails."""
    digits, kernel = fingerprint(), getattr(owner, name)

    def moved(*arguments, **options):
        exact = kernel(*arguments, **options)
        if exact.dtype is not dtype:
            return exact
        if not backward:
            return exact * (1 + 2 * torch.finfo(dtype).eps)
        if exact.requires_grad:
            exact.register_hook(lambda gradient: gradient * (1 + 2 * torch.finfo(dtype).eps))
        return exact

    monkeypatch.setattr(owner, name, moved)
    assert (fingerprint() != digits) == (not backward or name != "mv")  # no gradient passes through mv


SAMPLES = """
import torch
from gia.numerics.arithmetic import _odd_products, reproducible
with reproducible(threads=1):
    print([product.sum().item() for dtype in (torch.float32, torch.float64) for product in _odd_products(dtype)])
"""


def test_other_kernels_of_mkl_give_other_samples(capsys):
    """If it fails, the fingerprint sees another MKL setting by its name only, and passes over a machine whose products
    differ although its variables are the same."""
    if os.environ.get("MKL_CBWR") != REPEATABLE["MKL_CBWR"] or not torch.backends.mkl.is_available():
        pytest.skip("arithmetic is not pinned here; nox -s tests does it")
    exec(SAMPLES, {})
    pinned = capsys.readouterr().out
    unset = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    command = [sys.executable, "-c", SAMPLES]
    process = subprocess.run(command, env=unset, capture_output=True, text=True, check=True)
    assert process.stdout.count(",") == pinned.count(",") == 35
    assert process.stdout != pinned
    assert len(_sample_computation(torch.float32)) == 4 + 18  # the fingerprint covers them


def test_a_product_does_not_depend_on_where_its_operands_begin():
    """If it fails, one seed gives two results in one process, since an allocator decides where a tensor lies."""
    if os.environ.get("MKL_CBWR") != REPEATABLE["MKL_CBWR"]:
        pytest.skip("arithmetic is not pinned here; nox -s tests does it")
    for dtype in (torch.float32, torch.float64):
        left, right = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in ((13, 511), (257, 511)))
        for shift in range(1, 9):
            moved = [
                torch.cat([torch.zeros(shift, dtype=dtype), matrix.flatten()])[shift:].view_as(matrix)
                for matrix in (left, right)
            ]
            assert torch.equal(moved[0] @ moved[1].T, left @ right.T)
            assert torch.equal(torch.mv(moved[1], moved[0][0]), torch.mv(right, left[0]))


def test_the_environment_holds_versions_threads_and_variables():
    """If it fails, a stored number does not say what it was measured with."""
    facts = environment()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert {"python", "torchvision", "cpu", "capability", "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY"} <= set(facts)
    assert all(isinstance(value, str) for value in facts.values())


def test_a_generator_follows_from_its_parts_alone():
    """If it fails, every image, victim and start of every claim changes: the seeds are those of earlier versions."""
    before = torch.get_rng_state()
    assert generator_of("op.batch_size", 7, "images", 2).initial_seed() == 9861400644404027299
    assert generator_of("experiment", 3, "start").initial_seed() == 13673956423491620716
    assert generator_of("experiment", "3", "start").initial_seed() != 13673956423491620716
    assert torch.get_rng_state().equal(before)
    assert generator_of("a") is not generator_of("a")


@pytest.mark.parametrize("part", [True, 1.0, None, b"a"])
def test_a_part_that_is_neither_a_string_nor_an_integer_is_refused(part):
    """If it fails, True and 1 give two seeds in one place and one seed in another."""
    with pytest.raises(TypeError, match=f"parts: expected strings and integers, got {part!r}"):
        generator_of("claim", 0, part)


def test_a_digest_depends_on_the_content_and_not_on_the_order_of_keys():
    """If it fails, stored results are not found, or one is taken for another: earlier versions made this digest."""
    assert digest_of({"b": [1, True, None], "a": {"x": 0.1, "ä": "é"}}) == "a2c862faea3f7ee4"
    assert digest_of({"a": {"ä": "é", "x": 0.1}, "b": (1, True, None)}) == "a2c862faea3f7ee4"
    assert digest_of({"b": [1, False, None], "a": {"x": 0.1, "ä": "é"}}) != "a2c862faea3f7ee4"
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of([float("nan")])


def test_a_file_digest_is_the_start_of_what_sha256sum_prints(tmp_path):
    """If it fails, a changed source file or picture is taken for the old one: FIPS 180-2's digest of "abc"."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_digest(path) == file_digest(str(path)) == "ba7816bf8f01cfea"
