"""Arithmetic that can be repeated: threads and flags for a run, and a fingerprint of this machine's floating point."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: What must stand in the environment *before* torch is imported for float32 to repeat across processors.
#: Measured: without them one seed moved a PSNR by up to 4.2 dB between instruction sets.
REPEATABLE = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "PYTHONHASHSEED": "0",
}


@contextmanager
def reproducible(*, threads: int = 1) -> Iterator[None]:
    """Run a block with `threads` torch threads and deterministic algorithms; restore every flag afterwards.

    One thread per process is the default because two busy threads on two shared cores were 20 times slower than one.
    Raises ValueError for fewer than one thread, TypeError for half of one. The global random state is neither read nor
    moved.
    """
    if not isinstance(threads, int):
        raise TypeError(f"threads: expected a whole number, got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    try:
        torch.set_num_threads(threads)
        # The flag of torch.use_deterministic_algorithms, without the compiler that it imports for 3 s in each process.
        torch.set_deterministic_debug_mode("error")
        # Every new buffer would be filled with NaN first: 3 % of an attack's step, for memory that is never read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in deterministic mode
        with _full_precision():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.backends.cudnn.deterministic = before[3]
        torch.utils.deterministic.fill_uninitialized_memory = before[5]  # type: ignore[attr-defined]
        if before[4] is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 is float32: no TF32 and no bfloat16 inside products and convolutions, on a GPU or (oneDNN) on a CPU.

    torch keeps this twice. The old switches know only some of it, and since 2.9 reading them raises where the new ones
    (`fp32_precision`, one per kind of operation) say otherwise. So both are set, and both are put back.
    """
    places = [place for path in _PRECISION if (place := _at(path)) is not None]
    new = [place.fp32_precision for place in places]
    matmul = cudnn = None
    with suppress(RuntimeError):  # mixed before we came: there is no old answer to put back
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        cudnn = torch.backends.cudnn.allow_tf32
    try:
        _set_old(matmul="highest", cudnn=False)
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        _set_old(matmul=matmul, cudnn=cudnn)
        for place, value in zip(places, new, strict=True):
            place.fp32_precision = value


_PRECISION = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def _at(path: str) -> Any:
    """The place of torch.backends that holds a precision, None in a torch that has no such place."""
    kind, operation = path.split(".")
    place = getattr(getattr(torch.backends, kind), operation, None)
    return place if hasattr(place, "fp32_precision") else None


def _set_old(*, matmul: str | None, cudnn: bool | None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings")  # said once, by torch 2.9
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn


def environment() -> dict[str, str]:
    """What a stored number depends on besides its setting: versions, processor capability, threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "cpu": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        **{name: os.environ.get(name, "") for name in REPEATABLE if name != "PYTHONHASHSEED"},
    }


def fingerprint() -> str:
    """Twelve hex digits that agree where floating point agrees bit for bit on the kernels that attacks use.

    A digest of one fixed convolution, matrix product and transcendental in float32 and float64 with their gradients,
    and of `environment()` without the Python version. Same digits: stored samples are compared seed by seed.
    """
    digest = hashlib.sha256()
    facts = environment()
    del facts["python"]
    digest.update(repr(sorted(facts.items())).encode())
    for dtype in (torch.float32, torch.float64):
        for tensor in _probe(dtype):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.enable_grad()
def _probe(dtype: torch.dtype) -> list[Tensor]:
    draw = np.random.default_rng(2503_11514)
    images, kernel, matrix = (
        torch.from_numpy(draw.standard_normal(shape)).to(dtype).requires_grad_()
        for shape in ((2, 3, 32, 32), (16, 3, 5, 5), (4096, 10))
    )
    hidden = torch.sigmoid(F.conv2d(images, kernel, stride=2, padding=2))
    loss = F.cross_entropy(hidden.flatten(1) @ matrix, torch.tensor([0, 1]))
    gradients = torch.autograd.grad(loss, [images, kernel, matrix])
    return [loss.detach(), *(gradient.contiguous() for gradient in gradients)]
