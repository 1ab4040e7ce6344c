"""Arithmetic that can be repeated: threads and flags, and a fingerprint of floating point on this machine."""

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

#: Environment variables that must be set *before* torch is imported, so that float32 repeats on like processors,
#: whatever their instruction sets. Without them the same seed gives visibly different images there. An AMD and an Intel
#: round differently all the same (baselines/README.md).
REPEATABLE = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2,STRICT",
    "PYTHONHASHSEED": "0",
}


@contextmanager
def reproducible(*, threads: int = 1) -> Iterator[None]:
    """Run the body of a `with` statement with deterministic algorithms in full precision, then restore every flag.

    The global random state is neither read nor changed.

    Args:
        threads: number of torch threads, at least 1. One is the default because a second busy thread on shared cores
            can make a run many times slower.

    Raises:
        TypeError: `threads` is not an int.
        ValueError: `threads` is below 1.

    >>> import torch
    >>> from gia.numerics import reproducible
    >>> with reproducible(threads=1):
    ...     torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    (1, True)
    """
    if not isinstance(threads, int):
        raise TypeError(f"threads: expected an int, got {threads!r}")
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
        # The same as torch.use_deterministic_algorithms(True), which would also import torch's compiler for seconds.
        torch.set_deterministic_debug_mode("error")
        # Otherwise every new buffer is filled with NaN first, which takes time; no code here reads such memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it in deterministic mode
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
    """Compute float32 in float32: no TF32 and no bfloat16 in products and convolutions, on a GPU or (oneDNN) a CPU.

    torch stores this in two sets of switches. The old ones cover only some operations, and since torch 2.9 reading
    them raises RuntimeError if the new ones (`fp32_precision`, one per kind of operation) disagree. Therefore both are
    set, and both are restored.
    """
    places = [place for path in _PRECISION if (place := _at(path)) is not None]
    new = [place.fp32_precision for place in places]
    matmul = cudnn = None
    with suppress(RuntimeError):  # the user has mixed old and new switches: no old value exists that could be restored
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
    """The object in torch.backends that holds this precision, or None if this version of torch has none."""
    kind, operation = path.split(".")
    place = getattr(getattr(torch.backends, kind), operation, None)
    return place if hasattr(place, "fp32_precision") else None


def _set_old(*, matmul: str | None, cudnn: bool | None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings")  # torch 2.9 warns once
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn


def environment() -> dict[str, str]:
    """Versions, processor capability and threads: what a stored number depends on in addition to its settings.

    Returns:
        Name to value, both strings.

    >>> from gia.numerics import environment
    >>> sorted(environment())[:4]
    ['ATEN_CPU_CAPABILITY', 'MKL_CBWR', 'OMP_NUM_THREADS', 'ONEDNN_MAX_CPU_ISA']
    """
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
    """Twelve hex digits that are equal on two machines if floating point agrees bit for bit in the kernels of attacks.

    Stored samples are compared seed by seed only where the fingerprints are equal. The digest covers one fixed
    convolution, matrix product and transcendental function in float32 and float64 with their gradients, products of odd
    shapes whose operands begin at any address, and `environment()` without the versions of Python and torchvision.

    Returns:
        Twelve lower-case hex digits.

    >>> from gia.numerics import fingerprint
    >>> fingerprint() == fingerprint()
    True
    """
    digest = hashlib.sha256()
    facts = environment()
    del facts["python"], facts["torchvision"]
    digest.update(repr(sorted(facts.items())).encode())
    for dtype in (torch.float32, torch.float64):
        for tensor in _sample_computation(dtype):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.enable_grad()
def _sample_computation(dtype: torch.dtype) -> list[Tensor]:
    """A loss and its gradients, computed with the kernels that attacks use."""
    draw = np.random.default_rng(2503_11514)
    images, kernel, matrix = (
        torch.from_numpy(draw.standard_normal(shape)).to(dtype).requires_grad_()
        for shape in ((2, 3, 32, 32), (16, 3, 5, 5), (4096, 10))
    )
    hidden = torch.sigmoid(F.conv2d(images, kernel, stride=2, padding=2))
    loss = F.cross_entropy(hidden.flatten(1) @ matrix, torch.tensor([0, 1]))
    gradients = torch.autograd.grad(loss, [images, kernel, matrix])
    return [loss.detach(), *(gradient.contiguous() for gradient in gradients), *_odd_products(dtype)]


def _odd_products(dtype: torch.dtype) -> list[Tensor]:
    """Products of odd shapes with operands at unaligned addresses: where MKL's kernels differ most."""
    draw = np.random.default_rng(2503_11514)
    products = []
    for rows, inner, columns in ((7, 129, 33), (3, 77, 5), (31, 1023, 65)):
        for shift in (0, 1, 3):
            left, right = (
                torch.from_numpy(draw.standard_normal(shift + height * width)).to(dtype)[shift:].view(height, width)
                for height, width in ((rows, inner), (columns, inner))
            )
            products += [left @ right.T, torch.mv(left, right[0])]
    return products
