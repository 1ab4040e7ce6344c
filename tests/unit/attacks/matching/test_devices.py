"""The step on an accelerator: the same code, and nothing in it that makes the host wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from gia import share_gradient
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine, Objective, SquaredDifferences
from gia.models import build

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here")

#: Operations after which the host holds a number, or the device one that was the host's a moment ago.
WAITING = {"_local_scalar_dense", "nonzero", "equal", "lift_fresh", "masked_select", "is_nonzero"}

OBJECTIVES: dict[str, Objective] = {
    "cosine": Cosine(),
    "weighted": SquaredDifferences(weights={"fc.weight": 2.0}),
    "subset": Cosine(layers=("body",)),
}


class Seen(TorchDispatchMode):
    """Notes the names of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def problem(objective: Objective, device: str, dtype: torch.dtype, engine: Any = None) -> Callable[[], Tensor]:
    """A step of three trials with targets of their own."""
    generator = torch.Generator().manual_seed(0)
    victim = build("convnet", num_classes=4, image_size=16, width=8, generator=generator, dtype=dtype).to(device)
    images, start = torch.rand(2, 3, 2, 3, 16, 16, generator=generator).to(device, dtype)
    labels = torch.tensor([[0, 1], [1, 2], [2, 3]], device=device)
    observations = [
        share_gradient(victim, batch, own, reveal=("labels",)) for batch, own in zip(images, labels, strict=True)
    ]
    matching = Matching(victim, observations, objective=objective, loss=cross_entropy, engine=engine)
    return lambda: matching(start, labels).images


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_never_reads_a_number_back(name: str) -> None:
    """On an accelerator each such read, or a tensor made from Python numbers, would stop the host at every step."""
    step = problem(OBJECTIVES[name], "cpu", torch.float32, "taps")
    step()  # what is made once may wait
    with (seen := Seen()):
        step()
    assert "convolution" in seen.names
    assert not seen.names & WAITING


@needs_gpu
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_device_is_never_waited_for(name: str) -> None:
    """CUDA's own word for what the test above looks for by name."""
    step = problem(OBJECTIVES[name], "cuda", torch.float32)
    step()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@needs_gpu
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_that_of_double_backward_on_the_cpu(name: str) -> None:
    """Another device, the same mathematics: 1e-10 of the norm in float64."""
    expected = problem(OBJECTIVES[name], "cpu", torch.float64, "plain")()
    found = problem(OBJECTIVES[name], "cuda", torch.float64, "taps")().cpu()
    assert (found - expected).norm() <= 1e-10 * expected.norm()
