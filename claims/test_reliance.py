"""Extra reliance: does Inverting Gradients need more than gradients, model and labels? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import gia
from gia.attacks import inverting_gradients
from gia.data import load_cached
from gia.harness.decide.counterexamples import ClaimRefuted
from gia.harness.plugin.claims import Claims

SIZE = 16

DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from(["cifar10-samples", "cifar100-samples", "faces"]),
    "name": st.sampled_from(["convnet", "lenet", "mlp", "resnet10"]),
    "activation": st.sampled_from(["relu", "sigmoid", "gelu"]),
    "batch_size": st.integers(1, 3),
    "dtype": st.sampled_from(["float32", "float64"]),
    "seed": st.integers(0, 2**32 - 1),
}

#: (folder, **request) -> a function that waits for the answer.
Ask = Callable[..., Callable[[], Tensor]]


@contextmanager
def outsider() -> Iterator[Ask]:
    """Ask another process, which was started before any image was drawn, for the images it finds in a folder.

    The question is put at once and its answer waited for later, so that both processes work meanwhile.
    """
    command = [sys.executable, "-m", "claims.outsider"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def ask(folder: Path, **request: Any) -> Callable[[], Tensor]:
            questions.write(json.dumps({"folder": str(folder), **request}) + "\n")
            questions.flush()

            def answer() -> Tensor:
                if answers.readline() != "done\n":
                    raise RuntimeError("the other process ended; its message is above")
                return load_file(folder / "images.safetensors")["images"]

            return answer

        try:
            yield ask
        finally:
            questions.close()


def difference(ask: Ask, *, source: str, name: str, activation: str, batch_size: int, dtype: str, seed: int) -> float:
    """0 where both processes find the same bits; a counterexample is worse by the share of pixels that differ."""
    data, g = load_cached(source, image_size=SIZE), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.labels), generator=g)[:batch_size]
    victim: dict[str, Any] = {
        "name": name,
        "activation": activation,
        "width": 8,
        "num_classes": data.num_classes,
        "image_size": SIZE,
        "channels": data.images.shape[1],
    }
    model = gia.models.build(generator=g, dtype=getattr(torch, dtype), **victim)
    images = data.images[chosen].to(getattr(torch, dtype))
    observation = gia.share_gradient(model, images, data.labels[chosen], reveal=("labels",))
    steps = 3
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_file(model.state_dict(), folder / "model.safetensors")
        observation.save(folder / "observation.safetensors")
        answer = ask(folder, victim=victim, dtype=dtype, seed=seed, steps=steps)
        with gia.numerics.reproducible():
            here = inverting_gradients(
                model, observation, generator=torch.Generator().manual_seed(seed), steps=steps
            ).images
        there = answer()
    apart = float((here != there).double().mean())
    if apart:
        raise ClaimRefuted(-apart)
    return 0.0


@pytest.mark.claim("op.no_reliance")
def test_a_process_with_nothing_but_the_observation_finds_the_same_images(claims: Claims) -> None:
    """Bit for bit, over drawn victims, images, batch sizes and precisions; the images are real."""
    with outsider() as ask:
        claims.universal("op.no_reliance", lambda **drawn: difference(ask, **drawn), DRAWN)
