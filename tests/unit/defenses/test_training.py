"""Defenses inside local training, against a loop over images and against opacus."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gia
from gia.defenses import dp_sgd, soteria
from gia.defenses.training import per_example_gradients
from gia.federated import LocalTraining


class Residual(nn.Module):
    """A convolution with a shortcut that is added in place: hooks on layers see the wrong output there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(48, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 3)."""
        hidden = self.conv(images)
        hidden += images
        logits: Tensor = self.head(torch.tanh(hidden).flatten(1))
        return logits


def setting(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, four images of 4x4 and their labels."""
    generator = torch.Generator().manual_seed(3)
    model = Residual().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) / 3)
    return model, torch.rand(4, 3, 4, 4, generator=generator, dtype=dtype), torch.tensor([0, 1, 2, 1])


def one_by_one(model: nn.Module, images: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """The gradient of each image, by one backward pass each."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return [
        dict(zip(names, torch.autograd.grad(cross_entropy(model(x[None]), y[None]), parameters), strict=True))
        for x, y in zip(images, labels, strict=True)
    ]


def norm(gradient: dict[str, Tensor]) -> float:
    """Over all tensors."""
    return math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))


def test_the_gradient_of_each_image_is_that_of_the_image_alone() -> None:
    """A residual sum in place included."""
    model, images, labels = setting()
    found = per_example_gradients(model, images, labels)
    for place, gradient in enumerate(one_by_one(model, images, labels)):
        for name, expected in gradient.items():
            torch.testing.assert_close(found[name][place], expected)


def test_each_image_adds_at_most_the_clipping_norm() -> None:
    """Abadi et al., 2016, Alg. 1, without noise: some images are clipped here and some are not."""
    model, images, labels = setting()
    each = one_by_one(model, images, labels)
    limit = sorted(norm(gradient) for gradient in each)[1] * 1.01
    shared = dp_sgd(clip=limit, noise=0.0).gradient(model, images, labels)
    for name, gradient in shared.items():
        expected = sum(g[name] * min(1.0, limit / norm(g)) for g in each) / 4
        torch.testing.assert_close(gradient, expected)
    far = dp_sgd(clip=1e9, noise=0.0).gradient(model, images, labels)
    ordinary = gia.share_gradient(model, images, labels).gradients
    for name, gradient in far.items():
        torch.testing.assert_close(gradient, ordinary[name])


def test_the_noise_on_the_mean_is_the_multiplier_times_the_norm_over_the_batch() -> None:
    """Noise of deviation clip * noise is added to the sum, which is then divided by the number of images."""
    model, images, labels = setting()
    step, generator = dp_sgd(clip=0.5, noise=2.0), torch.Generator().manual_seed(0)
    clean = dp_sgd(clip=0.5, noise=0.0).gradient(model, images, labels)
    draws = [step.gradient(model, images, labels, generator=generator)["head.weight"] for _ in range(200)]
    added = torch.stack(draws) - clean["head.weight"]
    assert float(added.std()) == pytest.approx(0.5 * 2.0 / 4, rel=0.02)  # 28,800 numbers
    with pytest.raises(ValueError, match="generator"):
        step.gradient(model, images, labels)


def test_batch_normalization_in_train_mode_is_refused() -> None:
    """There an image's gradient depends on the other images, and no clipping bounds what one of them adds."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="model: expected batch normalization in eval mode, got '1' in train mode"):
        dp_sgd(clip=1.0, noise=0.0).gradient(model, images, labels)
    dp_sgd(clip=1.0, noise=0.0).gradient(model.eval(), images, labels)


@pytest.mark.filterwarnings("default")  # those of opacus are not about this project
def test_the_step_is_that_of_opacus() -> None:
    """On a network that its hooks support: the clipped sums are equal, and so is the epsilon of its accountant."""
    opacus = pytest.importorskip("opacus")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    _, images, labels = setting()
    ours = dp_sgd(clip=0.7, noise=0.0).gradient(model, images, labels)
    wrapped = opacus.GradSampleModule(model)
    optimizer = opacus.optimizers.DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.7, expected_batch_size=4
    )
    cross_entropy(wrapped(images), labels).backward()
    optimizer.pre_step()
    for (name, gradient), parameter in zip(ours.items(), wrapped.parameters(), strict=True):
        # opacus divides by the norm + 1e-6.
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-9, msg=name)
    accountant = opacus.accountants.RDPAccountant()
    for _ in range(100):
        accountant.step(noise_multiplier=1.1, sample_rate=0.02)
    epsilon = dp_sgd(clip=1.0, noise=1.1).epsilon(steps=100, sampling_rate=0.02, delta=1e-5)
    assert epsilon == pytest.approx(accountant.get_epsilon(delta=1e-5))


@pytest.mark.parametrize("local", [None, LocalTraining(epochs=2, batch_size=3, lr=0.1, momentum=0.5)])
def test_a_client_trains_with_the_defense_in_each_step(local: LocalTraining | None) -> None:
    """Without noise and with a large norm dp_sgd changes nothing; it clips each step, not the update as a whole."""
    model, images, labels = setting()
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), model).double()

    def shared(*defenses: object) -> dict[str, Tensor]:
        client = gia.federated.Client(images, labels, local=local, defenses=defenses)  # type: ignore[arg-type]
        return dict(client.answer(model).gradients)

    plain = shared()
    for name, gradient in shared(dp_sgd(clip=1e9, noise=0.0)).items():
        torch.testing.assert_close(gradient, plain[name])
    steps = 1.0 if local is None else 4 * local.lr / (1 - local.momentum)
    assert norm(plain) > norm(shared(dp_sgd(clip=1e-3, noise=0.0))) > 0
    assert norm(shared(dp_sgd(clip=1e-3, noise=0.0))) <= 1e-3 * steps
    left_out = (shared(soteria(share=0.5))["2.head.weight"] == 0).all(0).sum()
    assert left_out == 24 if local is None else left_out <= 24


def test_without_noise_nothing_is_private() -> None:
    """No epsilon holds."""
    assert dp_sgd(clip=1.0, noise=0.0).epsilon(steps=1, sampling_rate=1.0, delta=1e-5) == math.inf


def test_soteria_leaves_out_the_features_whose_small_changes_move_the_image_most() -> None:
    """With r = a * x, dr_i/dx has the norm a_i, so |r_i| / ||dr_i/dx|| is x_i: the brightest pixels are left out."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.diag(torch.tensor([9.0, 1.0, 2.0, 5.0])))
    images, labels = torch.tensor([[[[0.1, 0.9], [0.5, 0.3]]]]).double(), torch.tensor([1])
    defended = soteria(share=0.5).gradient(model, images, labels)
    plain = gia.share_gradient(model, images, labels).gradients
    assert (defended["2.weight"] == 0).all(0).tolist() == [False, True, True, False]
    torch.testing.assert_close(defended["2.weight"][:, [0, 3]], plain["2.weight"][:, [0, 3]])
    torch.testing.assert_close(defended["1.weight"], plain["1.weight"])
    torch.testing.assert_close(defended["2.bias"], plain["2.bias"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dp_sgd(clip=0.0, noise=1.0), "clip: expected a number above 0, got 0.0"),
        (lambda: dp_sgd(clip=1.0, noise=-0.1), "noise: expected a number from 0 on, got -0.1"),
        (lambda: soteria(share=1.0), "share: expected a number above 0 and below 1, got 1.0"),
    ],
)
def test_a_setting_out_of_range_is_named(make: object, message: str) -> None:
    """As for the defenses of finished answers."""
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
