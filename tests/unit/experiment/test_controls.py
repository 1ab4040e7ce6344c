"""The control of a search: whether the path from image to attack works, on another victim and other images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gia import attacks
from gia.attacks import Reconstruction
from gia.data import Images
from gia.experiment import Exchange, Fishing, Round, controls, exchange, measure, placebo
from gia.experiment.controls import path_works
from gia.federated import LocalTraining, Observation
from gia.models import build
from tests.unit.experiment.toy import BLOCK, FITTING, PROTOCOL, Spy, silence, stranger, unchanged

#: Enough steps for the attack to work.
ALIVE = PROTOCOL.with_({"attacker.settings.steps": 50})


@pytest.mark.parametrize("state", ["untrained", "trained"])
def test_the_control_voids_a_block_whose_training_taught_nothing(state: Any, tmp_path: Path) -> None:
    """A "trained" net that is as good as untrained would be evidence of what training does."""
    taught, control = (
        path_works(ALIVE.with_({"fit": replace(FITTING, state=state, accuracy=least)}), BLOCK, cache=tmp_path)
        for least in (0.5, 1.0)
    )
    assert "held-out accuracy 0." in taught.reason
    assert not control.passed
    assert control.reason.count("held-out accuracy 0.") == 2
    assert min(control.values["held_out_accuracy"], control.values["control_held_out_accuracy"]) > 0.5
    assert len(list(tmp_path.iterdir())) == 2, "the block's victim was trained, and the control's own"


def test_the_control_passes_an_attack_that_works_and_classifies_what_it_finds() -> None:
    """Every block would be void."""
    control = path_works(ALIVE, BLOCK)
    assert control.passed, control.reason
    assert abs(control.values["truth"]) < 1e-6 < control.values["found"] < control.values["unsearched"] / 5


def test_the_control_attacks_a_victim_of_its_own(spy: Spy) -> None:
    """A control on the attacked victim would select victims."""
    measure(ALIVE, BLOCK)
    path_works(ALIVE, BLOCK)
    own, other = spy.calls[0]["state"], spy.calls[1]["state"]
    assert own.keys() == other.keys()
    assert not torch.equal(own["layers.0.weight"], other["layers.0.weight"])


@pytest.mark.parametrize(
    "attacker",
    [
        {"settings.steps": 0},
        {"settings.lr": 1e-9},
        {"placebo": "noise"},
        {"placebo": "unmoved"},
        {"placebo": "blind"},
        {"placebo": "labels"},
    ],
    ids=str,
)
def test_the_control_fails_a_search_that_does_not_find(attacker: dict[str, Any]) -> None:
    """An attack that does nothing "supports" every claim that says worse."""
    control = path_works(ALIVE.with_({f"attacker.{key}": value for key, value in attacker.items()}), BLOCK)
    assert not control.passed
    assert control.reason.startswith("failed: data term")
    assert control.values["found"] >= control.values["unsearched"] > control.values["truth"]


def test_the_control_fails_a_search_that_is_as_good_as_what_it_is_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it fails, an attack that returns the best of what is known without a search passes for one that searches."""
    monkeypatch.setattr(controls, "STARTS", 0)
    monkeypatch.setattr(controls, "_placebos", lambda *_: {})
    control = path_works(ALIVE.with_({"attacker.settings.steps": 0}), BLOCK)
    assert control.values["found"] == control.values["unsearched"] > control.values["truth"]
    assert not control.passed


def test_the_search_is_compared_with_its_own_start_and_with_eight_others() -> None:
    """An attack that stands still would pass where its start happens to be the best."""
    round = Round(ALIVE, BLOCK)
    exchange = Exchange(round.controlled, round.control)
    unmoved = exchange.attacked(exchange.answers, "control start", {"steps": 0})
    for number, (answer, own) in enumerate(zip(exchange.answers, unmoved, strict=True)):
        starts = controls._starts(exchange, answer, number)
        assert torch.equal(starts[0], own.images)
        assert len(torch.stack(starts).unique(dim=0)) == 9


def test_the_saboteur_passes_at_the_first_level_and_is_void_at_the_second() -> None:
    """The truth at one level and noise at the next would support that the next is worse."""
    first, second = (path_works(placebo("saboteur")(ALIVE, position), BLOCK) for position in range(2))
    assert first.passed, first.reason
    assert not second.passed


class Closed(nn.Module):
    """A net whose first layer multiplies images by 0: its gradients are not zero, and are the same for all images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Of black images."""
        return self.net(images * 0)


def closed(model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
    """An edit that closes the first layer."""
    biased = build("lenet", num_classes=10, image_size=8, channels=1, generator=generator)
    return Closed(biased)


def test_the_control_fails_a_victim_whose_gradient_does_not_show_the_image() -> None:
    """No image could come back, at this level and at every other, whatever is compared."""
    control = path_works(ALIVE.with_({"victim.edit": closed}), BLOCK)
    assert not control.passed
    assert control.reason.startswith("failed: ideal data term")
    assert "found" not in control.values, "nothing is searched for"


def test_the_control_fails_a_gradient_that_is_zero() -> None:
    """Zero gradients would count as evidence that an attack is weak."""
    control = path_works(PROTOCOL.with_({"victim.edit": silence}), BLOCK)
    assert not control.passed
    assert "gradient is zero" in control.reason


def noisy(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defense after which the gradient is a different one."""
    noise = {k: g + 0.1 * torch.randn(g.shape, generator=generator) for k, g in observation.gradients.items()}
    return replace(observation, gradients=noise)


@pytest.mark.parametrize(
    "changes",
    [
        {"client.local": LocalTraining(2, 1, 0.1), "client.reveal": ("labels", "local")},
        {"client.local": LocalTraining(2, 1, 0.1), "client.reveal": ("labels",)},
        {"client.defenses": (noisy,)},
    ],
    ids=["an unknown order", "an unknown training", "a defense"],
)
def test_the_objective_is_asked_to_see_the_image_under_an_ideal_simulation(changes: dict[str, Any]) -> None:
    """What a client hides would void the block, although a weak attack there is a finding."""
    control = path_works(ALIVE.with_({"batch.size": 4, "scoring.control_images": 4, **changes}), BLOCK)
    assert "ideal" not in control.reason.partition("failed: ")[2]
    assert abs(control.values["ideal_truth"]) < 1e-6
    assert control.values["truth"] > 1e-4, "the attacker's own term is not zero at the truth"


def test_an_ideal_data_term_that_is_not_zero_at_the_truth_is_a_broken_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client and an attack that compute different gradients would be taken for a weak attack."""
    monkeypatch.setattr(controls, "_ideal", lambda exchange, answer: answer)  # so the defense is not left out
    control = path_works(ALIVE.with_({"client.defenses": (noisy,)}), BLOCK)
    assert not control.passed
    assert control.values["ideal_truth"] < control.values["ideal_noisy_truth"]


@pytest.mark.parametrize("kind", ["class", "feature"])
def test_a_fished_target_is_controlled_alone_in_its_batch(kind: Any) -> None:
    """Images that isolation leaves mixed would void the block, although they are what the row measures."""
    changes = {
        "attacker.attack": "fishing",
        "victim.fish": Fishing(kind=kind, targets=1),
        "batch.size": 4,
        "client.local": LocalTraining(2, 1, 0.01) if kind == "class" else None,
        "scoring.control_images": 4,
    }
    control = path_works(ALIVE.with_(changes), BLOCK)
    assert control.passed, control.reason
    assert abs(control.values["ideal_truth"]) < 1e-6


def test_an_attack_without_a_card_is_controlled_by_the_cosine_of_gradients() -> None:
    """Noise from outside would be measured as an attack."""
    control = path_works(PROTOCOL.with_({"attacker.attack": stranger, "attacker.settings": {}}), BLOCK)
    assert not control.passed
    assert control.reason.startswith("failed: data term")
    assert path_works(
        PROTOCOL.with_({"attacker.attack": stranger, "attacker.settings": {}, "attacker.placebo": "truth"}), BLOCK
    ).passed


def test_control_images_are_not_private(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with a lucky first level would select themselves."""
    batches: list[Tensor] = []

    class Watched(exchange.federated.Client):
        def __init__(self, images: Tensor, *rest: Any, **options: Any) -> None:
            batches.extend(images)
            super().__init__(images, *rest, **options)

    monkeypatch.setattr(exchange.federated, "Client", Watched)
    protocol = PROTOCOL.with_(
        {
            "batch.data": "cifar10-samples",
            "batch.image_size": 32,
            "batch.images": 8,
            "batch.pattern_batch": 8,
            "scoring.control_images": 12,
        }
    )
    measure(protocol, BLOCK)
    private, batches = list(batches), []
    monkeypatch.setattr(controls, "FEW", 12)
    path_works(protocol, BLOCK)
    assert (len(private), len(batches)) == (8, 24), "each control image is shared once, and once ideally"
    assert not any(torch.equal(one, other) for one in private for other in batches)
    with pytest.raises(ValueError, match=r"control_images: expected 1 to 12, .* got 13"):
        path_works(protocol.with_({"scoring.control_images": 13}), BLOCK)


def test_a_search_is_controlled_on_few_whole_batches(spy: Spy) -> None:
    """A control would be run on a batch of another size than the attack, or cost as much as the largest level."""
    sizes: dict[int, list[int]] = {}
    sized = {"batch.images": 6, "batch.pattern": "any", "batch.pattern_batch": None, "scoring.control_images": 4}
    for size in (1, 2, 3):
        path_works(ALIVE.with_({**sized, "batch.size": size}), BLOCK)
        attacked = [call for call in spy.calls if call["settings"]["steps"]]  # the others are starts
        sizes[size] = [each.batch_size for each in attacked[-1]["observations"]]
    assert sizes == {1: [1, 1], 2: [2], 3: [3]}
    larger = PROTOCOL.with_({"batch.size": 4, "scoring.control_images": 2, "victim.edit": unchanged})
    measure(larger, BLOCK)
    with pytest.raises(ValueError, match="control_images: expected whole batches of size=4, got 2"):
        path_works(larger, BLOCK)


def brightness(exchange: Exchange, answer: Any, images: Sequence[Tensor], labels: Tensor) -> list[float]:
    """Stands in for data terms: the means of the images."""
    return [float(each.mean()) for each in images]


def test_a_search_is_judged_by_the_mean_of_its_batches_and_not_by_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image that comes back would pass a control in which the others are lost."""
    round = Round(PROTOCOL, BLOCK)
    control = Exchange(round.controlled, round.control)
    assert len(control.answers) > 1
    levels = [0.1 * number for number in range(len(control.answers))]
    monkeypatch.setattr(controls, "_terms", brightness)
    monkeypatch.setattr(
        control,
        "reconstructions",
        lambda answers, start: [
            Reconstruction(images=torch.full_like(answer.reference, level))
            for answer, level in zip(answers, levels, strict=True)
        ],
    )
    _, values = controls._follows(control)
    assert values["found"] == pytest.approx(sum(levels) / len(levels))
    truth = [float(answer.reference.mean()) for answer in control.answers]
    assert values["truth"] == pytest.approx(sum(truth) / len(truth))


def test_a_start_from_which_the_local_training_overflows_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of nine random starts ended the row of a whole run with an error."""
    run, lost = attacks.run_many, Reconstruction(images=torch.empty(0, 3, 8, 8))

    def broken(*arguments: Any, **options: Any) -> list[Reconstruction]:
        found = run(*arguments, **options)
        return [lost, *found[1:]] if options["steps"] == 0 else found

    monkeypatch.setattr("gia.experiment.exchange.attacks.run_many", broken)
    round = Round(ALIVE, BLOCK)
    exchange = Exchange(round.controlled, round.control)
    generators = [BLOCK.generator("start", number) for number in range(3)]
    assert len(exchange.unmoved(exchange.answers[0], generators)) == 2
    assert path_works(ALIVE, BLOCK).passed


@pytest.mark.parametrize("at", ["truth", "found", "all"])
def test_a_data_term_that_is_no_number_passes_no_control(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is neither above nor below a limit, so a check that is turned around lets it through."""
    terms, calls = controls._terms, iter(range(10**6))

    def broken(*arguments: Any, **options: Any) -> list[float]:
        seen = terms(*arguments, **options)
        first, ideal = next(calls) == 0, "mirrored" in options
        return {
            "truth": [math.nan, *seen[1:]] if first else seen,
            "found": seen if ideal else [math.nan] * len(seen),
            "all": [math.nan] * len(seen),
        }[at]

    monkeypatch.setattr(controls, "_terms", broken)
    control = path_works(ALIVE, BLOCK)
    assert not control.passed
    assert "nan" in control.reason


def test_a_number_of_a_control_that_is_not_finite_is_told_and_not_kept() -> None:
    """JSON has no NaN: a block with one could not be stored, and its row ended in an error."""
    told = controls._control({"misfit nan found, less than 1 asked": False}, {"found": math.nan, "truth": 0.5}, {})
    assert not told.passed
    assert "nan" in told.reason
    assert told.values == {"truth": 0.5}


@pytest.mark.parametrize("whose", ["attacked", "control's"])
def test_local_training_that_diverges_voids_the_block(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a whole run ended in an error, since a client's weights were no longer finite."""
    protocol = ALIVE.with_(
        {"client.local": LocalTraining(epochs=1, batch_size=1, lr=0.01), "client.reveal": ("local",)}
    )
    round = Round(protocol, BLOCK)
    broken = round.private if whose == "attacked" else round.control
    client = Exchange._client

    def diverging(self: Exchange, batch: Tensor, number: int) -> Any:
        asked = client(self, batch, number)
        if bool(torch.isin(batch, broken).any()):
            asked._local = LocalTraining(epochs=9, batch_size=1, lr=1e30)
        return asked

    monkeypatch.setattr(Exchange, "_client", diverging)
    control = path_works(protocol, BLOCK)
    assert not control.passed
    assert "local: expected steps after which all weights are finite" in control.reason
