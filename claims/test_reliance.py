"""Extra reliance: does Inverting Gradients need more than gradients, model and labels? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from gia.harness.decide.counterexamples import ClaimRefuted, universal
from gia.harness.plugin.claims import Claims

SIZE = 8

#: What the attack gets beside the files. Single images behind smooth activations leak within so few steps.
SETTINGS: dict[str, Any] = {"steps": 40, "total_variation": 1e-3}

#: The median leak that the other process must reach, in decibels: an attack that returns noise repeats its bits too.
ALIVE = 3.0

DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from(["cifar10-samples", "cifar100-samples", "faces"]),
    "name": st.sampled_from(["convnet", "mlp"]),
    "activation": st.sampled_from(["tanh", "gelu", "silu"]),
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


@dataclass(frozen=True)
class Seen:
    """What one example shows.

    Attributes:
        apart: the share of values in which the two processes' images differ.
        leak: PSNR of the other process's image above the better of its best constant colour and the mean image, in dB.
    """

    apart: float
    leak: float


def seen(ask: Ask, *, source: str, name: str, activation: str, dtype: str, seed: int) -> Seen:
    """Share one image, and attack it here and in the other process."""
    data, g = load_cached(source, image_size=SIZE), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.labels), generator=g)
    victim: dict[str, Any] = {
        "name": name,
        "activation": activation,
        "width": 32,
        "num_classes": data.num_classes,
        "image_size": SIZE,
        "channels": data.images.shape[1],
    }
    model = gia.models.build(generator=g, dtype=getattr(torch, dtype), **victim)
    images = data.images.to(getattr(torch, dtype))
    image = images[chosen[:1]]
    observation = gia.share_gradient(model, image, data.labels[chosen[:1]], reveal=("labels",))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_file(model.state_dict(), folder / "model.safetensors")
        observation.save(folder / "observation.safetensors")
        answer = ask(folder, victim=victim, dtype=dtype, seed=seed, settings=SETTINGS)
        with gia.numerics.reproducible():
            here = inverting_gradients(
                model, observation, generator=torch.Generator().manual_seed(seed), **SETTINGS
            ).images
        there = answer()
    guess = gia.metrics.blind_guess(image, mean_image=images[chosen[1:]].mean(0))
    leak = float(gia.metrics.psnr(there, image) - gia.metrics.psnr(guess, image))
    return Seen(float((here != there).double().mean()), leak)


@pytest.mark.claim("op.no_reliance/2")
def test_a_process_with_nothing_but_the_observation_finds_the_same_images(claims: Claims) -> None:
    """Bit for bit, over drawn victims, images and precisions; the images are real, and the other process leaks them.

    Without a leak nothing is shown: the row is inconclusive where the median over the examples is below `ALIVE`.
    """
    claims.without_attack()
    leaks: list[float] = []

    def margin(**drawn: Any) -> float:
        found = seen(ask, **drawn)
        leaks.append(found.leak)
        if found.apart:
            raise ClaimRefuted(-found.apart)
        return 0.0

    with outsider() as ask:
        verdict = universal(claims.claim("op.no_reliance/2"), margin, DRAWN)
    middle = statistics.median(leaks)
    line = (
        f"{verdict.measured}; in the other process the attack leaks {middle:.1f} dB (median, at least {ALIVE:g} asked)"
    )
    outcome = "inconclusive" if verdict.outcome == "supported" and middle < ALIVE else verdict.outcome
    claims.record(replace(verdict, outcome=outcome, measured=line))
