"""A step of opacus, attacked: without noise it gives the images away, with noise it does not.

`nox -s integrations` installs opacus and runs them.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("opacus")

import opacus

import gia
from gia.defenses import dp_sgd
from gia.integrations.opacus import observation

FACTS = {"image_shape": (1, 8, 8), "batch_size": 4}

pytestmark = pytest.mark.filterwarnings("default")  # those of opacus are not about this project


def seeded() -> torch.Generator:
    """A source of random numbers."""
    return torch.Generator().manual_seed(0)


def private() -> tuple[Tensor, Tensor]:
    """Four digits."""
    digits = gia.data.load_cached("digits")
    return digits.images[:4].double(), digits.labels[:4]


class Training:
    """One client of opacus with its engine.

    Args:
        noise, clip: noise multiplier and largest norm of one image's gradient.
        images: how many are in the batch.
        frozen: whether the last layer is not trained.
    """

    def __init__(self, *, noise: float, clip: float, images: int = 4, frozen: bool = False) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10)).double()
        for parameter in net.parameters():
            nn.init.uniform_(parameter, -0.2, 0.2, generator=seeded())
        net[3].requires_grad_(not frozen)
        self.before = copy.deepcopy(net)
        self.module, self.optimizer, self.loader = opacus.PrivacyEngine().make_private(
            module=net,
            optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(*private()), batch_size=images),
            noise_multiplier=noise,
            max_grad_norm=clip,
            noise_generator=seeded(),
            poisson_sampling=False,
        )

    def backward(self) -> None:
        """The gradients of the first batch."""
        images, labels = next(iter(self.loader))
        self.optimizer.zero_grad()
        cross_entropy(self.module(images), labels).backward()

    def step(self) -> gia.Observation:
        """What a server sees of one step."""
        self.backward()
        self.optimizer.step()
        return observation(self.module, **FACTS)


@pytest.mark.parametrize(("noise", "clip"), [(0.0, 1e6), (0.0, 0.5), (1.0, 0.5)])
def test_the_observation_is_what_moved_the_weights(noise: float, clip: float) -> None:
    """Weights before minus weights after are lr times it. If it fails, an attack runs on what no server sees."""
    training = Training(noise=noise, clip=clip)
    seen = training.step()
    after = dict(training.module._module.named_parameters())
    assert list(seen.gradients) == list(after)
    for name, before in training.before.named_parameters():
        torch.testing.assert_close(before - after[name], 0.1 * seen.gradients[name], rtol=1e-9, atol=1e-12)


def test_clipping_is_that_of_this_library() -> None:
    """`gia.defenses.dp_sgd` is tested against loops over images, so opacus is tested against them too."""
    seen = Training(noise=0.0, clip=0.5).step()
    ours = dp_sgd(clip=0.5, noise=0.0).gradient(Training(noise=0.0, clip=0.5).before, *private())
    for name, gradient in ours.items():
        torch.testing.assert_close(seen.gradients[name], gradient, rtol=1e-5, atol=1e-6)  # opacus adds 1e-6 to norms


def test_a_step_gives_its_image_away_without_noise_and_not_with_noise() -> None:
    """One image, by gW_i / gb_i of the first layer; clipping scales both. If it fails, noise is missing in what the
    attack sees, or the attack in what it reads."""
    private_image, psnr = private()[0][:1], []
    for noise in (0.0, 1.0):
        training = Training(noise=noise, clip=0.5, images=1)
        training.backward()
        training.optimizer.step()
        seen = observation(training.module, image_shape=(1, 8, 8), batch_size=1)
        found = gia.attacks.linear_layer(training.before, seen, generator=seeded())
        psnr.append(float(gia.metrics.psnr(found.images, private_image)))
    assert psnr[0] > 60  # as in the example of linear_layer
    assert psnr[1] < 15


def test_gradients_without_the_noise_of_a_step_are_no_observation() -> None:
    """Before the step, in a part of a larger batch, and after zero_grad, `grad` is not what is shared. If it fails, an
    audit attacks a client that does not add noise."""
    training = Training(noise=1.0, clip=0.5)
    training.backward()
    error = "module: expected a step of DPOptimizer before zero_grad\\(\\), got none for '1.weight'"
    with pytest.raises(ValueError, match=error):
        observation(training.module, **FACTS)
    training.optimizer.signal_skip_step()
    training.optimizer.step()
    with pytest.raises(ValueError, match=error):
        observation(training.module, **FACTS)
    training.step()
    training.optimizer.zero_grad()
    with pytest.raises(ValueError, match=error):
        observation(training.module, **FACTS)


def test_frozen_parameters_are_left_out() -> None:
    """If it fails, a client that trains a part of its model cannot be attacked."""
    assert list(Training(noise=1.0, clip=0.5, frozen=True).step().gradients) == ["1.weight", "1.bias"]
