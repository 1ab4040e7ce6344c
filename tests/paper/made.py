"""Small data sets of noise in the layout of the real ones, as torchvision reads them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets


def pixels(count: int, size: int, seed: int) -> np.ndarray:
    """Random 8-bit pixels (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def cifar(root: Path, *, each: int = 40) -> None:
    """CIFAR-10 and CIFAR-100, whose test splits have at least four images of each class."""
    for name, test, files, key, classes in (
        ("CIFAR10", "test_batch", [f"data_batch_{i}" for i in range(1, 6)], "labels", 10),
        ("CIFAR100", "test", ["train"], "fine_labels", 100),
    ):
        kind = getattr(datasets, name)
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        for file in (test, *files):
            labels = [label for label in range(classes) for _ in range(max(4, each * 10 // classes))]
            images = pixels(len(labels), 32, len(file)).transpose(0, 3, 1, 2).reshape(len(labels), -1)
            (folder / file).write_bytes(pickle.dumps({"data": images, key: labels}))
        names = [f"class {i}" for i in range(classes)]
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))


def celeba(root: Path, *, celebrities: int = 180, each: int = 3) -> None:
    """CelebA with a few pictures of each celebrity."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    identities = [identity for identity in range(1, celebrities + 1) for _ in range(each)]
    names = [f"{number:06d}.jpg" for number in range(1, len(identities) + 1)]
    for name, image in zip(names, pixels(len(names), 8, 0), strict=True):
        Image.fromarray(image).resize((178, 218)).save(folder / "img_align_celeba" / name)
    lines = {
        "identity_CelebA": [f"{name} {identity}" for name, identity in zip(names, identities, strict=True)],
        "list_eval_partition": [f"{name} {number % 3}" for number, name in enumerate(names)],
    }
    for lists, columns in (("bbox", 4), ("landmarks_align", 10), ("attr", 40)):
        header = [str(len(names)), " ".join(f"c{column}" for column in range(columns))]
        lines[f"list_{lists}_celeba"] = header + [f"{name} {' '.join(['1'] * columns)}" for name in names]
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n", encoding="utf-8")


def imagenet(root: Path, *, synsets: int = 200) -> None:
    """ImageNet's validation images, one of each synset."""
    for number, image in enumerate(pixels(synsets, 8, 1)):
        folder = root / "imagenet" / "val" / f"n{number:08d}"
        folder.mkdir(parents=True)
        Image.fromarray(image).resize((256, 230)).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
