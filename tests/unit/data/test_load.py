"""Bundled images: the right pixels, labels and sizes, from their files."""

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
# Counts and classes as in the design notes and the packages' own documentation.
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
def test_any_square_size_can_be_had_and_no_two_images_are_alike(name, size):
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

    At 300 px the windows of three photos are 300 px wide, so crops must be found in the photo bit for bit; the rocket's
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
    """If this fails, a gray set is silently counted thrice, or cannot be given to a colour model."""
    gray, three = data.load("faces", image_size=16), data.load("faces", image_size=16, channels=3)
    assert gray.images.shape[1] == 1
    assert torch.equal(three.images, gray.images.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="channels must be None, 3 or"):
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
        ({"name": "cifar11"}, "name must be one of ['cifar10-samples'"),
        ({"name": "faces", "image_size": 0}, "image_size must be at least 1, not 0"),
        ({"name": "photos", "image_size": 301}, "image_size of photos must be at most 300, not 301"),
        ({"name": "faces", "per_class": 0}, "per_class must be at least 1, not 0"),
        ({"name": "faces", "split": "train"}, "faces is read as a whole: split must be None, not 'train'"),
        ({"name": "cifar10", "split": "val", "root": "."}, "split must be one of ('train', 'test') or None, not 'val'"),
        ({"name": "cifar10"}, "cifar10 is read from a folder of yours: pass root="),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    """If this fails, a wrong request gives other images than asked for, or an obscure error."""
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((2, 3, 4, 4), 1.01)}, "must lie in [0, 1]"),
        ({"images": torch.full((2, 3, 4, 4), math.nan)}, "must lie in [0, 1]"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, "must be float32 of shape (N, C, H, W)"),
        ({"images": torch.zeros(2, 4, 4)}, "must be float32 of shape (N, C, H, W)"),
        ({"labels": torch.tensor([0, 2])}, "labels must lie in 0 .. 1, not in 0 .. 2"),
        ({"labels": torch.tensor([0])}, "labels must be int64 of shape (2,)"),
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
