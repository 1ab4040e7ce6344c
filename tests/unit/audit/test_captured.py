"""Gradients that were captured elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import gia
from gia.audit import audit
from gia.audit.captured import observation_from

SHAPE = {"image_shape": (1, 8, 8), "batch_size": 1, "training": False}


def model_and_images():
    """A model, an image and its label."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    digits = gia.data.load("digits")
    return model, digits.images[3:4], digits.labels[3:4]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("form", ["safetensors", "pt", "list.pt", "npz", "named.npz", "observation"])
def test_a_gradient_in_a_file_is_the_gradient_that_was_shared(form, prefix, tmp_path):
    """If it fails, a gradient that was written by torch, safetensors, NumPy or Flower cannot be audited."""
    model, images, labels = model_and_images()
    shared = gia.share_gradient(model, images, labels)
    named = {f"{prefix}{name}": value for name, value in shared.gradients.items()}
    arrays = {name: value.numpy() for name, value in named.items()}
    path = tmp_path / {"list.pt": "list.pt", "named.npz": "named.npz", "observation": "o.safetensors"}.get(
        form, f"gradient.{form}"
    )
    if form == "safetensors":
        save_file(named, path)
    elif form == "observation":
        shared.save(path)
    elif form in ("pt", "list.pt"):
        torch.save(list(named.values()) if form == "list.pt" else named, path)
    elif form == "npz":
        np.savez(path, *arrays.values())
    else:
        np.savez(path, **arrays)
    found = observation_from(path, model, **SHAPE)
    assert all(found.gradients[name].equal(value) for name, value in shared.gradients.items())


def test_a_file_that_cannot_be_read_or_does_not_fit_is_named(tmp_path):
    """If it fails, a user sees a traceback of torch or NumPy, or code in a pickle is run."""
    model, _, _ = model_and_images()
    with pytest.raises(FileNotFoundError, match="gradient: expected a file, got"):
        observation_from(tmp_path / "absent.pt", model, **SHAPE)
    for name in ("text.txt", "damaged.pt", "damaged.npz", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"no tensors")
        with pytest.raises(ValueError, match="gradient: expected a"):
            observation_from(tmp_path / name, model, **SHAPE)
    torch.save(print, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="gradient: expected a readable file"):
        observation_from(tmp_path / "code.pt", model, **SHAPE)
    np.savez(tmp_path / "short.npz", np.zeros(2))
    with pytest.raises(ValueError, match="tensors: expected 4"):
        observation_from(tmp_path / "short.npz", model, **SHAPE)


def test_with_originals_a_captured_gradient_has_a_leak_and_without_them_a_reconstruction(tmp_path):
    """If it fails, the audit claims a number that nobody can know, or shows nothing."""
    model, images, labels = model_and_images()
    folder = tmp_path / "originals"
    folder.mkdir()
    gia.share_gradient(model, images, labels).save(tmp_path / "g.safetensors")
    asked = {"image_size": 8, "data": "digits", "batch_size": 1, "steps": 3, "validate": False, "training": False}
    asked |= {"gradient": tmp_path / "g.safetensors"}
    scored = audit(model, **asked, originals=(images, labels))
    assert scored.exact["ana_linear"] == 1.0
    assert not scored.what_if
    Image.fromarray((images[0, 0] * 255).round().byte().numpy()).save(folder / "one.png")
    pictured = audit(model, **asked, originals=folder)
    assert pictured.exact["ana_linear"] == 1.0
    assert pictured.leak["op"] == pytest.approx(scored.leak["op"], abs=1e-3)  # the label is restored
    with pytest.raises(ValueError, match=r"gradient: expected 2 images of \(1, 8, 8\) behind it, got 1"):
        audit(model, **{**asked, "batch_size": 2})
    unscored = audit(model, **asked)
    assert unscored.leak == {}
    result = unscored.results["ana_linear"]
    assert result.facts["believed_exact"] == 1
    expected = (images[0] * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(result.arrays["reconstructions"][0], expected)
    assert "is not known" in unscored.limits[0]
    assert set(unscored.not_tried) >= {"ana_arch", "ana_param"}
