"""The images of an audit: a data set of gia, a folder of the user's pictures, or tensors, in the size of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from gia.data import NAMES, Images, load
from gia.data.pixels import stack
from gia.errors import expected_one_of

__all__ = ["images_for"]

#: Channels -> the data set that an audit takes where none is named.
SAMPLES = {1: "faces", 3: "photos"}
#: Pictures of a folder that are read; more would only make the attacker's mean image better.
MOST = 2000
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def images_for(
    data: str | Path | Images | tuple[Tensor, Tensor] | None,
    *,
    shape: tuple[int, int, int],
    classes: int,
    generator: torch.Generator,
    root: str | Path | None = None,
) -> Images:
    """Images of a shape, with labels below `classes`, in a random order.

    Args:
        data: a name of `gia.data.NAMES`; a folder of pictures, whose sub-folders are the classes where it has any;
            `Images`; images (N, C, H, W) in [0, 1] and labels (N,); None takes "photos", or "faces" for gray models.
        shape: (C, H, W). Images of another size are cut to its proportions and resized.
        classes: number of classes of the model. Labels of gia's samples are counted from 0 again where they exceed it;
            pictures of a folder without sub-folders get random labels.
        generator: draws the order, and such labels.
        root: folder of the full data sets.

    Raises ValueError for an unknown name, a folder without pictures, labels of the user that the model does not have,
    and whatever `gia.data.load` raises.
    """
    channels, height, width = shape
    name = SAMPLES.get(channels, "photos") if data is None else data
    if isinstance(name, Images):
        found = name
    elif isinstance(name, tuple):
        images, labels = name
        found = Images(
            images.detach().cpu().float(), labels.detach().cpu(), "your images", "yours", int(labels.max()) + 1
        )
    elif str(name) in NAMES:
        found = load(str(name), image_size=max(height, width), root=root)
    elif Path(name).is_dir():
        found = _folder(Path(name), shape, classes, generator)
    else:
        raise ValueError(f"{expected_one_of('data', str(name), NAMES)}, and no folder of this name exists")
    if str(name) not in NAMES and int(found.labels.max()) >= classes:
        raise ValueError(f"data: expected labels below classes={classes}, got {int(found.labels.max())}")
    images = found.images
    if images.shape[1] == 1 and channels == 3:
        images = images.repeat(1, 3, 1, 1)
    elif images.shape[1] == 3 and channels == 1:
        images = images.mean(1, keepdim=True)
    if images.shape[1] != channels:
        raise ValueError(f"data: expected images of {channels} channels, got {images.shape[1]}")
    images = _fitted(images, height, width)
    order = torch.randperm(len(images), generator=generator)
    return replace(found, images=images[order], labels=found.labels[order] % classes, num_classes=classes)


def _fitted(images: Tensor, height: int, width: int) -> Tensor:
    """The central part with the proportions of height and width, resized with antialiasing where the size differs."""
    rows, columns = images.shape[-2:]
    kept = min(rows / height, columns / width)
    tall, wide = max(1, round(height * kept)), max(1, round(width * kept))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    images = images[..., top : top + tall, left : left + wide]
    if (tall, wide) == (height, width):
        return images
    return interpolate(images, size=(height, width), mode="bilinear", antialias=True).clamp(0, 1)


def _folder(folder: Path, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> Images:
    """The pictures of a folder and its sub-folders, which are the classes where there are any."""
    channels, height, width = shape
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())[:MOST]
    if not paths:
        raise ValueError(f"data: expected a folder with pictures ({', '.join(sorted(_ENDINGS))}), got none in {folder}")
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
                pictures.append(ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"data: expected pictures that Pillow reads, got {path} ({error})") from error
    names = sorted({path.parent for path in paths} - {folder})
    if names and not any(path.parent == folder for path in paths):
        labels = torch.tensor([names.index(path.parent) for path in paths])
    else:
        labels = torch.randint(classes, (len(paths),), generator=generator)
    return Images(stack(pictures), labels, f"the pictures in {folder.name}", "yours", int(labels.max()) + 1)
