"""The paper's data sets, read through torchvision from the user's folder and never downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from gia.data.images import Images, first_of_each_class
from gia.data.pixels import stack, to_square

# torchvision is imported inside functions, because it imports torch's compiler, which takes as long as torch itself.

__all__ = ["FULL", "FullSet", "Split", "full_digest", "in_place_of_samples", "load_full"]

Split = Literal["train", "test"]

_CELEBRITIES = 1000  # the paper uses the first thousand celebrities of CelebA and labels images by celebrity


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """The labels of all pictures of a set, a function that opens one picture, and one that reads its bytes."""

    labels: list[int]
    picture: Callable[[int], Image.Image]
    content: Callable[[int], bytes]
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class FullSet:
    """A data set that the user provides.

    Attributes:
        title: what it is, as results name it.
        folder: its folder below the root.
        layout: the files that are expected in the folder, in words.
        licence: terms of use.
        command: how to get it, as a command or in words.
        image_size: height and width in pixels if `load` is given none.
        per_class: number of images of each class if `load` is given none; None is all.
        splits: whether it has a train and a test split.
        read: (root, split) -> its labels and pictures.

    >>> from gia.data.full import FULL
    >>> FULL["celeba"].folder, FULL["celeba"].image_size, FULL["celeba"].splits
    ('celeba', 64, False)
    """

    title: str
    folder: str
    layout: str
    licence: str
    command: str
    image_size: int
    per_class: int | None
    splits: bool
    read: Callable[[Path, Split], _Listing]


def load_full(name: str, root: Path, *, image_size: int | None, split: Split | None, per_class: int | None) -> Images:
    """Read one of `FULL`; `gia.data.load` documents the arguments, the result and the errors.

    >>> from pathlib import Path
    >>> from gia.data.full import load_full
    >>> load_full("celeba", Path("data"), image_size=None, split="train", per_class=None)
    Traceback (most recent call last):
        ...
    ValueError: split: expected None for celeba, which has no splits, got 'train'
    """
    spec, listing = FULL[name], _read(name, root, split)
    chosen = first_of_each_class(listing.labels, per_class or spec.per_class)
    size = spec.image_size if image_size is None else image_size
    part = f", {split or 'test'} split" if spec.splits else ""
    return Images(
        images=stack([to_square(listing.picture(index), size) for index in chosen]),
        labels=torch.tensor([listing.labels[index] for index in chosen]),
        source=f"{spec.title}{part}, {len(chosen)} images",
        licence=spec.licence,
        num_classes=listing.num_classes,
    )


def in_place_of_samples(root: Path) -> dict[str, str]:
    """Name of each bundled sample -> the full set that it was taken from, for the full sets with a folder in `root`.

    >>> from pathlib import Path
    >>> from gia.data.full import in_place_of_samples
    >>> in_place_of_samples(Path("nowhere"))
    {}
    """
    samples = {f"{name}-samples": name for name in ("cifar10", "cifar100", "imagenet")}
    return {sample: name for sample, name in samples.items() if (root / FULL[name].folder).is_dir()}


def full_digest(name: str, root: Path) -> str:
    """SHA-256 of the labels and pictures that `load_full` takes where it is given neither split nor number.

    >>> from pathlib import Path
    >>> from gia.data.full import full_digest
    >>> full_digest("celeba", Path("nowhere"))
    Traceback (most recent call last):
        ...
    FileNotFoundError: root: expected nowhere/celeba with ..., got no such folder; to get CelebA, ...
    """
    listing = _read(name, root, None)
    digest = sha256()
    for index in first_of_each_class(listing.labels, FULL[name].per_class):
        content = listing.content(index)
        digest.update(f"{listing.labels[index]} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _read(name: str, root: Path, split: Split | None) -> _Listing:
    spec = FULL[name]
    expected = f"root: expected {root / spec.folder} with {spec.layout}"
    if split is not None and not spec.splits:
        raise ValueError(f"split: expected None for {name}, which has no splits, got {split!r}")
    if not (root / spec.folder).is_dir():
        raise FileNotFoundError(f"{expected}, got no such folder; to get {spec.title}: {spec.command}")
    try:
        return spec.read(root, split or "test")
    except (RuntimeError, FileNotFoundError) as error:  # torchvision raises these for missing and for changed files
        raise FileNotFoundError(f"{expected}, got {error!r}; to get {spec.title}: {spec.command}") from error


def _cifar(name: str) -> Callable[[Path, Split], _Listing]:
    def read(root: Path, split: Split) -> _Listing:
        from torchvision import datasets

        data: Any = getattr(datasets, name)(root, train=split == "train", download=False)
        return _Listing(
            labels=data.targets,
            picture=lambda index: Image.fromarray(data.data[index]),
            content=lambda index: data.data[index].tobytes(),
            num_classes=len(data.classes),
        )

    return read


def _celeba(root: Path, split: Split) -> _Listing:
    from torchvision import datasets

    data: Any = datasets.CelebA(root, split="all", target_type="identity", download=False)
    identities = data.identity[:, 0].tolist()
    chosen = [index for index, identity in enumerate(identities) if identity <= _CELEBRITIES]
    paths = [root / "celeba" / "img_align_celeba" / data.filename[index] for index in chosen]
    return _Listing(
        labels=[identities[index] - 1 for index in chosen],
        picture=lambda index: _open(paths[index]),
        content=lambda index: paths[index].read_bytes(),
        num_classes=_CELEBRITIES,
    )


def _imagenet(root: Path, split: Split) -> _Listing:
    from torchvision import datasets

    data: Any = datasets.ImageFolder(root / "imagenet" / ("train" if split == "train" else "val"))
    return _Listing(
        labels=data.targets,
        picture=lambda index: _open(data.samples[index][0]),
        content=lambda index: Path(data.samples[index][0]).read_bytes(),
        num_classes=len(data.classes),
    )


def _open(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _by_torchvision(name: str) -> str:
    return f"python -c \"import torchvision; torchvision.datasets.{name}('ROOT', download=True)\""


#: Name -> the data set that the user provides under this name.
FULL: Mapping[str, FullSet] = {
    "cifar10": FullSet(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        layout="data_batch_1 .. 5, test_batch, batches.meta",
        licence="no stated licence; cite Krizhevsky, 2009",
        command=_by_torchvision("CIFAR10"),
        image_size=32,
        per_class=None,
        splits=True,
        read=_cifar("CIFAR10"),
    ),
    "cifar100": FullSet(
        title="CIFAR-100",
        folder="cifar-100-python",
        layout="train, test, meta",
        licence="no stated licence; cite Krizhevsky, 2009",
        command=_by_torchvision("CIFAR100"),
        image_size=32,
        per_class=None,
        splits=True,
        read=_cifar("CIFAR100"),
    ),
    "celeba": FullSet(
        title="CelebA, first 1000 celebrities",
        folder="celeba",
        layout="img_align_celeba/*.jpg and the five lists identity_CelebA.txt, list_*.txt",
        licence="non-commercial research only",
        command=_by_torchvision("CelebA"),
        image_size=64,
        per_class=None,
        splits=False,
        read=_celeba,
    ),
    "imagenet": FullSet(
        title="ImageNet",
        folder="imagenet",
        layout="val/<synset>/*.JPEG (and train/<synset>/*.JPEG for split='train')",
        licence="non-commercial research only; by registration",
        command="register at image-net.org; unpack the 2012 validation images into ROOT/imagenet/val/<synset>/",
        image_size=224,
        per_class=1,
        splits=True,
        read=_imagenet,
    ),
}
