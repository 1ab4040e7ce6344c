"""Gradients that were captured elsewhere: files of safetensors, torch and NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gia.federated import LocalTraining, Observation

__all__ = ["observation_from"]

#: What readers raise about a damaged file.
_DAMAGED = (
    SafetensorError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,
    UnpicklingError,
    BadZipFile,
)
#: What wrappers put in front of the names of parameters.
_PREFIXES = ("module.", "_orig_mod.")


def observation_from(
    path: str | Path,
    model: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    batch_size: int,
    training: bool,
    local: LocalTraining | None = None,
    labels: Tensor | None = None,
) -> Observation:
    """The observation in a file.

    Args:
        path: what `Observation.save` wrote, which is taken as it is; or tensors by name or in the order of the shared
            parameters, in a file of safetensors (`.safetensors`), of torch (`.pt`, `.pth`, loaded with
            `weights_only=True`) or of NumPy (`.npz`, such as `numpy.savez(path, *arrays)` of what Flower sends).
            Names may have the prefixes of `DataParallel` and `torch.compile`.
        model: as it was sent.
        image_shape, batch_size, training, local, labels: what is assumed of the client.

    Raises ValueError for a file that is none of these or does not fit the model, FileNotFoundError for none.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"gradient: expected a file, got {path}")
    readers = {".safetensors": _safetensors, ".pt": _torch, ".pth": _torch, ".npz": _numpy}
    if file.suffix not in readers:
        raise ValueError(f"gradient: expected a file that ends in one of {list(readers)}, got {path}")
    try:
        found = readers[file.suffix](file)
    except _DAMAGED as error:
        raise ValueError(f"gradient: expected a readable file of tensors, got {path} ({error})") from error
    if isinstance(found, Observation):
        observation = found
    else:
        observation = Observation.from_tensors(
            model,
            _plain(found, model),
            image_shape=image_shape,
            batch_size=batch_size,
            training=training,
            labels=labels,
            local=local,
        )
    observation = observation.to(next(model.parameters()).device)
    observation.check(model)
    return observation


def _plain(found: Any, model: nn.Module) -> Any:
    """Tensors by name without prefixes, or a list; those of the model's dtype and on its device."""
    like = next(model.parameters())

    def converted(value: Any) -> Any:
        tensor = torch.as_tensor(value)
        return tensor.to(like) if tensor.is_floating_point() else tensor

    if not isinstance(found, Mapping):
        if not isinstance(found, list | tuple):
            raise ValueError(f"gradient: expected tensors by name or a list of them, got {type(found).__name__}")
        return [converted(value) for value in found]
    named = {_stripped(str(name)): converted(value) for name, value in found.items()}
    names = set(dict(model.named_parameters()))
    return named if names & set(named) else list(named.values())


def _stripped(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _safetensors(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        if "gia" in (file.metadata() or {}):
            return Observation.load(path)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _numpy(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
