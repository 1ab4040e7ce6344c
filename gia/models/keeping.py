"""Trained weights kept in a folder, under the content of all that they depend on: nothing is trained twice."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gia.numerics import fingerprint

__all__ = ["key", "read", "write"]


def key(net: nn.Module, data: Mapping[str, Tensor], settings: object, *, rooms: Collection[Path] = ()) -> str:
    """64 hex digits that change with everything that trained weights depend on.

    Args:
        net: before training: its structure, parameters, buffers, dtype, device, and the source of its classes.
        data: what it is trained and judged on.
        settings: of the training, as plain JSON.
        rooms: folders whose modules do the training; that of the models always counts.

    The arithmetic of this machine (with torch's version) and the number of threads are in it too. Raises ValueError for
    a class whose source has no file.
    """
    digest = hashlib.sha256()
    like = next(net.parameters())
    facts = [fingerprint(), torch.get_num_threads(), str(like.dtype), str(like.device), repr(net), settings]
    digest.update(json.dumps(facts).encode())
    for path in _sources(net, rooms):
        digest.update(path.read_bytes())
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name, tensor in [*tensors.items(), *data.items()]:
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Keep tensors, and facts as plain JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(dict(tensors), partial, metadata={"facts": json.dumps(facts)})
    os.replace(partial, path)  # another process sees all of the file or none


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` kept. Raises ValueError for a file that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  # it is no mapping
    except SafetensorError as error:
        raise ValueError(f"cache: {path} cannot be read ({error}); delete it") from error


def _sources(net: nn.Module, rooms: Collection[Path]) -> list[Path]:
    files = {path for room in (Path(__file__).parent, *rooms) for path in room.glob("*.py")}
    for kind in {type(module) for module in net.modules()}:
        try:
            files.add(Path(inspect.getfile(kind)))
        except (TypeError, OSError) as error:
            raise ValueError(f"cache: the source of {kind.__name__} has no file, pass cache=None") from error
    return sorted(files)
