"""A cache of trained networks: files in a folder, named by a digest of everything that the weights depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gia.numerics import fingerprint, replacing

__all__ = ["key", "read", "write"]


def key(net: nn.Module, data: Mapping[str, Tensor], settings: object, *, folders: Collection[Path] = ()) -> str:
    """SHA-256, as 64 hex digits, of everything that trained weights depend on.

    That includes the arithmetic of this machine, with torch's version, and the number of threads.

    Args:
        net: the network before training. Its structure, parameters, buffers, dtype and device count, and the source of
            its classes.
        data: name -> tensor of the training and held-out data.
        settings: of the training, as plain JSON.
        folders: folders whose modules do the training; the folder of `gia.models` always counts.

    Raises:
        ValueError: the source of a class has no file.

    >>> import torch
    >>> from gia.models import cached_net
    >>> net, data = torch.nn.Linear(2, 1), {"images": torch.zeros(3, 2)}
    >>> cached_net.key(net, data, {"lr": 0.1}) == cached_net.key(net, data, {"lr": 0.2})
    False
    """
    digest = hashlib.sha256()
    like = next(net.parameters())
    facts = [fingerprint(), torch.get_num_threads(), str(like.dtype), str(like.device), repr(net), settings]
    digest.update(json.dumps(facts).encode())
    for path in _sources(net, folders):
        digest.update(path.read_bytes())
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name, tensor in [*tensors.items(), *data.items()]:
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write one safetensors file, and its folder if there is none.

    Args:
        path: the file; another process sees the complete file or none.
        tensors: name -> tensor on the CPU.
        facts: what else to store, as plain JSON.

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from gia.models import cached_net
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.safetensors"
    ...     cached_net.write(path, {"weight": torch.ones(1)}, {"accuracy": 0.5})
    ...     cached_net.read(path)
    ({'weight': tensor([1.])}, {'accuracy': 0.5})
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(dict(tensors), partial, metadata={"facts": json.dumps(facts)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file that `write` made; see there for an example.

    Raises:
        ValueError: the file cannot be read, for example because it is damaged.
        FileNotFoundError: no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get("facts", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if not isinstance(facts, dict):
            raise ValueError(f"facts: expected an object, got {facts!r}")
        return tensors, facts
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"cache: expected a readable file, got {path} ({error}); delete it") from error


def _sources(net: nn.Module, folders: Collection[Path]) -> list[Path]:
    files = {path for folder in (Path(__file__).parent, *folders) for path in folder.glob("*.py")}
    for kind in {type(module) for module in net.modules()}:
        try:
            files.add(Path(inspect.getfile(kind)))
        except (TypeError, OSError) as error:
            raise ValueError(
                f"cache: expected classes with a source file, got {kind.__name__}, which has none; pass cache=None"
            ) from error
    return sorted(files)
