"""The observation of a Flower update, without Flower: arrays in each order that clients send them in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gia
from gia.integrations.flower import observation

LOCAL = gia.LocalTraining(epochs=2, batch_size=2, lr=0.1)
FACTS = {"image_shape": (3, 4, 4), "batch_size": 4}


def model() -> nn.Module:
    """A net with buffers, among them a whole number, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    return net.double().eval()


def trained(net: nn.Module) -> tuple[gia.Observation, dict[str, Tensor]]:
    """What gia's client shares, and the state_dict of a client that trained in the same way."""
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    shared = gia.share_update(net, images, torch.tensor([0, 1, 2, 0]), local=LOCAL)
    after = {name: value - shared.gradients.get(name, 0) for name, value in net.state_dict().items()}
    return shared, after


@pytest.mark.parametrize("form", ["state_dict", "list of it", "list of parameters"])
def test_an_update_is_the_observation_of_share_update(form: str) -> None:
    """In each form. If it fails, attacks run on something that no server sees."""
    net = model()
    shared, after = trained(net)
    assert after["1.num_batches_tracked"].dtype == torch.int64
    values = [after[name].numpy() for name in (after if form == "list of it" else dict(net.named_parameters()))]
    seen = observation(net, after if form == "state_dict" else values, **FACTS)
    assert list(seen.gradients) == list(shared.gradients)
    for name, gradient in seen.gradients.items():
        torch.testing.assert_close(gradient, shared.gradients[name], rtol=1e-9, atol=1e-12)


def test_frozen_parameters_are_no_part_of_an_update() -> None:
    """A client sends the whole model or its trained part. If it fails, attacks match a gradient of zero."""
    net = model()
    net[0].requires_grad_(False)
    _, after = trained(net)
    names = tuple(name for name, parameter in net.named_parameters() if parameter.requires_grad)
    for update in (after, list(after.values()), [after[name] for name in names]):
        seen = observation(net, update, **FACTS)
        assert (tuple(seen.gradients), seen.trainable) == (names, names)


def test_a_wrong_update_is_named() -> None:
    """If it fails, an update of another model is subtracted by broadcasting, or the error names nothing."""
    net = model()
    _, after = trained(net)
    with pytest.raises(ValueError, match="arrays: expected 9 or 6, as the model has, got 5"):
        observation(net, list(after.values())[:5], **FACTS)
    with pytest.raises(ValueError, match=r"arrays\['0.bias'\]: expected the shape \(2,\), got \(1,\)"):
        observation(net, {**after, "0.bias": torch.zeros(1)}, **FACTS)
    with pytest.raises(ValueError, match=r"arrays: expected '3\.bias' in place 8, got 'other'"):
        observation(net, {name.replace("3.bias", "other"): value for name, value in after.items()}, **FACTS)
    with pytest.raises(ValueError, match=r"gradients\['3.bias'\]: expected finite values"):
        observation(net, {**after, "3.bias": torch.full((3,), torch.nan)}, **FACTS)
