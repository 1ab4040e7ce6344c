"""Improved Deep Leakage from Gradients: the label of the sign rule, and DLG's search with it."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gia
from gia.attacks.optimization import dlg, idlg
from tests.contracts.cases import CASES, CLASSES, build, pictures, private, share
from tests.contracts.snapshots import same_reconstruction

CASE = CASES["idlg"]


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def test_the_settings_are_those_of_dlg():
    """Zhao et al., 2020, change the label only. If it fails, a comparison of the two compares settings."""
    assert inspect.signature(idlg) == inspect.signature(dlg)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_dlg_with_the_label_known(dtype):
    """Bit for bit. If it fails, the restored label is not used, or there is a second search."""
    model = build(CASE, dtype)
    images, labels = private(dtype, 2)
    blind = gia.share_gradient(model, images, labels)
    told = gia.share_gradient(model, images, labels, reveal=("labels",))
    settings = {"steps": 2, "lr": 0.5, "history": 3, "restarts": 2, "init": "normal"}
    found = idlg(model, blind, generator=seeded(), **settings)
    assert found.labels.equal(labels)
    assert same_reconstruction(found, dlg(model, told, generator=seeded(), **settings))


@settings(settings.get_profile("unit"), max_examples=30)
@given(st.integers(0, 19), st.integers(0, CLASSES - 1), st.booleans(), st.sampled_from(("relu", "sigmoid")), st.data())
def test_the_label_is_right_for_any_image_and_net(number, label, bias, activation, data):
    """Labels at random, so that no net has learned them. If it fails, the search is led astray from its start."""
    seed = data.draw(st.integers(0, 2**16))
    model = gia.models.build(
        "convnet", num_classes=CLASSES, image_size=8, width=8, activation=activation, generator=seeded(seed)
    )
    if not bias:
        model.fc.bias = None
    observation = gia.share_gradient(model, pictures().images[number : number + 1], torch.tensor([label]))
    assert idlg(model, observation, generator=seeded(), steps=0).labels.tolist() == [label]


def test_a_label_that_leaked_is_not_read():
    """If it fails, iDLG is given what it claims to find, or trusts a label that contradicts the gradient."""
    model = build(CASE, torch.float32)
    observation = share(CASE, model, 0)
    plain = idlg(model, observation, generator=seeded(), steps=1)
    told = idlg(model, replace(observation, labels=(plain.labels + 1) % CLASSES), generator=seeded(), steps=1)
    assert same_reconstruction(plain, told)


def test_a_batch_of_several_images_is_an_error():
    """If it fails, one label is restored for all of them."""
    model = build(CASE, torch.float32)
    with pytest.raises(ValueError, match="batch_size: expected one image, whose label idlg restores, got 2"):
        idlg(model, share(CASE, model, 0, 1), generator=seeded())
