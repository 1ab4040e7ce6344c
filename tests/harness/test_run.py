"""From protocol to score: levels share what they must, the attack sees no image, controls tell a dead attack."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gia import metrics
from gia.attacks import Reconstruction
from gia.attacks.matching import Interrupted
from gia.data import load
from gia.federated import LocalTraining, Observation, share_update
from gia.harness import run, scores
from gia.harness.blocks import Block
from gia.harness.protocol import Experiment, Fitting, Protocol
from gia.harness.run import beats_blind_guess, keeping_fits, measure, shares_gradients

BLOCK = Block("toy.run", 0, {})
PROTOCOL = Protocol(
    attack="inverting_gradients",
    victim={"name": "mlp", "width": 32},
    data="digits",
    image_size=8,
    images=4,
    pattern="distinct",
    pattern_batch=4,
    settings={"steps": 5, "total_variation": 0.0},
    score=("psnr", "rmse"),
    control=beats_blind_guess,
)


class Spy:
    """Stands in for `run_many`: notes what every attack is given, and answers with `answer(observation)`."""

    def __init__(self, answer: Callable[[Observation], Tensor]) -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        attack: str,
        model: nn.Module,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        **settings: Any,
    ) -> list[Reconstruction]:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        seeds = [generator.initial_seed() for generator in generators]
        self.calls.append({"state": state, "observations": observations, "seeds": seeds, "settings": settings})
        return [Reconstruction(images=self.answer(o), gradient_evaluations=7, objective=0.5) for o in observations]


def black(observation: Observation) -> Tensor:
    """A black image for each private one."""
    return torch.zeros(observation.batch_size, *observation.image_shape)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """No attack is run; what it would have been given is noted."""
    spy = Spy(black)
    monkeypatch.setattr(run.attacks, "run_many", spy)
    return spy


def test_every_batch_size_attacks_the_same_images_on_the_same_victim(spy: Spy) -> None:
    """The levels would differ in their data or net, and the slope would measure that."""
    seen = {size: measure(replace(PROTOCOL, batch_size=size), BLOCK) for size in (1, 2, 4)}
    for size, call in zip(seen, spy.calls, strict=True):
        assert [o.batch_size for o in call["observations"]] == [size] * (4 // size)
        assert np.array_equal(seen[size].originals, seen[1].originals)
        for name, value in call["state"].items():
            assert torch.equal(value, spy.calls[0]["state"][name])


def test_another_block_has_another_victim_other_images_and_other_starts(spy: Spy) -> None:
    """Blocks would be copies of one another, and eight of them as good as one."""
    one, other = measure(PROTOCOL, BLOCK), measure(PROTOCOL, replace(BLOCK, index=1))
    assert not np.array_equal(one.originals, other.originals)
    name = "layers.0.weight"
    assert not torch.equal(spy.calls[0]["state"][name], spy.calls[1]["state"][name])
    assert not set(spy.calls[0]["seeds"]) & set(spy.calls[1]["seeds"])
    assert len(set(spy.calls[0]["seeds"])) == 4


def test_an_attack_is_given_the_model_observations_generators_and_settings_only(spy: Spy) -> None:
    """An attack could read the answer."""
    private = load("digits", image_size=8).images
    measure(replace(PROTOCOL, batch_size=2), BLOCK)
    (call,) = spy.calls
    assert call["settings"] == PROTOCOL.settings
    for observation in call["observations"]:
        assert isinstance(observation, Observation)
        assert not any(value.shape[-2:] == private.shape[-2:] for value in observation.gradients.values())
        assert observation.batch_norm is None


def test_what_leaks_is_what_the_protocol_reveals(spy: Spy) -> None:
    """The threat model of a table would not be the one that was measured."""
    local = LocalTraining(epochs=1, batch_size=1, lr=0.01)
    measure(replace(PROTOCOL, reveal=(), local=local), BLOCK)
    measure(replace(PROTOCOL, reveal=("labels", "local"), local=local, training=True), BLOCK)
    hidden, shown = (call["observations"][0] for call in spy.calls)
    assert (hidden.labels, hidden.local, hidden.training) == (None, None, False)
    assert (shown.labels is not None, shown.local, shown.training) == (True, local, True)


LOCAL = LocalTraining(epochs=3, batch_size=1, lr=0.5)
WRONG = LocalTraining(epochs=1, batch_size=4, lr=0.1)


def test_attackers_of_one_update_differ_in_what_they_take_for_the_local_training_only(spy: Spy) -> None:
    """The compared knowledge would come with another update, or a wrong assumption would be put right."""
    shared = replace(PROTOCOL, local=LOCAL, batch_size=4)
    strong = replace(shared, reveal=("labels", "local"))
    for protocol in (strong, replace(shared, assumed=WRONG), shared):
        measure(protocol, BLOCK)
    observations = [call["observations"][0] for call in spy.calls]
    assert [o.local for o in observations] == [LOCAL, WRONG, None]
    for observation in observations:
        for name, gradient in observation.gradients.items():
            assert torch.equal(gradient, observations[0].gradients[name])


def test_the_order_of_local_training_is_drawn_anew_and_stays_with_the_client(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker could simulate step by step what it cannot know, or a client would train in one order for ever."""
    clients: list[dict[str, Any]] = []

    class Watched(run.Client):
        def __init__(self, images: Tensor, labels: Tensor, **options: Any) -> None:
            clients.append({"images": images, "labels": labels, **options})
            super().__init__(images, labels, **options)

    monkeypatch.setattr(run, "Client", Watched)
    protocol = replace(PROTOCOL, local=LOCAL, reveal=("labels", "local"), batch_size=4)
    measure(protocol, BLOCK)
    (client,), (call,) = clients, spy.calls
    (observation,) = call["observations"]
    victim = run._victim(protocol, BLOCK, load("digits", image_size=8), torch.float32)
    generator = BLOCK.generator("order", 0)
    drawn = torch.stack([torch.randperm(4, generator=generator) for _ in range(LOCAL.epochs)])
    assert len(drawn.unique(dim=0)) > 1
    told = {"local": LOCAL, "reveal": ("labels", "local")}
    replayed = share_update(victim, client["images"], client["labels"], order=drawn, **told)
    by_label = client["labels"].argsort()
    guessed = share_update(victim, client["images"][by_label], client["labels"][by_label], **told)
    name = "layers.0.weight"
    assert torch.equal(observation.gradients[name], replayed.gradients[name])
    assert not torch.allclose(observation.gradients[name], guessed.gradients[name], rtol=1e-2)
    assert torch.equal(observation.labels, client["labels"].sort().values)
    held = {field.name for field in fields(observation) if isinstance(getattr(observation, field.name), Tensor)}
    assert held == {"labels"}
    assert call["settings"] == PROTOCOL.settings
    assert client["generator"].initial_seed() not in call["seeds"]


FITTING = Fitting(epochs=2, half=1, lr=1e-2, accuracy=0.8)


def with_state(state: Any, **changes: Any) -> Protocol:
    """The protocol on a victim in this state."""
    return replace(PROTOCOL, fit=replace(FITTING, state=state, **changes))


def test_states_are_stages_of_one_training_and_their_accuracy_is_measured(spy: Spy, tmp_path: Path) -> None:
    """The trained victim would not be the untrained one after training, or its accuracy would be another net's."""
    with keeping_fits(tmp_path):
        seen = [measure(with_state(state), BLOCK) for state in ("untrained", "half-trained", "trained")]
    measure(PROTOCOL, BLOCK)
    states = [call["state"] for call in spy.calls]
    data = load("digits", image_size=8)
    fitted = run._fitted(with_state("trained"), FITTING, BLOCK, data)
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(states[0][name], states[3][name])
        assert torch.equal(states[1][name], fitted.checkpoints[1].state_dict()[name])
        assert torch.equal(states[2][name], value)
    assert len(list(tmp_path.iterdir())) == 1, "one training served all states"
    accuracies = [found.values["held_out_accuracy"] for found in seen]
    assert accuracies[2] == fitted.accuracy
    assert accuracies[0] < 0.4 < accuracies[1] < accuracies[2]


@pytest.mark.parametrize("members", [True, False])
def test_attacked_images_are_trained_on_only_as_members_and_never_measure_accuracy(
    members: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two kinds of victims would be the same, or the accuracy would be that on memorized images."""
    data = load("digits", image_size=8)
    protocol = replace(with_state("trained", members=members), control_images=4)
    train, test = run._divided(protocol, protocol.fit, BLOCK, data)
    private, others = run._private(protocol, BLOCK, data), run._others(protocol, BLOCK, data)

    def holding(images: Tensor, chosen: Tensor) -> list[bool]:
        return [bool((images == image).flatten(1).all(1).any()) for image in data.images[chosen]]

    attacked = torch.cat([private, others])
    assert holding(train.images, attacked) == [members] * 8
    assert not any(holding(test.images, attacked))
    assert len(train) + len(test) == len(data) - (0 if members else 8)
    assert len(test) == pytest.approx(0.2 * len(data), abs=10)
    kept = run._divided(with_state("untrained"), FITTING, BLOCK, data)[1]
    assert torch.equal(kept.labels.bincount(), test.labels.bincount())


@pytest.mark.parametrize("state", ["untrained", "trained"])
def test_the_control_voids_a_block_whose_training_taught_nothing(state: Any, tmp_path: Path) -> None:
    """A "trained" net that is as good as untrained would stand for what training does."""
    alive = replace(PROTOCOL, settings={"steps": 50, "total_variation": 0.0})
    with keeping_fits(tmp_path):
        taught = beats_blind_guess(replace(alive, fit=replace(FITTING, state=state, accuracy=0.5)), BLOCK)
        control = beats_blind_guess(replace(alive, fit=replace(FITTING, state=state, accuracy=1.0)), BLOCK)
    assert taught.passed, taught.reason
    assert "held-out accuracy 0." in taught.reason
    assert not control.passed
    assert control.reason.startswith("failed: held-out accuracy 0.")
    assert control.values["held_out_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "ripe"}, "state: expected one of .* got 'ripe'"),
        ({"half": 2}, "half: expected between 0 and epochs=2"),
    ],
)
def test_a_training_that_cannot_be_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        replace(FITTING, **changes)


def test_an_image_without_a_reconstruction_scores_as_the_blind_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that returns nothing would raise, or be averaged over the images that it chose to return."""
    monkeypatch.setattr(run.attacks, "run_many", Spy(lambda observation: black(observation)[:0]))
    seen = measure(PROTOCOL, BLOCK)
    assert seen.unmatched == 4
    assert seen.values["psnr"] == pytest.approx(seen.blind["psnr"], abs=1e-9)
    assert seen.values["rmse"] == pytest.approx(seen.blind["rmse"], abs=1e-9)


def test_values_are_means_over_images_of_gias_metrics(spy: Spy) -> None:
    """The table would hold something else than its column says."""
    seen = measure(PROTOCOL, BLOCK)
    private = torch.from_numpy(seen.originals).float() / 255  # digits have 17 gray levels: 8 bits cost 1/510 at most
    expected = metrics.psnr(torch.zeros_like(private), private)
    assert seen.values["psnr"] == pytest.approx(float(expected.mean()), abs=0.1)
    assert seen.values["psnr"] == pytest.approx(math.fsum(seen.per_image["psnr"]) / 4)
    assert seen.gradient_evaluations == 4 * 7


def test_a_metric_that_is_not_defined_at_this_size_is_none() -> None:
    """A made-up number, or a crash over a metric that only decorates, would stand in the table."""
    seen = measure(replace(PROTOCOL, score=("psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg")), BLOCK)
    assert {name for name, value in seen.values.items() if value is None} == {"ssim", "lpips", "lpips_vgg"}
    assert set(seen.per_image) == {"psnr", "cw_ssim"}


def test_each_metric_is_defined_from_its_smallest_size_on() -> None:
    """A metric would be n/a where it exists, or raise where it does not."""
    for name, metric in scores.METRICS.items():
        if name.startswith("lpips"):
            assert metric.minimum == metrics.perceptual.SMALLEST
            continue  # needs trained trunks; the limit is that of gia.metrics
        images = torch.rand(2, 3, metric.minimum, metric.minimum, generator=torch.Generator().manual_seed(0))
        assert scores.score(name, images, images.flip(3)) is not None
        if metric.minimum > 1:
            small = images[..., : metric.minimum - 1, : metric.minimum - 1]
            assert scores.score(name, small, small) is None
            with pytest.raises(ValueError, match=str(metric.minimum)):
                metric.function(small, small)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_exact_is_every_pixel_within_the_limit_of_its_dtype_unclamped(dtype: torch.dtype, limit: float) -> None:
    """One wrong pixel, or one beyond [0, 1] that clamping would hide, would count as an exact image."""
    images = torch.ones(4, 3, 8, 8, dtype=dtype)
    off = images.clone()
    off[:, 0, 0, 0] += torch.tensor([0, 0.5, 2, -2]).to(dtype) * limit
    assert scores.score("exact_share", off, images) == [1, 1, 0, 0]


def test_a_real_attack_measures_the_same_twice_in_either_precision() -> None:
    """A resumed table would differ from an uninterrupted one."""
    for dtype in ("float32", "float64"):
        one, two = (measure(replace(PROTOCOL, dtype=dtype), BLOCK) for _ in range(2))
        assert one.values == two.values
        assert np.array_equal(one.reconstructions, two.reconstructions)


def test_an_interrupted_attack_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best image so far would be stored as a finished block."""

    def interrupted(observation: Observation) -> Tensor:
        warnings.warn("interrupted at step 3 of 5", Interrupted, stacklevel=2)
        return black(observation)

    monkeypatch.setattr(run.attacks, "run_many", Spy(interrupted))
    with pytest.raises(KeyboardInterrupt):
        measure(PROTOCOL, BLOCK)


def test_the_control_passes_a_living_attack() -> None:
    """Every block would be void."""
    control = beats_blind_guess(replace(PROTOCOL, settings={"steps": 50, "total_variation": 0.0}), BLOCK)
    assert control.passed, control.reason
    assert control.values["psnr"] > control.values["blind_psnr"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"steps": 0}, "objective"), ({"steps": 10, "lr": 1e-6}, "PSNR")],
    ids=["no step", "steps that lead nowhere"],
)
def test_the_control_fails_a_dead_attack(settings: dict[str, Any], why: str) -> None:
    """A dead attack "supports" every claim that says worse."""
    control = beats_blind_guess(replace(PROTOCOL, settings=settings), BLOCK)
    assert not control.passed
    assert why in control.reason


class Silent(nn.Module):
    """A net whose output does not depend on its weights."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Zeros."""
        return self.net(images) * 0


def silence(model: nn.Module, *, generator: torch.Generator) -> nn.Module:
    """An edit after which no gradient is left."""
    return Silent(model)


def test_the_control_fails_a_gradient_that_is_zero() -> None:
    """Zero gradients would count as evidence that an attack is weak."""
    control = beats_blind_guess(replace(PROTOCOL, edit=silence), BLOCK)
    assert not control.passed
    assert "gradient is zero" in control.reason


def test_the_control_without_an_attack_asks_for_gradients_and_for_a_victim_that_has_learned(tmp_path: Path) -> None:
    """Cosines of zero gradients, or of a net called trained that has learned nothing, would be evidence."""
    with keeping_fits(tmp_path):
        asked = {accuracy: shares_gradients(with_state("untrained", accuracy=accuracy), BLOCK) for accuracy in (0.4, 1)}
    assert asked[0.4].passed, asked[0.4].reason
    assert not asked[1].passed
    assert f"{asked[1].values['held_out_accuracy']:.3f}" in asked[1].reason
    assert shares_gradients(PROTOCOL, BLOCK).passed
    assert not shares_gradients(replace(PROTOCOL, edit=silence), BLOCK).passed


def test_control_images_are_not_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with a lucky first level would select themselves."""
    batches: list[Tensor] = []

    class Watched(run.Client):
        def __init__(self, images: Tensor, *rest: Any, **options: Any) -> None:
            batches.append(images)
            super().__init__(images, *rest, **options)

    monkeypatch.setattr(run, "Client", Watched)
    protocol = replace(PROTOCOL, data="cifar10-samples", image_size=32, images=8, pattern_batch=8, control_images=12)
    monkeypatch.setattr(run.attacks, "run_many", Spy(black))
    measure(protocol, BLOCK)
    private, batches = batches, []
    monkeypatch.setattr(
        run.attacks, "CARDS", {"inverting_gradients": replace(run.attacks.CARDS["dlg"], iterative=False)}
    )
    beats_blind_guess(protocol, BLOCK)
    assert (len(private), len(batches)) == (8, 12)
    assert not any(torch.equal(one, other) for one in private for other in batches)
    with pytest.raises(ValueError, match=r"control_images: .*at most the 12 images"):
        beats_blind_guess(replace(protocol, control_images=13), BLOCK)


def test_a_drawn_setting_reaches_the_victim_the_attack_and_the_data(spy: Spy) -> None:
    """Hypothesis would vary nothing, and eight blocks would be one setting."""
    setting = {"victim.width": 8, "settings.steps": 3, "data": "cifar10-samples", "image_size": 32}
    drawn = PROTOCOL.drawn(setting)
    assert (drawn.victim["width"], drawn.settings["steps"], drawn.data) == (8, 3, "cifar10-samples")
    assert drawn.settings["total_variation"] == 0.0
    measure(PROTOCOL, replace(BLOCK, setting=setting))
    (call,) = spy.calls
    assert call["state"]["layers.0.weight"].shape == (8, 3 * 32 * 32)
    assert call["settings"]["steps"] == 3


def test_standardized_space_and_victim_go_together(spy: Spy) -> None:
    """The paper's scale would be run in another space than it says."""
    victim = {**PROTOCOL.victim, "standardize": {"mean": (0.5,), "std": (0.25,)}}
    measure(replace(PROTOCOL, victim=victim, space="standardized"), BLOCK)
    assert spy.calls[0]["settings"]["space"] == "standardized"
    seen = run._victim(replace(PROTOCOL, victim=victim), BLOCK, load("digits", image_size=8), torch.float32)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = run._victim(PROTOCOL, BLOCK, load("digits", image_size=8), torch.float32)
    assert torch.allclose(seen(images), plain((images - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "images: expected a positive multiple of batch_size=3, got 4"),
        ({"space": "latent"}, "space: expected 'pixels' or 'standardized', got 'latent'"),
        ({"dtype": "float16"}, "dtype: expected"),
        ({"victim": {"width": 3}}, "victim: expected a 'name'"),
        ({"score": ("psnr", "fid")}, "score: expected names among .*got 'fid'"),
        (
            {"assumed": LocalTraining(1, 1, 0.1), "reveal": ("local",)},
            "assumed: expected None where 'local' is revealed",
        ),
    ],
)
def test_a_protocol_that_cannot_run_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        replace(PROTOCOL, **changes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"width": 3}, "'width' names no field"), ({"images.first": 3}, "'images', which has none")],
)
def test_a_drawn_key_that_fits_no_field_is_refused(setting: dict[str, Any], message: str) -> None:
    """A misspelled key would be drawn, stored and ignored."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.drawn(setting)


def test_local_training_is_drawn_part_by_part_and_left_out_where_there_is_none() -> None:
    """FedSGD would be given local steps, or the epochs would be the same in every block."""
    local = LocalTraining(epochs=1, batch_size=2, lr=0.1)
    base = replace(PROTOCOL, local=local, vary={"local.epochs": (2, 5), "local.batch_size": (1, 4)})
    drawn = base.drawn({"local.epochs": 5, "local.batch_size": 1})
    assert drawn.local == LocalTraining(epochs=5, batch_size=1, lr=0.1)
    assert replace(base, local=None).drawn({"local.epochs": 5}).local is None
    assert set(Experiment("toy", {"sgd": replace(base, local=None), "avg": base}).levels) == {"sgd", "avg"}
    with pytest.raises(ValueError, match=r"differ in 'local\.epochs', which is also drawn"):
        Experiment("toy", {"one": base, "two": replace(base, local=replace(local, epochs=2))})


def test_a_factor_cannot_be_both_compared_and_drawn() -> None:
    """The draw would overwrite the level, and all levels would be alike."""
    base = replace(PROTOCOL, vary={"victim.width": (8, 16)})
    levels = {width: replace(base, victim={"name": "mlp", "width": width}) for width in (8, 32)}
    with pytest.raises(ValueError, match=r"differ in 'victim\.width', which is also drawn"):
        Experiment("toy", levels)


@dataclass(frozen=True)
class Mild:
    """A setting."""

    weight: float = 1.0


@dataclass(frozen=True)
class Sharp:
    """Another with the same fields."""

    weight: float = 1.0


def test_a_digest_depends_on_settings_and_on_nothing_else() -> None:
    """Two settings would share a baseline or a cached block, or one would have several."""
    turned = replace(PROTOCOL, settings=dict(reversed(PROTOCOL.settings.items())))
    assert PROTOCOL.digest() == turned.digest()
    others = [
        replace(PROTOCOL, settings={"objective": Mild()}),
        replace(PROTOCOL, settings={"objective": Sharp()}),
        replace(PROTOCOL, settings={"objective": Sharp(2.0)}),
        replace(PROTOCOL, edit=silence),
        replace(PROTOCOL, control=None),
        replace(PROTOCOL, local=LocalTraining(1, 1, 0.1)),
        replace(PROTOCOL, assumed=LocalTraining(1, 1, 0.1)),
        replace(PROTOCOL, fit=FITTING),
    ]
    assert len({PROTOCOL.digest(), *(other.digest() for other in others)}) == 9
