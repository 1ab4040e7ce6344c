"""The paper's data sets through torchvision, read from small folders that the tests make."""

import pickle
import re
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from gia import data
from gia.data import assets, contents
from gia.data.contents import content_digest
from gia.data.full import full_digest


def noise(count, size, seed=0):
    """Random 8-bit pixels (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Both CIFAR layouts with 12 test and 5 x 4 training images; their digests cannot be the real ones."""
    for name, files, key, classes in (
        ("CIFAR10", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], "labels", 10),
        ("CIFAR100", ["train", "test"], "fine_labels", 100),
    ):
        kind = getattr(datasets, name)
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        for file in files:
            count = 12 if "test" in file else 4
            pixels = noise(count, 32, seed=len(file)).transpose(0, 3, 1, 2).reshape(count, -1)
            (folder / file).write_bytes(pickle.dumps({"data": pixels, key: [i % 6 for i in range(count)]}))
        names = [f"class {i}" for i in range(classes)]
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
        monkeypatch.setitem(kind.meta, "md5", None)
    return tmp_path


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    """CelebA's layout with five pictures, one of them of celebrity 1001."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 6)]
    for name, identity in zip(names, range(5), strict=True):
        Image.new("RGB", (178, 218), (50 * identity, 0, 0)).save(folder / "img_align_celeba" / name)
    (folder / "identity_CelebA.txt").write_text(
        "".join(f"{n} {i}\n" for n, i in zip(names, (7, 1, 1001, 7, 1000), strict=True)), encoding="utf-8"
    )
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{n} {i % 3}\n" for i, n in enumerate(names)), encoding="utf-8"
    )
    for lists, columns in (("bbox", 4), ("landmarks_align", 10), ("attr", 40)):
        header = f"5\n{' '.join(f'c{i}' for i in range(columns))}\n"
        rows = "".join(f"{n} {' '.join(['1'] * columns)}\n" for n in names)
        (folder / f"list_{lists}_celeba.txt").write_text(header + rows, encoding="utf-8")
    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)
    return tmp_path


@pytest.fixture
def imagenet(tmp_path):
    """Three synsets with two validation pictures each, landscape and portrait."""
    for label, synset in enumerate(("n01440764", "n01443537", "n01484850")):
        folder = tmp_path / "imagenet" / "val" / synset
        folder.mkdir(parents=True)
        for i, size in enumerate(((300, 260), (230, 400))):
            Image.new("RGB", size, (80 * label, 100 * i, 0)).save(folder / f"ILSVRC2012_val_{i}.JPEG")
    return tmp_path


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_read_from_the_folder_of_the_user(cifar, name, classes):
    """If this fails, the paper's CIFAR cannot be used, or its train and test images are mixed up."""
    test = data.load(name, root=cifar)
    pixels = noise(12, 32, seed=len("test_batch" if name == "cifar10" else "test"))
    assert torch.equal((test.images * 255).round().to(torch.uint8), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert test.labels.tolist() == [i % 6 for i in range(12)]
    assert test.num_classes == classes
    assert "test split, 12 images" in test.source
    assert len(data.load(name, root=cifar, split="train")) == (20 if name == "cifar10" else 4)
    small = data.load(name, root=str(cifar), image_size=16, per_class=1)
    assert small.images.shape == (6, 3, 16, 16)


def test_celeba_keeps_the_first_thousand_celebrities(celeba):
    """If this fails, identities are shifted or celebrities beyond the paper's thousand come in."""
    faces = data.load("celeba", root=celeba)
    assert faces.images.shape == (4, 3, 64, 64)
    assert faces.labels.tolist() == [6, 0, 6, 999]
    assert faces.num_classes == 1000
    # The pictures were painted with red 0, 50, 150, 200 (the third one is left out); JPEG changes them a little.
    assert (faces.images[:, 0].mean((1, 2)) * 255 - torch.tensor([0.0, 50, 150, 200])).abs().max() < 4


def test_imagenet_gives_one_image_of_each_class_unless_more_are_asked_for(imagenet):
    """If this fails, loading ImageNet fills the memory, or classes are not numbered in the order of synsets."""
    one = data.load("imagenet", root=imagenet)
    assert one.images.shape == (3, 3, 224, 224)
    assert one.labels.tolist() == [0, 1, 2]
    two = data.load("imagenet", root=imagenet, image_size=64, per_class=2)
    assert two.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (two.images[:, 0].mean((1, 2)) * 255 - torch.tensor([0.0, 0, 80, 80, 160, 160])).abs().max() < 4


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "celeba", "imagenet"])
def test_an_absent_set_says_which_folder_was_expected_and_how_to_get_it(name, tmp_path):
    """If this fails, a user with another layout has to read the code."""
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}.get(name, name)
    message = re.escape(f"root: expected {tmp_path / folder} with ") + ".*, got no such folder; to get .*: .+"
    with pytest.raises(FileNotFoundError, match=message):
        data.load(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing may be downloaded"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "celeba", "imagenet"])
def test_an_incomplete_set_is_refused(name, tmp_path):
    """If this fails, a changed or half-copied set passes as the paper's: torchvision's own digests stay switched on."""
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}.get(name, name)
    (tmp_path / folder).mkdir()
    with pytest.raises(FileNotFoundError, match=r"root: expected .*, got (RuntimeError|FileNotFoundError)"):
        data.load(name, root=tmp_path)


def test_a_set_without_splits_refuses_one(celeba):
    """If this fails, split='train' of CelebA silently gives all images."""
    with pytest.raises(ValueError, match="split: expected None for celeba"):
        data.load("celeba", root=celeba, split="train")


def test_the_digest_of_a_full_set_is_that_of_the_images_and_labels_that_are_taken(cifar, celeba, imagenet):
    """If this fails, results of replaced images are served from a store, or an unread file costs every result."""
    digests = {name: full_digest(name, cifar) for name in ("cifar10", "cifar100", "celeba", "imagenet")}
    assert len(set(digests.values())) == 4
    expected = sha256()
    for index, pixels in enumerate(noise(12, 32, seed=len("test_batch"))):
        expected.update(f"{index % 6} {32 * 32 * 3}\n".encode() + pixels.tobytes())
    assert digests["cifar10"] == expected.hexdigest()
    folder = imagenet / "imagenet" / "val" / "n01440764"
    (folder / "ILSVRC2012_val_1.JPEG").write_bytes(b"the second image of its class is not taken")
    assert full_digest("imagenet", imagenet) == digests["imagenet"]
    (folder / "ILSVRC2012_val_0.JPEG").write_bytes(b"another image")
    assert full_digest("imagenet", imagenet) != digests["imagenet"]
    Image.new("RGB", (178, 218), (1, 2, 3)).save(celeba / "celeba" / "img_align_celeba" / "000003.jpg")  # the 1001st
    assert full_digest("celeba", celeba) == digests["celeba"]
    Image.new("RGB", (178, 218), (1, 2, 3)).save(celeba / "celeba" / "img_align_celeba" / "000001.jpg")
    assert full_digest("celeba", celeba) != digests["celeba"]


def test_a_content_digest_is_found_by_name_and_names_what_is_missing(cifar):
    """If this fails, a key holds no content, or a missing data set surfaces deep inside a run."""
    assert content_digest("cifar10", root=cifar) == full_digest("cifar10", cifar)
    assert content_digest("faces", root=cifar) == content_digest("faces") == assets.ASSETS["faces"].digest
    with pytest.raises(ValueError, match=r"root: expected the folder that holds cifar-10-batches-py for cifar10"):
        content_digest("cifar10")
    with pytest.raises(ValueError, match=r"name: expected one of .*, got 'cifar'"):
        content_digest("cifar")


def test_changed_files_of_a_package_have_no_digest(monkeypatch):
    """If this fails, a block that was computed on the pinned images is served for changed ones."""
    monkeypatch.setitem(vars(assets), "ASSETS", {"faces": replace(assets.ASSETS["faces"], digest="0" * 64)})
    contents._bundled_digest.cache_clear()
    with pytest.raises(assets.AssetError, match="faces: expected sha256 0000"):
        content_digest("faces")
