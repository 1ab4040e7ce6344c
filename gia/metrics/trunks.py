"""The trained trunks of LPIPS, read from an installed package or from torchvision's files in the user's hub cache.

Nothing is downloaded, and a missing trunk is never replaced by a random one.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gia.data.assets import ASSETS, AssetError, locate
from gia.errors import expected_one_of

__all__ = ["convolutions", "read_arrays"]


@dataclass(frozen=True)
class _Trunk:
    asset: str
    tree: str
    cached: str  # torchvision's file name, which ends in the first digits of the file's SHA-256


_TRUNKS = {
    "alex": _Trunk("lpips-alex", "AlexNet_0", "alexnet-owt-7be5be79.pth"),
    "vgg": _Trunk("lpips-vgg", "VGG16_0", "vgg16-397923af.pth"),
}


def convolutions(net: str) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of a trained trunk, in order.

    Args:
        net: "alex" or "vgg".

    Returns:
        Pairs of a weight (out,in,h,w) and a bias (out,), float32.

    Raises:
        ValueError: an unknown `net`.
        FileNotFoundError: neither the package nor torchvision's file is installed; the message has the command to type.
        gia.data.assets.AssetError: a file is not the expected one.

    >>> import torch, gia
    >>> from gia.metrics.trunks import convolutions
    >>> [tuple(weight.shape) for weight, bias in convolutions("alex")]
    [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]
    """
    if net not in _TRUNKS:
        raise ValueError(expected_one_of("net", net, _TRUNKS))
    trunk = _TRUNKS[net]
    asset = ASSETS[trunk.asset]
    try:
        path = locate(asset.package, asset.patterns[0])
    except FileNotFoundError:
        cached = Path(torch.hub.get_dir(), "checkpoints", trunk.cached)
        if not cached.is_file():
            raise
        return _from_torchvision(cached)
    data = path.read_bytes()
    _check(path, data, asset.digest)
    return _from_flax(read_arrays(data)[trunk.tree])


def read_arrays(data: bytes) -> Any:
    """The content of a pickle of nested dicts of numpy arrays; nothing else is unpickled, so no code is run.

    Args:
        data: the bytes of the pickle.

    Returns:
        The dicts and arrays.

    Raises:
        pickle.UnpicklingError: the pickle holds something else.

    >>> import pickle, numpy as np
    >>> from gia.metrics.trunks import read_arrays
    >>> read_arrays(pickle.dumps({"bias": np.zeros(2)}))
    {'bias': array([0., 0.])}
    >>> read_arrays(pickle.dumps(print))
    Traceback (most recent call last):
        ...
    _pickle.UnpicklingError: data: expected numpy arrays only, got builtins.print
    """
    return _ArraysOnly(io.BytesIO(data)).load()


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that resolves three names of numpy and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"data: expected numpy arrays only, got {module}.{name}")


def _empty_array(subtype: type[np.ndarray[Any, Any]], shape: tuple[int, ...], code: bytes) -> np.ndarray[Any, Any]:
    """Do what numpy's own `_reconstruct` does, whose module has another name in numpy 2."""
    return np.ndarray.__new__(subtype, shape, code.decode())


def _from_flax(tree: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]) -> list[tuple[Tensor, Tensor]]:
    """Convert kernels from Flax's order (h,w,in,out) to torch's (out,in,h,w)."""
    layers = (tree[f"Conv_{index}"] for index in range(len(tree)))
    return [
        (torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1).contiguous(), torch.from_numpy(layer["bias"]).clone())
        for layer in layers
    ]


def _from_torchvision(path: Path) -> list[tuple[Tensor, Tensor]]:
    _check(path, path.read_bytes(), path.stem.rpartition("-")[2])
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    names = [
        name.removesuffix(".weight") for name in state if name.startswith("features.") and name.endswith(".weight")
    ]
    names.sort(key=lambda name: int(name.split(".")[1]))
    return [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]


def _check(path: Path, data: bytes, digest: str) -> None:
    got = sha256(data).hexdigest()
    if not got.startswith(digest):
        raise AssetError(f"{path.name}: expected sha256 {digest}, got {got}")
