"""A cache of trained networks: files in a folder, named by a digest of everything that the weights depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gia.numerics import fingerprint, private_folder, replacing

__all__ = ["find", "keep", "key", "read", "write"]


def key(net: nn.Module, data: Mapping[str, Tensor], settings: object, *, folders: Collection[Path] = ()) -> str:
    """SHA-256, as 64 hex digits, of everything that trained weights depend on.

    That includes the arithmetic of this machine, with torch's version, and the number of threads. If a source file was
    edited after this process imported gia, the code that runs may be older than the file: the key is then one that no
    other process gets.

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
        if path.stat().st_mtime_ns > _IMPORTED:
            digest.update(_PROCESS)
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name, tensor in [*tensors.items(), *data.items()]:
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def keep(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write one file of a cache, which `find` gives back; its folder is made if there is none.

    Args:
        path: the file, whose name holds the key. Only the user may read it; another process sees the complete file or
            none.
        tensors: name -> tensor on the CPU.
        facts: what else to store, as plain JSON.

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from gia.models import cached_net
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.safetensors"
    ...     cached_net.keep(path, {"weight": torch.ones(1)}, {"accuracy": 0.5})
    ...     cached_net.find(path)
    ({'weight': tensor([1.])}, {'accuracy': 0.5})
    """
    private_folder(path.parent)
    with replacing(path, private=True) as partial:
        _save(partial, tensors, facts, name=path.name)


def find(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and facts of a file that `keep` made under this name, or None where it must be computed.

    A file that is damaged, or was made under another name, is not used: the logger "gia.cache" gets a warning.

    >>> from pathlib import Path
    >>> from gia.models import cached_net
    >>> cached_net.find(Path("no such file")) is None
    True
    """
    try:
        content = _load(path, name=path.name)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _LOG.warning(f"trained net {path.name} is damaged ({error}); it is trained again")
        return None
    with suppress(OSError):
        os.utime(path)  # the cache forgets what was not used for long
    return content


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write one safetensors file for the user, who may give it another name; else as `keep`.

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
        _save(partial, tensors, facts, name="")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file that `write` made; see there for an example.

    Raises:
        ValueError: the file cannot be read, for example because it is damaged.
        FileNotFoundError: no such file.
    """
    try:
        return _load(path, name="")
    except ValueError as error:
        raise ValueError(f"path: expected a readable file, got {path} ({error})") from error


_LOG = logging.getLogger("gia.cache")

_IMPORTED = time.time_ns()
_PROCESS = secrets.token_bytes(16)


def _save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, name: str) -> None:
    told = json.dumps(facts)
    save_file(dict(tensors), path, metadata={"facts": told, "sha256": _checksum(tensors, told, name)})


def _load(path: Path, *, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises FileNotFoundError, and ValueError for any other content than `_save` wrote under this name."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("sha256") != _checksum(tensors, metadata.get("facts", ""), name):
            raise ValueError("its checksum does not fit its content")
        facts = json.loads(metadata["facts"])
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(facts, dict):
        raise ValueError(f"facts: expected an object, got {facts!r}")
    return tensors, facts


def _checksum(tensors: Mapping[str, Tensor], facts: str, name: str) -> str:
    digest = hashlib.sha256(json.dumps([name, facts]).encode())
    for each in sorted(tensors):
        digest.update(repr((each, tensors[each].dtype, tuple(tensors[each].shape))).encode())
        digest.update(tensors[each].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
