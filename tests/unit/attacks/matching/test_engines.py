"""The choice between the engines: automatic, said once, and without a trace in the model or in the result."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import VisionTransformer

from gia import LocalTraining, Observation, share_gradient, share_update
from gia.attacks.matching import Matching
from gia.attacks.matching import engines as engines_module
from gia.attacks.matching.engines import Engine
from gia.attacks.matching.memory import peak_bytes
from gia.attacks.objectives import Agreement, Cosine, SquaredDifferences
from gia.models import build, standardize


def network(**settings: object) -> nn.Module:
    """A small victim of images of 8 x 8."""
    generator = torch.Generator().manual_seed(1)
    return build("convnet", num_classes=4, image_size=8, width=8, depth=2, generator=generator, **settings)  # type: ignore[arg-type]


def shared(model: nn.Module, trials: int, batch: int = 2, *, training: bool = False) -> list[Observation]:
    """What this many clients share."""
    generator = torch.Generator().manual_seed(2)
    like = next(model.parameters()).dtype
    return [
        share_gradient(
            model,
            torch.rand(batch, 3, 8, 8, generator=generator).to(like),
            torch.randint(4, (batch,), generator=generator),
            reveal=("labels",),
            training=training,
        )
        for _ in range(trials)
    ]


def point(model: nn.Module, trials: int, batch: int = 2) -> Tensor:
    """Where the searches stand."""
    like = next(model.parameters()).dtype
    return torch.rand(trials, batch, 3, 8, 8, generator=torch.Generator().manual_seed(3)).to(like)


def matching(model: nn.Module, observations: Sequence[Observation], **settings: object) -> Matching:
    """The problem of inverting gradients."""
    return Matching(model, observations, objective=Cosine(), loss=cross_entropy, **settings)  # type: ignore[arg-type]


@pytest.fixture
def warnings_of_gia(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log has received so far."""
    engines_module._say.cache_clear()
    caplog.set_level(logging.WARNING, logger="gia")
    return lambda: [record.getMessage() for record in caplog.records]


class Mixing(nn.Module):
    """Subtracts the mean image of whatever batch it gets: no parameter, so no rule, could tell."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Fixed(nn.Module):
    """Runs for two images only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 3, 8, 8) if len(x) != 1 else x


@pytest.mark.parametrize(
    ("stranger", "named"),
    [
        (nn.PReLU(), "'0.weight' is used by prelu"),
        (Mixing(), "apart on a random batch"),
        (Fixed(), "shape '[2, 3, 8, 8]' is invalid"),
        (nn.ConvTranspose2d(3, 3, 3, padding=1), "'0.weight' is used by conv_transpose2d"),
    ],
)
def test_a_victim_that_taps_does_not_know_is_left_to_double_backward_and_named_once(
    stranger: nn.Module, named: str, warnings_of_gia: Callable[[], list[str]]
) -> None:
    """A strange victim would crash the search, be attacked wrongly, or fill the log."""
    model = nn.Sequential(stranger, network()).double()
    observations, images = shared(model, 3), point(model, 3)
    expected = matching(model, observations, engine="plain")
    for _ in range(2):
        problem = matching(model, observations)
        assert problem.labels is not None
        found = problem(images, problem.labels)
        torch.testing.assert_close(found.images, expected(images, problem.labels).images, rtol=1e-12, atol=0)
    assert len(warnings_of_gia()) == 1
    assert named in warnings_of_gia()[0]


def test_a_known_victim_is_attacked_without_a_word(warnings_of_gia: Callable[[], list[str]]) -> None:
    """The fast engine would be dropped by its own check, and every attack be three times slower."""
    model = standardize(network(activation="relu"), mean=0.5, std=0.2)
    problem = matching(model, shared(model, 2))
    assert problem.labels is not None
    problem(point(model, 2), problem.labels)
    assert problem._engine._taps is not None
    assert not warnings_of_gia()


@pytest.mark.parametrize("seed", [0, *engines_module._SEEDS])
def test_private_images_that_the_check_makes_up_too_do_not_cost_the_fast_engine(
    seed: int, warnings_of_gia: Callable[[], list[str]]
) -> None:
    """At the private images nothing is left to match but rounding, by which the engines are "8.6e+28 apart"."""
    model = network(activation="relu")
    made_up = torch.rand(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    observation = share_gradient(model, made_up[0], torch.tensor([1, 3]), reveal=("labels",))
    problem = matching(model, [observation], engine="taps")
    problem._engine._tried = False  # as where the engine is not forced
    assert problem.labels is not None
    problem(point(model, 1), problem.labels)
    assert problem._engine._taps is not None
    assert not warnings_of_gia()


@pytest.mark.parametrize(("name", "trials", "expected"), [("convnet", 1, 0), ("convnet", 2, 1), ("mlp", 1, 1)])
def test_a_single_trial_of_a_small_victim_is_left_to_double_backward(
    name: str, trials: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower engine would be taken."""
    model = (
        build(name, num_classes=4, image_size=8, width=2048, generator=torch.Generator().manual_seed(0))
        if (name == "mlp")
        else network()
    )
    calls = []
    whole = Engine._by_taps
    monkeypatch.setattr(Engine, "_by_taps", lambda *given: (calls.append(1), whole(*given))[1])
    problem = matching(model, shared(model, trials))
    assert problem.labels is not None
    problem(point(model, trials), problem.labels)
    assert len(calls) == expected


@pytest.mark.parametrize("local", [None, LocalTraining(2, 1, 0.1)], ids=["gradient", "update"])
def test_soft_labels_of_several_trials_have_the_gradients_of_double_backward(
    local: LocalTraining | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and both gradients in float64, by the fast engine alone. If it fails, DLG searches labels along another
    direction, those of another trial, or one trial at a time."""
    model = network().double()
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(3, 2, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 3], [1, 1], [2, 0]])
    observations = [
        share_gradient(model, *pair) if local is None else share_update(model, *pair, local=local, reveal=("local",))
        for pair in zip(images, labels, strict=True)
    ]
    soft = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64).softmax(-1).requires_grad_()
    settings = {"objective": SquaredDifferences(), "loss": cross_entropy}
    expected = Matching(model, observations, engine="plain", **settings)(point(model, 3), soft)  # type: ignore[arg-type]
    problem = Matching(model, observations, **settings)  # type: ignore[arg-type]
    problem(point(model, 3), soft)  # compares the engines
    monkeypatch.setattr(Engine, "_by_plain", None)
    for found in (problem(point(model, 3), soft), problem(point(model, 3)[1:], soft[1:], trials=slice(1, 3))):
        for one, other in zip(found, expected, strict=True):
            assert one is not None
            assert other is not None
            torch.testing.assert_close(one, other[-len(one) :], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("engine", ["plain", "taps", None])
def test_a_vision_transformer_can_be_attacked(engine: str | None) -> None:
    """Fused attention has no second derivative: both engines must keep out of it."""
    model = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4
    ).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4
    observations, images = shared(model, 2), point(model, 2)
    expected, problem = matching(model, observations, engine="plain"), matching(model, observations, engine=engine)
    assert problem.labels is not None
    found = problem(images, problem.labels).images
    torch.testing.assert_close(found, expected(images, problem.labels).images, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_a_step_that_raises_midway_leaves_the_model_and_the_next_step_alone(training: bool) -> None:
    """A later step would see taps of the failed one, or the caller's model hooks, modes or moved statistics."""
    model = build("resnet10", num_classes=4, image_size=8, width=8, generator=torch.Generator().manual_seed(0)).double()
    model.conv1.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    before = copy.deepcopy(model)
    failing = [True]

    def objective(agreement: Agreement) -> Tensor:
        if failing[0]:
            raise KeyError("midway")
        return Cosine()(agreement)

    observations, images = shared(model, 2, training=training), point(model, 2)
    problem = Matching(model, observations, objective=objective, loss=cross_entropy, engine="taps")
    assert problem.labels is not None
    with pytest.raises(KeyError):
        problem(images, problem.labels)
    failing[0] = False
    found = problem(images, problem.labels).images
    expected = matching(model, observations, engine="plain")(images, problem.labels).images
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
    for (name, now), (_, then) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(now, then), name
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None and type(p) is nn.Parameter for p in model.parameters())
    for module, then in zip(model.modules(), before.modules(), strict=True):
        assert module.training == then.training
        assert not module._forward_hooks
        assert not module._backward_hooks


def test_trials_are_split_so_that_a_memory_limit_is_kept() -> None:
    """A search of many restarts would run out of memory in spite of the limit that it was given."""
    model = network()
    observations, images = shared(model, 12), point(model, 12)
    free = matching(model, observations, engine="taps")
    assert free.labels is not None
    labels = free.labels
    whole = peak_bytes(lambda: free(images, labels))
    expected = free(images, labels)
    kept = matching(model, observations, engine="taps", memory=whole // 3)
    kept(images, labels)  # measures
    assert whole // 6 < peak_bytes(lambda: kept(images, labels)) <= whole // 3 + images.numel() * 4 * 2
    found = kept(images, labels)
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.images, expected.images, rtol=1e-4, atol=1e-7)
    alone = peak_bytes(lambda: free.values(images, labels))
    assert peak_bytes(lambda: kept.values(images, labels)) < alone / 2, "nor does the objective alone take them all"
    torch.testing.assert_close(kept.values(images, labels), expected.values)


def test_a_memory_limit_that_no_trial_keeps_is_refused() -> None:
    """The limit would be broken without a word."""
    model = network()
    problem = matching(model, shared(model, 2), engine="taps", memory=1000)
    assert problem.labels is not None
    with pytest.raises(ValueError, match="memory: expected at least"):
        problem(point(model, 2), problem.labels)
