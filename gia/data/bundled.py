"""Real images that packages on PyPI contain: small samples of known sets, faces, photos, digits."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gia.data import assets
from gia.data.images import Images
from gia.data.pixels import stack, to_square

__all__ = ["BUNDLED"]

# The region of each photo from which crops are cut: (left, top, right, bottom). Most of the rocket photo is empty sky.
_REGIONS = {
    "astronaut": (0, 0, 512, 512),
    "chelsea": (0, 0, 451, 300),
    "coffee": (0, 0, 600, 400),
    "rocket": (180, 127, 500, 427),
}
_ROWS, _COLUMNS = 4, 6
_LARGEST_CROP = 300


def _samples(name: str, num_classes: int, size: int | None) -> Images:
    # foolbox names its files SET_INDEX_LABEL.png.
    paths = assets.files(name)
    labels = [int(path.stem.split("_")[2]) for path in paths]
    return _images(name, (_open(path, "RGB") for path in paths), labels, num_classes, size)


def _faces(size: int | None) -> Images:
    # sN/M.pgm: picture M of person N.
    paths = sorted(assets.files("faces"), key=lambda path: (int(path.parent.name[1:]), int(path.stem)))
    labels = [int(path.parent.name[1:]) - 1 for path in paths]
    return _images("faces", (_open(path, "L") for path in paths), labels, 40, size)


def _photos(size: int | None) -> Images:
    size = 32 if size is None else size
    if size > _LARGEST_CROP:
        raise ValueError(f"image_size: expected at most {_LARGEST_CROP} for photos, got {size}")
    photos = [_open(path, "RGB").crop(_REGIONS[path.stem]) for path in assets.files("photos")]
    crops = [_crop(photo, row, column, size) for row in range(_ROWS) for column in range(_COLUMNS) for photo in photos]
    labels = list(range(len(photos))) * (_ROWS * _COLUMNS)
    return _images("photos", crops, labels, len(photos), size)


def _crop(photo: Image.Image, row: int, column: int, size: int) -> Image.Image:
    # Crop i shows about the same place at every size, because its window has the same relative position.
    window = max(size, 5 * min(photo.size) // 8)
    left = round((photo.width - window) * column / (_COLUMNS - 1))
    top = round((photo.height - window) * row / (_ROWS - 1))
    return photo.crop((left, top, left + window, top + window))


def _digits(size: int | None) -> Images:
    # Each line has 64 values in 0 .. 16 and the label. Values are quantized to 8 bits, as in all other images.
    with gzip.open(assets.files("digits")[0], "rt", encoding="utf-8") as text:
        table = np.loadtxt(text, delimiter=",")
    pixels = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _images("digits", map(Image.fromarray, pixels), table[:, -1].astype(int).tolist(), 10, size)


def _open(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)


def _images(name: str, pictures: Iterable[Image.Image], labels: list[int], classes: int, size: int | None) -> Images:
    return Images(
        images=stack([picture if size is None else to_square(picture, size) for picture in pictures]),
        labels=torch.tensor(labels),
        source=assets.ASSETS[name].title,
        licence=assets.ASSETS[name].licence,
        num_classes=classes,
    )


#: Name -> the function that loads the set at an image size, None for the native or default size.
BUNDLED: Mapping[str, Callable[[int | None], Images]] = {
    "cifar10-samples": lambda size: _samples("cifar10-samples", 10, size),
    "cifar100-samples": lambda size: _samples("cifar100-samples", 100, size),
    "imagenet-samples": lambda size: _samples("imagenet-samples", 1000, 224 if size is None else size),
    "faces": _faces,
    "photos": _photos,
    "digits": _digits,
}
