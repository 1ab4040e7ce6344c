"""The network of a learned inverter: its hash, its features, its file, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import gia
from gia.attacks import Inverter, train_inverter
from gia.models import cached_net
from tests.malformed import changed_safetensors
from tests.unit.attacks.generation.victims import DIGITS, victim


@pytest.fixture(scope="module")
def inverter():
    """Hashed, for two images of a single local epoch."""
    data = DIGITS.take(torch.arange(24))
    return train_inverter(
        victim(),
        data.images,
        data.labels,
        batch_size=2,
        hashed=16,
        hidden=(4,),
        epochs=1,
        local=gia.LocalTraining(epochs=1, batch_size=1, lr=0.1),
        generator=torch.Generator().manual_seed(0),
    )


def test_the_hash_adds_each_entry_to_one_bucket_with_its_sign(inverter):
    """If it fails, entries are lost or weighed twice, or buckets collect the layer's mean instead of cancelling."""
    gradients = [torch.randn(3, *shape, dtype=torch.float64) for shape in inverter.shapes.values()]
    dense = torch.zeros(len(inverter.place), 16, dtype=torch.float64)
    dense[torch.arange(len(dense)), inverter.place.abs().long() - 1] = inverter.place.sign().double()
    flat = torch.cat([g.flatten(1) / s for g, s in zip(gradients, inverter.scales, strict=True)], 1)
    torch.testing.assert_close(inverter.buckets(gradients), flat @ dense)
    assert inverter.place.abs().unique().tolist() == list(range(1, 17))
    assert abs(float(inverter.place.sign().float().mean())) < 0.1


def test_features_do_not_hang_on_the_size_of_a_gradient(inverter):
    """If it fails, a trained victim's small gradients, or an unknown local step size, leave what was trained on."""
    buckets = torch.randn(2, 16)
    torch.testing.assert_close(inverter(1e-3 * buckets), inverter(buckets))


def test_features_of_the_training_pairs_are_standardized():
    """If it fails, the buckets of large layers drown the rest."""
    buckets = torch.rand(500, 3) * torch.tensor([1.0, 50.0, 0.0]) + 1
    inverter = Inverter(
        shapes={"w": (3,)}, image_shape=(1, 1, 3), batch_size=1, training=False, local=None, hashed=None, hidden=()
    )
    inverter.standardize_by(buckets)
    inverter.network = torch.nn.Identity()
    features = inverter(buckets).flatten(1)
    assert features.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(features.std(0)[:2], torch.ones(2))
    assert bool(features.isfinite().all())


def test_a_file_gives_the_same_inverter_back(inverter, tmp_path):
    """If it fails, a kept inverter sees other images than the one that was trained, or fits other observations."""
    inverter.save(tmp_path / "inverter.safetensors")
    state = torch.get_rng_state()
    loaded = Inverter.load(tmp_path / "inverter.safetensors")
    assert torch.get_rng_state().equal(state)
    assert loaded.described() == inverter.described()
    assert loaded.local == inverter.local
    assert not any(p.requires_grad for p in loaded.parameters())
    buckets = torch.randn(2, 16)
    assert loaded(buckets).equal(inverter(buckets))


class Undecided(torch.nn.Module):
    """A net that finds all labels equally likely in all images: its classifier is zero."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hidden, self.last = torch.nn.Linear(64, 6, bias=False), torch.nn.Linear(6, 10)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.randn(6, 64, generator=generator) / 8)
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, images):
        """Logits."""
        return self.last(self.features(images))

    def features(self, images):
        """What the classifier sees."""
        return self.hidden(images.flatten(1)).sigmoid()


@pytest.fixture(scope="module")
def by_label():
    """An inverter of that net for three images, which reads its classifier's gradient label by label."""
    data = DIGITS.take(torch.arange(60))
    generator = torch.Generator().manual_seed(0)
    settings = {"batch_size": 3, "hashed": 8, "hidden": (8,), "epochs": 1, "by_label": True}
    return train_inverter(Undecided(), data.images, data.labels, generator=generator, **settings)


def buckets_of(inverter, chosen):
    """What that inverter makes of the gradient of these digits."""
    gradients = gia.share_gradient(Undecided(), DIGITS.images[chosen], DIGITS.labels[chosen]).gradients
    return inverter.buckets([gradients[name][None] for name in inverter.shapes])


@pytest.mark.parametrize("chosen", [[3, 1, 7], [11, 1, 4], [1, 11, 21]], ids=["different", "two alike", "all alike"])
def test_the_labels_of_a_batch_are_read_from_its_gradient(by_label, chosen):
    """If it fails, the inverter makes images of other labels than the batch has."""
    chosen = torch.tensor(chosen)
    expected = DIGITS.labels[chosen].sort().values.tolist()
    assert by_label.labels(buckets_of(by_label, chosen))[0].tolist() == expected


def test_the_gradient_of_a_label_shows_the_mean_features_of_its_images(by_label):
    """Exactly, where all labels are equally likely. If it fails, images of a batch stay mixed for the inverter."""
    chosen = torch.tensor([3, 1, 11])
    labels = DIGITS.labels[chosen]
    features = Undecided().features(DIGITS.images[chosen]).detach()
    shown = by_label._each(buckets_of(by_label, chosen), labels[None])[0, :, -6:]
    alike = features[1:].mean(0)
    torch.testing.assert_close(shown, torch.stack([features[0], alike, alike]), rtol=1e-4, atol=1e-5)


def test_images_that_share_a_label_are_told_apart_by_their_number(by_label):
    """If it fails, the network must return one image for all of them, or does not know how many there are."""
    names = by_label._names(torch.tensor([[7, 2, 7]]))[0]
    assert names[:, :10].argmax(1).tolist() == [7, 2, 7]
    assert names[:, 10:].tolist() == [[1, 0, 0, 2], [1, 0, 0, 1], [0, 1, 0, 2]]


def test_a_quotient_of_any_size_gives_an_image(by_label):
    """If it fails, a label that a gradient hardly shows ends in numbers that are not finite, or in a far-away image."""
    buckets = buckets_of(by_label, torch.tensor([3, 1, 7]))
    buckets[:, -10:] = 0
    images = by_label(buckets)
    assert bool(images.isfinite().all())
    assert images.abs().max() < 10


def test_a_file_keeps_which_layer_is_read_label_by_label(by_label, tmp_path):
    """If it fails, a kept inverter reads other features than the one that was trained."""
    by_label.save(tmp_path / "inverter.safetensors")
    loaded = Inverter.load(tmp_path / "inverter.safetensors")
    assert loaded.classifier == by_label.classifier == "last"
    buckets = buckets_of(by_label, torch.tensor([3, 1, 7]))
    assert loaded(buckets).equal(by_label(buckets))


def test_another_file_is_no_inverter(tmp_path):
    """If it fails, some weights are read as an inverter, or end in a KeyError."""
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"path: expected a readable file, got .*other\.safetensors \(its checksum"):
        Inverter.load(tmp_path / "other.safetensors")


def shared():
    """What a client sends that the inverter was trained for."""
    local = gia.LocalTraining(epochs=1, batch_size=1, lr=0.1)
    return gia.share_update(victim(), DIGITS.images[:2], DIGITS.labels[:2], local=local, reveal=("local",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": (1, 4, 16)}, r"image_shape: expected \(1, 8, 8\), .* got \(1, 4, 16\)"),
        ({"batch_size": 3}, "batch_size: expected 2, .* got 3"),
        ({"training": True}, "training: expected False, .* got True"),
        ({"local": None}, r"local: expected LocalTraining\(.* got None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_observation_of_another_form_is_refused(inverter, change, message):
    """If it fails, an inverter answers for observations that it was not trained for, and the nonsense is scored."""
    inverter.check(shared())
    with pytest.raises(ValueError, match=message):
        inverter.check(replace(shared(), **change))


def test_an_observation_of_another_network_or_precision_is_refused(inverter):
    """If it fails, the same happens where parameters differ, or torch complains of a dtype deep inside."""
    fewer = dict(list(shared().gradients.items())[1:])
    with pytest.raises(ValueError, match=r"gradients: expected '.*' of shape .* got None"):
        inverter.check(replace(shared(), gradients=fewer))
    double = {name: value.double() for name, value in shared().gradients.items()}
    with pytest.raises(ValueError, match=r"dtype: expected torch\.float32, .* got torch\.float64"):
        inverter.check(replace(shared(), gradients=double))


def test_an_inverter_is_printed_as_its_form_and_not_as_its_layers(inverter):
    """If it fails, a notebook shows a stack of layers and nothing of what the inverter is for."""
    local = "LocalTraining(epochs=1, batch_size=1, lr=0.1, momentum=0.0)"
    assert repr(inverter) == (
        f"Inverter(batch_size=2, image_shape=(1, 8, 8), hashed=16, hidden=(4,), training_mode=False, local={local})"
    )


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_changed_is_a_value_error_or_loads(data, tmp_path, inverter):
    """If it fails, a damaged or forged file ends in an error of some library, or reconstructs NaN."""
    inverter.save(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    if data.draw(st.integers(0, 3)) == 0:
        state = {name: value.clone() for name, value in inverter.state_dict().items()}
        name = data.draw(st.sampled_from(sorted(state)))
        state[name].view(-1)[0] = data.draw(st.sampled_from([0, -1]))
        cached_net.write(tmp_path / "changed", state, {"format": "gia.Inverter/1", **inverter.described()})
    else:
        (tmp_path / "changed").write_bytes(data.draw(changed_safetensors(content, "facts")))
    try:
        read = Inverter.load(tmp_path / "changed")
    except ValueError:
        return
    assert bool((read.scales > 0).all())
    assert bool((read.deviation > 0).all())
