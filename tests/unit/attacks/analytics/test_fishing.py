"""Fishing: the target of a batch is isolated with counted questions, and then seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gia
from gia.attacks import fish
from gia.attacks.analytics import fishing
from gia.federated import Client
from gia.federated.server import classifier, fish_class, fish_feature
from tests.contracts.cases import CLASSES, SIZE, private

STEPS = {"steps": 60}


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def build(seed=0, dtype=torch.float64):
    """A victim on which pixels are found in a few steps."""
    options = {"num_classes": CLASSES, "image_size": SIZE, "width": 16, "activation": "sigmoid", "init": "dlg"}
    return gia.models.build("convnet", generator=seeded(seed), dtype=dtype, **options).eval()


def isolated(sent, images, labels, observation):
    """For each image the cosine of its gradient before the classifier with the observed one, and norm ratios."""

    def vector(observation):
        kept = [g.flatten() for key, g in observation.gradients.items() if not key.startswith(classifier(sent))]
        return torch.cat(kept).double()

    whole = vector(observation) * len(images)
    own = torch.stack(
        [vector(gia.share_gradient(sent, images[i : i + 1], labels[i : i + 1])) for i in range(len(images))]
    )
    norms = own.norm(dim=1)
    return torch.where(norms > 0, own @ whole / (norms * whole.norm()), 0), norms / whole.norm()


def test_one_image_of_a_class_takes_one_question():
    """If it fails, questions are wasted, or the target is not isolated."""
    images, _ = private(torch.float64, *range(8))
    labels = torch.tensor([1, 1, 1, 4, 0, 2, 2, 9])
    client = Client(images, labels)
    sent, observation = fish(build(), client, target=4, generator=seeded())
    assert client.queries == 1
    cosines, norms = isolated(sent, images, labels, observation)
    assert cosines[3] > 1 - 1e-9
    assert norms[3] == pytest.approx(1, abs=1e-9)
    assert norms.sort().values[-2] < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_equal_labels_are_separated_by_a_bisection_over_the_client_s_answers(seed, dtype):
    """Eight images of one label. If it fails, feature fishing isolates a mixture, or its questions are not counted."""
    images, _ = private(dtype, *torch.randperm(20, generator=seeded(seed))[:8].tolist())
    labels = torch.full((8,), 4)
    client = Client(images, labels)
    sent, observation = fish(build(seed, dtype), client, target=4, generator=seeded(seed))
    assert 2 <= client.queries <= 24
    cosines, norms = isolated(sent, images, labels, observation)
    assert norms.max() == pytest.approx(1, rel=0.01)
    assert cosines[norms.argmax()] >= 0.99
    assert (norms > 0.01).sum() == 1


def test_two_images_counted_in_part_do_not_pass_for_one():
    """Gray images whose feature is their brightness, two of them so close to the first cut-off, twice the mean, that
    they count .73 and .27. If it fails, a mixture is returned as one image, since the parts add up to 1."""
    shift = math.log(9) / 333  # where the decoy and nine other logits are even
    levels = torch.tensor([0.5 - 2 / 3 * (0.6 + shift)] * 3 + [0.6 + shift - 0.003, 0.6 + shift + 0.003]).double()
    images, labels = levels.view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE), torch.full((5,), 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 1), nn.Linear(1, CLASSES)).double()
    with torch.no_grad():
        model[1].weight.fill_(1 / (3 * SIZE**2))
        model[1].bias.zero_()
    client = Client(images, labels)
    sent, observation = fish(model, client, target=4, generator=seeded())
    norms = isolated(sent, images, labels, observation)[1]
    assert client.queries > 2
    assert norms[4] == pytest.approx(1, abs=1e-3)
    assert norms[:4].max() < 1e-3


def test_what_cannot_be_isolated_is_named():
    """If it fails, a mixture is returned as if it were one image."""
    images, _ = private(torch.float64, *range(8))
    same = Client(images[:1].expand(8, -1, -1, -1), torch.full((8,), 4))
    with pytest.raises(ValueError, match="target: expected the label of one of the client's images, got 5"):
        fish(build(), Client(images, torch.tensor([1, 1, 1, 4, 0, 2, 2, 9])), target=5, generator=seeded())
    with pytest.raises(ValueError, match="queries: expected enough to isolate one of 8 images of class 4, got 3"):
        fish(build(), same, target=4, queries=3, generator=seeded())
    with pytest.raises(ValueError, match=r"queries: expected enough to isolate .*, got 200"):
        fish(build(), same, target=4, queries=200, generator=seeded())
    two = gia.models.build("mlp", num_classes=2, image_size=SIZE, generator=seeded(), dtype=torch.float64)
    with pytest.raises(ValueError, match="client: expected a class without images"):
        fish(two, Client(images, torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])), target=0, generator=seeded())


@pytest.mark.parametrize("labels", [[1, 1, 1, 4, 0, 2, 2, 9], [4] * 8], ids=["one of the class", "equal labels"])
def test_the_isolated_image_is_seen_as_if_it_had_been_shared_alone(labels):
    """In a batch of eight, against the same attack on its own gradient. If it fails, the isolated gradient is not used,
    the classifier is matched too, or the search starts where there is no gradient."""
    (images, _), labels = private(torch.float64, *range(8)), torch.tensor(labels)
    sent, observation = fish(build(), Client(images, labels), target=4, generator=seeded())
    chosen = int(isolated(sent, images, labels, observation)[1].argmax())
    single = gia.share_gradient(sent, images[chosen : chosen + 1], labels[chosen : chosen + 1])
    together, alone = (fishing(sent, o, generator=seeded(), target=4, **STEPS) for o in (observation, single))
    target = images[chosen : chosen + 1]
    blind = float(gia.metrics.psnr(gia.metrics.blind_guess(target), target))
    seen, best = (float(gia.metrics.psnr(found.images, target)) for found in (together, alone))
    assert together.images.shape == (1, 3, SIZE, SIZE)
    assert min(seen, best) - blind > 5
    assert seen == pytest.approx(best, abs=0.5)
    assert (together.labels is None) == (len(labels.unique()) == 1)


def test_a_model_that_was_not_fished_for_the_target_is_refused():
    """If it fails, an image of another class, or a mixture, is returned as the target."""
    images, labels = private(torch.float64, 0, 1)
    model = build()
    for sent, target, message in [
        (model, 0, "model: expected one row of 'fc' that is not 0"),
        (fish_class(model, target=3), 4, "target: expected to agree .* fished with target 3, got 4"),
        (fish_feature(model, decoy=3, cutoff=0.0), 3, "target: expected to agree .* fished with decoy 3, got 3"),
        (fish_class(model, target=3), CLASSES, "target: expected a class from 0 to 9, got 10"),
    ]:
        observation = gia.share_gradient(sent, images, labels)
        with pytest.raises(ValueError, match=message):
            fishing(sent, observation, generator=seeded(), target=target, steps=1)
