"""A fresh process that attacks with the model as sent and the saved observation, and with nothing else.

Its folder holds job.json, a list of attacks, and for each its files N.model.safetensors and N.observation.safetensors;
the results go to N.result.safetensors, the fingerprint of its arithmetic to a file. The process is made unlike the
first one: another default dtype, no gradients by default, moved random states (and, set by the caller, another hash
seed).
"""

from __future__ import annotations

import inspect
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import interpolate

import gia


def edited(model: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
    """What a malicious server sends in place of a model: `edit` names the function and holds its settings."""
    if not edit:
        return model
    settings = dict(edit)
    function = getattr(gia.federated.server, settings.pop("name"))
    if "generator" in inspect.signature(function).parameters:
        settings["generator"] = torch.Generator().manual_seed(0)
    return function(model, **settings)


class Logistic(nn.Module):
    """A decoder that knows nothing: each pixel is the logistic function of an entry of z."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """z (N, C, H, W) -> images (N, C, H, W)."""
        return latents.sigmoid()


def auxiliary(size: int) -> torch.Tensor:
    """Images that no attack of this battery has as private ones: of CIFAR from the fifth on, and parts of photos."""
    cifar = [gia.data.load("cifar10-samples", image_size=size).images[4:]]
    cifar += [gia.data.load("cifar100-samples", image_size=size).images]
    photos = gia.data.load("photos").images
    images = torch.cat([*cifar, interpolate(photos, size=size, mode="area")])
    return torch.cat([images, images.flip(-1)])


def inverter_for(
    model: nn.Module, observation: gia.Observation, *, copies: int, **settings: Any
) -> gia.attacks.Inverter:
    """Trained on auxiliary images, each under `copies` random labels, for observations like this one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([auxiliary(observation.image_shape[1])] * copies)
    labels = torch.randint(10, (len(images),), generator=generator)
    form = {name: getattr(observation, name) for name in ("batch_size", "training", "local")}
    return gia.attacks.train_inverter(model, images, labels, generator=generator, **form, **settings)


def equipped(
    settings: Mapping[str, Any], model: nn.Module | None = None, observation: gia.Observation | None = None
) -> dict[str, Any]:
    """An attack's settings with what it is equipped with: `decoder` holds the arguments of an untrained one, or of a
    `Logistic` one, `inverter` those of `inverter_for`, which waits for a model and an observation."""
    made = dict(settings)
    if isinstance(decoder := made.get("decoder"), Mapping) and "latent_shape" in decoder:
        made["decoder"] = Logistic(**decoder)
    elif isinstance(decoder, Mapping):
        generator = torch.Generator().manual_seed(0)
        made["decoder"] = gia.models.OverParameterized(**decoder, generator=generator)
    if model is not None and observation is not None and isinstance(made.get("inverter"), Mapping):
        made["inverter"] = inverter_for(model, observation, **made["inverter"])
    return made


def main(folder: Path) -> None:
    """Do the job in `folder`."""
    torch.set_default_dtype(torch.float64)
    with gia.numerics.reproducible():
        (folder / "fingerprint").write_text(gia.numerics.fingerprint(), encoding="utf-8")
    torch.set_grad_enabled(False)
    torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002 (the global states are meant)
    for number, job in enumerate(json.loads((folder / "job.json").read_text(encoding="utf-8"))):
        generator = torch.Generator().manual_seed(1)  # of weights that the file replaces
        model = gia.models.build(generator=generator, dtype=getattr(torch, job["dtype"]), **job["victim"])
        model = edited(model, job["edit"])
        model.load_state_dict(load_file(folder / f"{number}.model.safetensors"))
        observation = gia.Observation.load(folder / f"{number}.observation.safetensors")
        with gia.numerics.reproducible():
            found = gia.attacks.ATTACKS[job["attack"]](
                model,
                observation,
                generator=torch.Generator().manual_seed(job["seed"]),
                **equipped(job["settings"], model, observation),
            )
        tensors = {"images": found.images, "labels": found.labels, "exact": found.exact}
        save_file(
            {name: value.contiguous() for name, value in tensors.items() if value is not None},
            folder / f"{number}.result.safetensors",
            metadata={"objective": repr(found.objective), "gradient_evaluations": repr(found.gradient_evaluations)},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
