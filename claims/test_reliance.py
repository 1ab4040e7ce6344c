"""Extra reliance: does Inverting Gradients need more than gradients, model and labels? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import gia
from gia.harness.decide.counterexamples import ClaimRefuted

SIDE = 16
images_of = lru_cache(gia.data.load)

DRAWN = {
    "source": st.sampled_from(["cifar10-samples", "cifar100-samples", "faces"]),
    "name": st.sampled_from(["convnet", "lenet", "mlp", "resnet10"]),
    "activation": st.sampled_from(["relu", "sigmoid", "gelu"]),
    "batch_size": st.integers(1, 3),
    "dtype": st.sampled_from(["float32", "float64"]),
    "seed": st.integers(0, 2**32 - 1),
}


@contextmanager
def outsider():
    """Ask a process of its own, which was started before any image was drawn, for the images it finds in a folder.

    The question is put at once and its answer waited for later, so that both processes work meanwhile.
    """
    command = [sys.executable, "-m", "claims.outsider"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(folder, **request):
            process.stdin.write(json.dumps({"folder": str(folder), **request}) + "\n")
            process.stdin.flush()

            def answer():
                if process.stdout.readline() != "done\n":
                    raise RuntimeError("the other process ended; its words stand above")
                return load_file(folder / "images.safetensors")["images"]

            return answer

        try:
            yield ask
        finally:
            process.stdin.close()


def difference(ask, *, source, name, activation, batch_size, dtype, seed):
    """0 where both processes find the same bits; a counterexample is worse by the share of pixels that differ."""
    data, g = images_of(source, image_size=SIDE), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.labels), generator=g)[:batch_size]
    victim = {"name": name, "activation": activation, "width": 8, "num_classes": data.num_classes, "image_size": SIDE}
    victim["channels"] = data.images.shape[1]
    model = gia.models.build(generator=g, dtype=getattr(torch, dtype), **victim)
    images = data.images[chosen].to(getattr(torch, dtype))
    observation = gia.share_gradient(model, images, data.labels[chosen], reveal=("labels",))
    settings = {"seed": seed, "steps": 3}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_file(model.state_dict(), folder / "model.safetensors")
        observation.save(folder / "observation.safetensors")
        answer = ask(folder, victim=victim, dtype=dtype, **settings)
        with gia.numerics.reproducible():
            here = gia.attacks.ATTACKS["inverting_gradients"](
                model, observation, generator=torch.Generator().manual_seed(seed), steps=settings["steps"]
            ).images
        there = answer()
    apart = float((here != there).double().mean())
    if apart:
        raise ClaimRefuted(-apart)
    return 0.0


@pytest.mark.claim("op.no_reliance")
def test_a_process_with_nothing_but_the_observation_finds_the_same_images(claims):
    """Bit for bit, over drawn victims, images, batch sizes and precisions; the images are real."""
    with outsider() as ask:
        claims.universal("op.no_reliance", lambda **drawn: difference(ask, **drawn), DRAWN)
