"""The images of an audit: their size, labels and source."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from gia.audit.pictures import images_for


def drawn() -> torch.Generator:
    """A new one with the same numbers."""
    return torch.Generator().manual_seed(0)


def test_sub_folders_are_classes_and_pictures_are_cut_and_resized(tmp_path):
    """If it fails, a user's own pictures have wrong labels or proportions."""
    for name, colour in (("cat", "black"), ("dog", "white")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (50, 40), colour).save(tmp_path / name / "one.png")
    found = images_for(tmp_path, shape=(1, 12, 16), classes=2, generator=drawn())
    assert found.images.shape == (2, 1, 12, 16)
    assert found.labels.tolist() == [round(float(image.mean())) for image in found.images]  # dogs are white


def test_pictures_without_sub_folders_get_labels_that_the_model_has(tmp_path):
    """If it fails, a folder of unsorted pictures cannot be audited."""
    for number in range(20):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    labels = images_for(tmp_path, shape=(3, 8, 8), classes=3, generator=drawn()).labels
    assert set(labels.tolist()) == {0, 1, 2}


def test_a_folder_without_pictures_and_labels_that_the_model_does_not_have_are_named(tmp_path):
    """If it fails, a wrong folder ends in a traceback, or labels are changed behind the user's back."""
    with pytest.raises(ValueError, match="data: expected a folder with pictures"):
        images_for(tmp_path, shape=(3, 8, 8), classes=2, generator=drawn())
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"data: expected pictures that Pillow reads, got .*a\.png"):
        images_for(tmp_path, shape=(3, 8, 8), classes=2, generator=drawn())
    with pytest.raises(ValueError, match="data: expected labels below classes=2, got 5"):
        images_for((torch.zeros(1, 3, 8, 8), torch.tensor([5])), shape=(3, 8, 8), classes=2, generator=drawn())


def test_samples_are_cut_in_the_middle_and_labelled_from_the_start_again():
    """If it fails, photos are stretched, or a model of two classes cannot be audited on samples."""
    found = images_for("photos", shape=(3, 8, 32), classes=2, generator=drawn())
    assert found.images.shape[1:] == (3, 8, 32)
    assert set(found.labels.tolist()) == {0, 1}
    square = images_for("photos", shape=(3, 32, 32), classes=4, generator=drawn())
    assert found.images.equal(square.images[:, :, 12:20])
