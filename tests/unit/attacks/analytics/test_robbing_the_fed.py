"""Robbing the Fed: recovered are exactly the images that are alone in their bin, and the attack knows which."""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import lru_cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import gia
from gia.attacks.analytics import robbing_the_fed
from gia.federated.server import Empirical, Gaussian, Laplace, imprint, probed

pictures = lru_cache(gia.data.load)
LIMITS = {torch.float32: 1e-3, torch.float64: 1e-9}
FITS = {"gaussian": Gaussian.of, "laplace": Laplace.of, "empirical": Empirical}


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def scene(
    *,
    source="faces",
    size=16,
    batch_size=8,
    bins=50,
    dtype=torch.float64,
    seed=0,
    fit="gaussian",
    probe="mean",
    sparse=False,
    victim=None,
):
    """A model with an imprint block, its private images and labels: quantiles from the images that are not private."""
    g = seeded(seed)
    data = pictures(source, image_size=size)
    order = torch.randperm(len(data.labels), generator=g)
    private, public = order[:batch_size], order[batch_size:]
    images, labels = data.images[private].to(dtype), data.labels[private]
    options = {"name": "convnet", "width": 16, **(victim or {})}
    model = gia.models.build(
        num_classes=data.num_classes, image_size=size, channels=images.shape[1], generator=g, dtype=dtype, **options
    )
    quantiles = FITS[fit](probed(data.images[public], probe=probe))
    shape = tuple(images.shape[1:])
    block = {"image_shape": shape, "bins": bins, "probe": probe, "quantiles": quantiles, "sparse": sparse}
    return imprint(model.eval(), **block, generator=g), images, labels


def alone(model, images, *, sparse=False):
    """The truth: which images are the only ones in their bin, by the rows that each activates."""
    z = model.imprint.measure(images.flatten(1))
    bins = ((z > 0) & (z < 1)).int().argmax(1) if sparse else (z > 0).sum(1) - 1
    return (bins[:, None] == bins[None]).sum(1) == 1


def recovered(found, images, limit):
    """For each private image whether it is among the candidates, and for each candidate whether it is one of them."""
    near = (found.images.flatten(1)[:, None] - images.flatten(1)[None]).abs().amax(2) <= limit
    return near.any(0), near.any(1)


def attacked(model, images, labels, **observed):
    """What the attack makes of the shared gradient."""
    return robbing_the_fed(model, gia.share_gradient(model, images, labels, **observed), generator=seeded())


@settings(settings.get_profile("unit"), max_examples=60)
@given(
    source=st.sampled_from(["faces", "photos", "digits"]),
    size=st.sampled_from([8, 16]),
    batch_size=st.integers(1, 64),
    bins=st.sampled_from([50, 100, 200, 400]),
    dtype=st.sampled_from(sorted(LIMITS, key=str)),
    fit=st.sampled_from(sorted(FITS)),
    probe=st.sampled_from(["mean", (0, 1), (2, 1)]),
    sparse=st.booleans(),
    activation=st.sampled_from(["relu", "sigmoid", "tanh"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_recovered_are_the_images_that_are_alone_in_their_bin(activation, dtype, sparse, **drawn):
    """As sets, and what is believed to be exact is. If it fails, the differences mix bins, bins are lost or doubled, or
    averages pass for images."""
    try:
        model, images, labels = scene(victim={"activation": activation}, dtype=dtype, sparse=sparse, **drawn)
    except ValueError as error:  # images of equal brightness leave no room for this number of cut-offs
        assume("quantiles: expected" not in str(error))
        raise
    found = attacked(model, images, labels)
    single = alone(model, images, sparse=sparse)
    seen, true = recovered(found, images, LIMITS[dtype])
    assert seen.equal(single)
    assert not (found.exact & ~true).any()
    if dtype == torch.float64:
        assert found.exact.equal(true)


@pytest.mark.parametrize(
    ("source", "size", "batch_size", "bins", "dtype"),
    [
        ("faces", 32, 128, 50, torch.float32),
        ("faces", 32, 128, 1000, torch.float64),
        ("photos", 32, 64, 1000, torch.float32),
        ("photos", 64, 64, 100, torch.float32),
        ("faces", 64, 32, 300, torch.float64),
    ],
)
def test_large_batches_and_images_are_no_different(source, size, batch_size, bins, dtype):
    """Colour and gray, 32 and 64 pixels, up to 128 images and 1000 bins. If it fails, rounding adds up."""
    model, images, labels = scene(source=source, size=size, batch_size=batch_size, bins=bins, dtype=dtype)
    found = attacked(model, images, labels)
    single = alone(model, images)
    seen, true = recovered(found, images, LIMITS[dtype])
    assert seen.equal(single)
    assert single.any()
    assert not (found.exact & ~true).any()
    assert found.exact.sum() >= 0.9 * true.sum()


def test_without_a_proof_the_images_are_the_same_and_the_victim_is_not_run_on_them():
    """If it fails, a peer that proves nothing is faster for the same images, or an unproven one passes for exact."""
    model, images, labels = scene(source="photos", size=16, batch_size=8, bins=50)
    shared = gia.share_gradient(model, images, labels)
    proven = robbing_the_fed(model, shared, generator=seeded())
    found = robbing_the_fed(model, shared, generator=seeded(), prove=False)
    assert found.images.equal(proven.images)
    assert found.exact is None
    assert (found.gradient_evaluations, proven.gradient_evaluations) == (0, 1)


def test_images_of_one_label_are_separated_too():
    """If it fails, the attack needs signals that differ; bins are what separates."""
    model, images, labels = scene(batch_size=16, bins=400)
    found = attacked(model, images, torch.zeros_like(labels))
    assert recovered(found, images, 1e-9)[0].equal(alone(model, images))


def test_the_block_is_found_under_other_names_and_behind_a_standardized_victim():
    """Rebuilt from plain layers. If it fails, the attack knows the block by its class, or candidates are not pixels."""
    model, images, labels = scene(source="photos", bins=200)
    net = gia.models.standardize(model.model, mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])
    block = model.imprint
    layers = {
        "f": nn.Flatten(),
        "a": block.measure,
        "b": nn.ReLU(),
        "c": block.spread,
        "d": nn.Unflatten(1, images[0].shape),
    }
    rebuilt = nn.Sequential(OrderedDict(**layers, rest=net))
    found = attacked(rebuilt, images, labels)
    assert recovered(found, images, 1e-9)[0].equal(alone(model, images))
    assert found.exact.equal(recovered(found, images, 1e-9)[1])


def test_the_sparse_block_survives_several_local_steps_and_the_other_one_does_not():
    """Two epochs in batches of eight. If it fails, a row of the sparse block is moved by images of other bins."""
    local = gia.LocalTraining(epochs=2, batch_size=8, lr=0.05)
    shares = {}
    for sparse in (True, False):
        model, images, labels = scene(batch_size=32, bins=100, sparse=sparse)
        observation = gia.share_update(model, images, labels, local=local, reveal=("local",))
        found = robbing_the_fed(model, observation, generator=seeded())
        single = alone(model, images, sparse=sparse)
        seen = recovered(found, images, 1e-3)[0]
        shares[sparse] = float((seen & single).sum() / single.sum())
        assert not found.exact.any()
        assert not sparse or seen.equal(single)
    assert shares[True] == 1


@pytest.mark.parametrize(("sparse", "lr"), [(False, 1.0), (True, 1e4)])
def test_one_full_local_step_is_as_good_as_a_gradient(sparse, lr):
    """If it fails, an update after one step is not believed, its scale is another, or the rounding of the weights that
    it is a difference of passes for images."""
    model, images, labels = scene(batch_size=8, bins=100, sparse=sparse, probe=(0, 1))  # biases of many binades
    local = gia.LocalTraining(epochs=1, batch_size=8, lr=lr)
    observation = gia.share_update(model, images, labels, local=local, reveal=("local",))
    found = robbing_the_fed(model, observation, generator=seeded())
    seen, true = recovered(found, images, 1e-9)
    single = alone(model, images, sparse=sparse)
    assert seen.equal(single)
    assert found.exact.any()
    assert not (found.exact & ~true).any()
    assert int(single.sum()) <= len(found.images) <= (8 + int(single.sum())) // 2


def test_images_tied_by_batch_statistics_are_recovered_but_not_believed():
    """If it fails, a belief rests on a signal that no single image could have caused."""
    victim = {"name": "resnet10", "width": 4}
    model, images, labels = scene(batch_size=8, bins=200, victim=victim)
    found = attacked(model, images, labels, training=True)
    assert recovered(found, images, 1e-9)[0].equal(alone(model, images))
    assert not found.exact.any()


def test_an_honest_first_layer_gives_little_away_and_no_average_passes_for_an_image():
    """The same inversion on multilayer perceptrons of as many neurons. Some images come back: those by which two
    neighbouring neurons happen to differ. If it fails, the malice is not needed, or such luck deceives the attack."""
    shares = []
    for seed in range(4):
        model, images, labels = scene(batch_size=32, bins=400, victim={"name": "mlp", "width": 400}, seed=seed)
        shares.append([])
        for victim in (model, model.model):
            found = attacked(victim, images, labels)
            seen, true = recovered(found, images, 1e-9)
            shares[-1].append(float(seen.double().mean()))
            assert not (found.exact & ~true).any()
    assert all(malicious > 0.8 and honest < 0.2 for malicious, honest in shares), shares


def test_a_layer_that_does_not_see_the_image_is_refused():
    """If it fails, the gradient of a later layer is inverted."""
    model, images, labels = scene()
    observation = gia.share_gradient(model, images, labels)
    with pytest.raises(ValueError, match=r"layer: expected a linear layer .*, got 'imprint\.spread'"):
        robbing_the_fed(model, observation, generator=seeded(), layer="imprint.spread")
    with pytest.raises(
        ValueError, match="layer: expected a linear layer with shared weight and bias that sees the image"
    ):
        attacked(model.model, images, labels)


def test_an_image_whose_signal_drowns_in_rounding_is_not_believed():
    """A linear victim on which label 0 moves the loss a ten-thousandth as much as the others do, in float32. If it
    fails, belief rests on the signal's size alone, and what is believed is wrong by more than it says."""
    model, images, _ = scene(bins=400, dtype=torch.float32, batch_size=16)
    victim = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    with torch.no_grad():
        victim[1].weight.copy_(torch.tensor([0.0, 1.0, -1.0])[:, None] / 256 * 1e-4)
        victim[1].bias.zero_()
    sent = nn.Sequential(OrderedDict(imprint=model.imprint, model=victim))
    single = alone(sent, images)
    for weak in single.nonzero().flatten().tolist():
        labels = torch.arange(16) % 2 + 1
        labels[weak] = 0
        found = attacked(sent, images, labels)
        seen, true = recovered(found, images, 1e-3)
        assert not (found.exact & ~true).any()
        assert seen.equal(single & (torch.arange(16) != weak)) or seen.equal(single)
        assert found.exact.sum() == single.sum() - 1


def test_labels_tried_a_few_at_a_time_believe_the_same_images(monkeypatch):
    """A classifier of a thousand classes would not fit in memory, or believe other images than a small one."""
    model, images, labels = scene(batch_size=4)
    shared = gia.share_gradient(model, images, labels)
    whole = robbing_the_fed(model, shared, generator=seeded())
    monkeypatch.setattr(sys.modules[robbing_the_fed.__module__], "_AT_ONCE", 1)
    apart = robbing_the_fed(model, shared, generator=seeded())
    assert bool(whole.exact.any())
    assert torch.equal(whole.exact, apart.exact)
    assert (whole.gradient_evaluations, apart.gradient_evaluations) == (1, 40)
