"""Bundled images have the pixels, labels and sizes of their files, and `load_cached` shares them."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gia import data
from gia.data import assets
from gia.data.pixels import stack, to_square

BUNDLED = ["cifar10-samples", "cifar100-samples", "imagenet-samples", "faces", "photos", "digits"]
# Counts and classes as in the documentation of the packages.
FACTS = {
    "cifar10-samples": (20, 10, (3, 32, 32)),
    "cifar100-samples": (20, 100, (3, 32, 32)),
    "imagenet-samples": (20, 1000, (3, 224, 224)),
    "faces": (400, 40, (1, 112, 92)),
    "photos": (96, 4, (3, 32, 32)),
    "digits": (1797, 10, (1, 8, 8)),
}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_set_has_the_documented_images(name):
    """If this fails, a set lost images, classes or its native size."""
    images = data.load(name)
    count, classes, shape = FACTS[name]
    assert (len(images), images.num_classes, tuple(images.images.shape[1:])) == (count, classes, shape)
    assert images.source == assets.ASSETS[name].title
    assert images.licence == assets.ASSETS[name].licence


@pytest.mark.parametrize("size", [16, 32, 64, 224])
@pytest.mark.parametrize("name", [name for name in BUNDLED if name != "digits"])
def test_every_square_size_can_be_loaded_and_no_two_images_are_equal(name, size):
    """If this fails, resolution cannot be a factor, or a batch could hold one image twice."""
    images = data.load(name, image_size=size).images
    assert images.shape[2:] == (size, size)
    assert len(images.flatten(1).unique(dim=0)) == len(images)


@pytest.mark.parametrize("name", ["cifar10-samples", "cifar100-samples"])
def test_cifar_pixels_and_labels_are_those_of_the_files(name):
    """If this fails, images are transposed, rescaled, reordered or wrongly labelled (foolbox: SET_INDEX_LABEL.png)."""
    images = data.load(name)
    for path in assets.files(name):
        _, index, label = path.stem.split("_")
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        assert torch.equal((images.images[int(index)] * 255).round().to(torch.uint8), pixels)
        assert images.labels[int(index)] == int(label)


def test_faces_are_ordered_by_person_as_a_number():
    """If this fails (s1, s10, s11 ...), ten pictures of one person get another's label."""
    faces = data.load("faces")
    assert torch.equal(faces.labels, torch.arange(40).repeat_interleave(10))
    path = next(path for path in assets.files("faces") if path.parts[-2:] == ("s2", "10.pgm"))
    pixels = torch.from_numpy(np.array(Image.open(path)))
    assert torch.equal((faces.images[19, 0] * 255).round().to(torch.uint8), pixels)


def test_digits_are_those_of_scikit_learn():
    """If this fails, the digits are misread; scikit-learn's loader is the outside reference, 8 bits the rounding."""
    digits, reference = data.load("digits"), load_digits()
    assert torch.equal(digits.labels, torch.from_numpy(reference.target))
    assert (digits.images[:, 0] - torch.from_numpy(reference.images / 16)).abs().max() <= 0.5 / 255 + 1e-6


def test_photo_crops_are_real_pixels_of_their_photo():
    """If this fails, large crops are enlarged, or labelled with another photo.

    At 300 px the windows of three photos are 300 px wide, so crops must be parts of the photo bit for bit; the rocket's
    region starts at (180, 127). The astronaut's windows are 320 px.
    """
    crops = data.load("photos", image_size=300)
    for label, path in enumerate(assets.files("photos")):
        photo = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        top, left = (127, 180) if path.stem == "rocket" else (0, 0)
        first = (crops.images[crops.labels == label][0] * 255).round().to(torch.uint8)
        if path.stem == "astronaut":
            assert (first.float().mean((1, 2)) - photo[:, :320, :320].float().mean((1, 2))).abs().max() < 1
        else:
            assert torch.equal(first, photo[:, top : top + 300, left : left + 300])


@pytest.mark.parametrize("small", [16, 64])
def test_photo_crop_i_shows_the_same_place_at_every_size(small):
    """If this fails, a comparison of resolutions would compare different pictures."""
    fine = data.load("photos", image_size=128).images
    coarse = torch.nn.functional.avg_pool2d(fine, 128 // small)
    assert (coarse - data.load("photos", image_size=small).images).abs().mean() < 0.03


def test_resizing_is_antialiased():
    """If this fails, a fine checkerboard turns into noise: shrinking by 4 must give its mean gray, not samples."""
    board = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
    small = stack([to_square(board, 16)])
    assert small.shape == (1, 1, 16, 16)
    assert small[..., 2:-2, 2:-2].sub(0.5).abs().max() < 0.02


def test_a_resized_picture_is_its_central_square():
    """If this fails, faces are squeezed or cut off centre."""
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert np.array_equal(np.asarray(to_square(Image.fromarray(wide), 10)), np.full((10, 10), 200))


def test_gray_images_have_one_channel_unless_three_are_asked_for():
    """If this fails, a gray set silently has three channels, or cannot be given to a colour model."""
    gray, three = data.load("faces", image_size=16), data.load("faces", image_size=16, channels=3)
    assert gray.images.shape[1] == 1
    assert torch.equal(three.images, gray.images.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="channels: expected None, 3 or"):
        data.load("photos", channels=1)


def test_per_class_keeps_the_first_images_of_each_label_in_order():
    """If this fails, a limit on images per class drops classes or picks by chance."""
    faces = data.load("faces", per_class=2)
    everything = data.load("faces")
    expected = torch.tensor([10 * person + picture for person in range(40) for picture in range(2)])
    assert torch.equal(faces.images, everything.images[expected])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar11"}, "name: expected one of ['cifar10-samples'"),
        ({"name": "faces", "image_size": 0}, "image_size: expected at least 1, got 0"),
        ({"name": "photos", "image_size": 301}, "image_size: expected at most 300 for photos, got 301"),
        ({"name": "faces", "per_class": 0}, "per_class: expected at least 1, got 0"),
        ({"name": "faces", "split": "train"}, "split: expected None for faces, which has no splits, got 'train'"),
        ({"name": "cifar10", "split": "val", "root": "."}, "split: expected one of ['train', 'test'], got 'val'"),
        ({"name": "cifar10"}, "root: expected the folder that holds cifar-10-batches-py for cifar10, got None"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    """If this fails, a wrong request gives other images than asked for, or an obscure error."""
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((2, 3, 4, 4), 1.01)}, "images: expected values in [0, 1], got [1.0"),
        ({"images": torch.full((2, 3, 4, 4), math.nan)}, "images: expected values in [0, 1], got [nan"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, "images: expected float32 of shape (N, C, H, W)"),
        ({"images": torch.zeros(2, 4, 4)}, "images: expected float32 of shape (N, C, H, W)"),
        ({"labels": torch.tensor([0, 2])}, "labels: expected values in 0 .. 1, got 0 .. 2"),
        ({"labels": torch.tensor([0])}, "labels: expected int64 of shape (2,)"),
    ],
)
def test_images_refuse_what_is_no_labelled_image(change, message):
    """If this fails, standardized images or foreign labels pass as pictures in [0, 1]."""
    fields = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=re.escape(message)):
        data.Images(**(fields | change), source="made", licence="none", num_classes=2)


def test_taking_images_copies_them():
    """If this fails, changing a batch changes the set it came from."""
    digits = data.load("digits")
    before = digits.images.clone()
    batch = digits.take(torch.tensor([3, 1]))
    assert batch.labels.tolist() == [3, 1]
    batch.images.zero_()
    assert torch.equal(digits.images, before)


def test_a_set_prints_on_one_line_without_its_pixels():
    """If this fails, an interactive session or a failing test prints thousands of numbers."""
    assert repr(data.load("faces", per_class=1)) == (
        "Images(source='ORL faces', count=40, shape=(1, 112, 92), num_classes=40)"
    )


def test_cached_sets_are_the_ones_that_load_gives():
    """If this fails, a cached set ignores an argument or mixes up two of them."""
    for arguments in ({}, {"image_size": 16}, {"channels": 3}, {"per_class": 2}, {"image_size": 16, "channels": 3}):
        cached, loaded = data.load_cached("faces", **arguments), data.load("faces", **arguments)
        assert torch.equal(cached.images, loaded.images)
        assert torch.equal(cached.labels, loaded.labels)
        assert cached.source == loaded.source


def test_equal_arguments_give_the_same_object_however_they_are_written(tmp_path, monkeypatch):
    """If this fails, a block reads its data once per level, or one folder's images are given for another's."""
    assert data.load_cached("digits", image_size=None, root=None) is data.load_cached("digits")
    assert data.load_cached("digits", root=tmp_path) is data.load_cached("digits")
    assert data.load_cached("digits", channels=3, image_size=16) is data.load_cached(
        "digits", image_size=16, channels=3
    )
    assert data.load_cached("digits", image_size=16) is not data.load_cached("digits", image_size=17)
    for place in ("here", "there"):
        synset = tmp_path / place / "imagenet" / "val" / "n01440764"
        synset.mkdir(parents=True)
        Image.new("RGB", (300, 260), (80, 0, 0)).save(synset / "1.JPEG")
    here = data.load_cached("imagenet", root=tmp_path / "here")
    assert data.load_cached("imagenet", root=str(tmp_path / "here"), split="test") is here
    monkeypatch.chdir(tmp_path / "here")
    assert data.load_cached("imagenet", root=".") is here
    monkeypatch.chdir(tmp_path / "there")
    assert data.load_cached("imagenet", root=".") is not here


def test_at_most_eight_sets_stay_in_memory_and_errors_are_not_cached(tmp_path):
    """If this fails, a long run fills the memory, or a set that was installed meanwhile stays missing."""
    first = data.load_cached("digits", per_class=1)
    for count in range(2, 9):
        data.load_cached("digits", per_class=count)
    assert data.load_cached("digits", per_class=1) is first  # eight sets, this one now the most recent
    second = data.load_cached("digits", per_class=2)
    for count in range(9, 16):
        data.load_cached("digits", per_class=count)
    assert data.load_cached("digits", per_class=2) is second
    assert data.load_cached("digits", per_class=1) is not first
    with pytest.raises(FileNotFoundError):
        data.load_cached("imagenet", root=tmp_path)
    (tmp_path / "imagenet" / "val" / "n01440764").mkdir(parents=True)
    Image.new("RGB", (300, 260)).save(tmp_path / "imagenet" / "val" / "n01440764" / "1.JPEG")
    assert len(data.load_cached("imagenet", root=tmp_path)) == 1
