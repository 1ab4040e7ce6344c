"""Simulated local training of many trials at once, against the plain engine, which simulates one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gia import LocalTraining, Observation, share_update
from gia.attacks.matching import Matching
from gia.attacks.matching.engines import _SIMULATED, Engine
from gia.attacks.matching.simulations import Simulations
from gia.attacks.objectives import Cosine, Objective, SquaredDifferences
from gia.models import build

LOCALS = [LocalTraining(2, 2, 0.1, 0.9), LocalTraining(1, 1, 0.2, 0.0), LocalTraining(3, 8, 0.1, 0.0)]


def scene(
    local: LocalTraining, trials: int, *, name: str = "convnet", training: bool = False
) -> tuple[torch.nn.Module, list[Observation], Tensor]:
    """A victim in float64, updates of its clients with three images each, and where their searches stand."""
    generator = torch.Generator().manual_seed(1)
    model = build(name, num_classes=4, image_size=8, width=8, generator=generator).double()
    images, points = torch.rand(2, trials, 3, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (trials, 3), generator=generator)
    observations = [
        share_update(model, each, label, local=local, training=training, reveal=("labels", "local"))
        for each, label in zip(images, labels, strict=True)
    ]
    return model, observations, points


@pytest.mark.parametrize("objective", [Cosine(), SquaredDifferences(scale=3.0)], ids=repr)
@pytest.mark.parametrize("local", LOCALS, ids=repr)
def test_trials_at_once_have_the_values_and_gradients_of_each_alone(local: LocalTraining, objective: Objective) -> None:
    """If it fails, federated averaging is attacked with another training than the client's, or trials mix."""
    model, observations, points = scene(local, _SIMULATED + 1)
    plain, problem = (
        Matching(model, observations, objective=objective, loss=cross_entropy, engine=engine)  # type: ignore[arg-type]
        for engine in ("plain", None)
    )
    assert plain.labels is not None
    expected, found = plain(points, plain.labels), problem(points, plain.labels)
    assert isinstance(problem._engine._taps, Simulations)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.images, expected.images, rtol=1e-9, atol=1e-15)
    some = slice(3, 5)
    alone = problem.values(points[some], plain.labels[some], trials=some)
    torch.testing.assert_close(alone, expected.values[some], rtol=1e-12, atol=1e-15)
    assert problem.evaluations == [one * (2 if 3 <= i < 5 else 1) for i, one in enumerate(plain.evaluations)]


def test_restarts_of_one_observation_share_its_target() -> None:
    """If it fails, a restart is compared with another client's update."""
    model, observations, points = scene(LOCALS[0], 3)
    repeated = observations[:1] * 3
    plain, problem = (
        Matching(model, repeated, objective=Cosine(), loss=cross_entropy, engine=engine)  # type: ignore[arg-type]
        for engine in ("plain", None)
    )
    assert plain.labels is not None
    torch.testing.assert_close(
        problem(points, plain.labels).images, plain(points, plain.labels).images, rtol=1e-9, atol=1e-15
    )
    assert isinstance(problem._engine._taps, Simulations)


def test_batch_statistics_and_a_single_trial_are_left_to_the_plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running statistics cannot move for trials at once, and one trial has the bits of the plain engine.

    If it fails, such an attack stops with an error of vmap, or the statistics of the copy move with its trials."""
    calls: list[int] = []
    whole = Engine._by_taps
    monkeypatch.setattr(Engine, "_by_taps", lambda *given: (calls.append(1), whole(*given))[1])
    for name, trials, training in (("resnet10", 2, True), ("convnet", 1, False)):
        model, observations, points = scene(LOCALS[2], trials, name=name, training=training)
        plain, problem = (
            Matching(model, observations, objective=Cosine(), loss=cross_entropy, engine=engine)  # type: ignore[arg-type]
            for engine in ("plain", None)
        )
        assert plain.labels is not None
        assert problem(points, plain.labels).images.equal(plain(points, plain.labels).images)
    assert not calls
