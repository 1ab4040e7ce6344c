"""One communication round of a block: what is worked out once, trained victims, and who holds which images."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gia.data import Images, load
from gia.experiment import Round, measure, prepared, round
from gia.harness.blocks.block import Block
from tests.unit.experiment.toy import BLOCK, FACES, PROTOCOL, Spy, bright, unchanged, with_state


class Counting:
    """A block that counts for which purposes it is asked for a generator."""

    def __init__(self) -> None:
        self.setting: Mapping[str, Any] = {}
        self.lane = "claims"
        self.purposes: Counter[tuple[str | int, ...]] = Counter()

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Of the toy block."""
        self.purposes[purpose] += 1
        return BLOCK.generator(*purpose)


def test_one_measurement_works_out_once_who_is_private_and_builds_the_victim_once(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a trained and edited victim and a judge. Else a block would pay for its images and its victim many times."""
    calls: Counter[str] = Counter()

    def watch(name: str) -> None:
        function = getattr(round, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(round, name, watched)

    for name in ("accuracy", "build", "fit", "load_cached", "sample"):
        watch(name)
    scoring = {"scoring.metrics": ("psnr", "psnr_other", "label_agreement"), "scoring.judge": bright}
    block = Counting()
    measure(with_state("trained").with_({**scoring, "victim.edit": unchanged}), block)
    once = dict.fromkeys(["accuracy", "build", "fit", "load_cached"], 1)
    assert calls == {**once, "sample": 2}, "the private images, and the control's in the same pattern"
    assert set(block.purposes.values()) == {1}, block.purposes
    assert {("images",), ("control images",), ("victim",), ("fit",), ("judge",)} < set(block.purposes)


def test_a_round_works_out_only_what_is_asked_for(spy: Spy) -> None:
    """An untrained victim without control or public images would cost a training or more data than there are."""
    block = Counting()
    prepared(PROTOCOL.with_({"scoring.control_images": 10**6}), block)
    assert {purpose[0] for purpose in block.purposes} == {"images", "victim", "order"}


def test_states_are_stages_of_one_training_and_their_accuracy_is_measured(spy: Spy, tmp_path: Path) -> None:
    """The trained victim would not be the untrained one after training, or its accuracy would be another net's."""
    seen = [measure(with_state(state), BLOCK, cache=tmp_path) for state in ("untrained", "half-trained", "trained")]
    measure(PROTOCOL, BLOCK)
    states = [call["state"] for call in spy.calls]
    fitted = Round(with_state("trained"), BLOCK).fitted
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(states[0][name], states[3][name])
        assert torch.equal(states[1][name], fitted.checkpoints[1].state_dict()[name])
        assert torch.equal(states[2][name], value)
    assert len(list(tmp_path.iterdir())) == 1, "one training served all states"
    accuracies = [measurement.values["held_out_accuracy"] for measurement in seen]
    assert accuracies[2] == fitted.accuracy
    assert accuracies[0] < 0.4 < accuracies[1] < accuracies[2]


@pytest.mark.parametrize("members", [True, False])
def test_attacked_images_are_trained_on_only_as_members_and_never_measure_accuracy(
    members: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two kinds of victims would be the same, or the accuracy would be that on memorized images."""
    trainings = []

    def watched(model: Any, images: Images, *, held_out: Images, **options: Any) -> Any:
        trainings.append((images, held_out))
        return fit(model, images, held_out=held_out, **options)

    fit = round.fit
    monkeypatch.setattr(round, "fit", watched)
    protocol = with_state("trained", members=members).with_({"scoring.control_images": 4})
    whole = Round(protocol, BLOCK)
    assert whole.fitted.accuracy == whole.accuracy
    (train, test), data = trainings[0], whole.data

    def holding(images: Tensor, chosen: Tensor) -> list[bool]:
        return [bool((images == image).flatten(1).all(1).any()) for image in data.images[chosen]]

    attacked = torch.cat([whole.private, whole.control])
    assert holding(train.images, attacked) == [members] * 8
    assert not any(holding(test.images, attacked))
    assert len(train) + len(test) == len(data) - (0 if members else 8)
    assert len(test) == pytest.approx(0.2 * len(data), abs=10)
    assert Round(with_state("untrained"), BLOCK).fitted.accuracy > 0
    assert torch.equal(trainings[1][1].labels.bincount(), test.labels.bincount())


def test_a_protocol_without_a_training_has_no_trained_victim() -> None:
    """A control could read an accuracy that nobody trained for."""
    assert Round(PROTOCOL, BLOCK).accuracy is None
    with pytest.raises(ValueError, match="fit: expected a Fitting in the protocol, got None"):
        Round(PROTOCOL, BLOCK).fitted  # noqa: B018 - the property raises


def test_a_shared_attacker_holds_the_same_images_in_all_blocks_and_none_that_is_attacked() -> None:
    """Its nets would be trained again for each block and level, or on the images that they are to reveal."""
    shared = PROTOCOL.with_({"attacker.seed": 0, "scoring.control_images": 4})
    blocks = [Block("toy", index, {}) for index in range(20)]
    levels = [shared, shared.with_({"batch.pattern": "equal"})]
    rounds = [Round(level, block) for level in levels for block in blocks]
    held = [each.remaining for each in rounds]
    assert all(torch.equal(one, held[0]) for one in held)
    assert len(held[0].unique()) == 7 * len(rounds[0].data) // 8
    attacked = [indices for each in rounds for indices in (each.private, each.control)]
    assert not torch.isin(torch.cat(attacked), held[0]).any()
    other = Round(shared.with_({"attacker.seed": 1}), BLOCK).remaining
    assert not torch.equal(other.sort().values, held[0].sort().values)


@dataclass(frozen=True)
class InLane:
    """The toy block in another lane."""

    lane: str
    setting: Mapping[str, Any] = field(default_factory=dict)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Of the toy block."""
        return BLOCK.generator(*purpose)


def test_a_shared_attacker_belongs_to_its_lane() -> None:
    """Settings that were tried on pilot blocks would be chosen on the attackers of the claims."""
    shared = PROTOCOL.with_({"attacker.seed": 0})
    held = {lane: Round(shared, InLane(lane)).remaining for lane in ("claims", "pilot")}
    assert torch.equal(held["claims"], Round(shared, BLOCK).remaining)
    assert not torch.equal(held["claims"], held["pilot"])


def test_the_round_of_a_control_attacks_the_control_images_on_another_victim() -> None:
    """The control would attack private images, or choose blocks by their victim."""
    protocol = PROTOCOL.with_({"scoring.control_images": 4, "vary": {"victim.width": (8, 16)}})
    whole = Round(protocol, Block("toy", 0, {"victim.width": 8}))
    other = whole.controlled
    assert torch.equal(other.private, whole.control)
    assert not set(other.private.tolist()) & set(whole.private.tolist())
    assert torch.equal(other.remaining.sort().values, whole.remaining.sort().values)
    weights = [each.victim.get_parameter("layers.0.weight") for each in (whole, other)]
    assert [tuple(each.shape) for each in weights] == [(8, 64), (8, 64)]
    assert not torch.equal(*weights)


def shifted(model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
    """An edit that is seen in the weights."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_parameter("layers.0.bias").add_(1.0)
    return changed


@pytest.mark.parametrize("as_attacked", [False, True])
def test_a_victim_is_edited_before_its_training_or_after_it(as_attacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that edits a trained net may destroy what it learned, and the net would still be called trained."""
    starts = []

    def watched(model: Any, *arguments: Any, **options: Any) -> Any:
        starts.append(copy.deepcopy(model))
        return fit(model, *arguments, **options)

    fit = round.fit
    monkeypatch.setattr(round, "fit", watched)
    protocol = with_state("trained", as_attacked=as_attacked).with_({"victim.edit": shifted})
    whole = Round(protocol, BLOCK)
    sent, plain = whole.victim, Round(with_state("untrained"), BLOCK).victim
    bias = "layers.0.bias"
    trained_from, untrained = (each.get_parameter(bias) for each in (starts[0], plain))
    assert torch.allclose(trained_from, untrained + 1.0 * as_attacked)
    assert torch.equal(sent.get_parameter(bias), whole.fitted.model.get_parameter(bias) + 1.0 * (not as_attacked))
    for state in ("untrained", "half-trained"):
        other = Round(protocol.with_({"fit.state": state}), BLOCK)
        before = plain if state == "untrained" else other.fitted.checkpoints[1]
        edits_after = state == "untrained" or not as_attacked
        assert torch.equal(other.victim.get_parameter(bias), before.get_parameter(bias) + 1.0 * edits_after)


def test_the_first_hundred_bystanders_are_nearly_the_same_in_all_blocks() -> None:
    """LPIPS's trunk would see a hundred new faces for each block, and which ones would move the distances of blocks."""
    first, second = (set(Round(FACES, Block("toy", index, {})).bystanders[:100].tolist()) for index in range(2))
    assert len(first & second) >= 90


def test_another_image_of_a_class_is_not_attacked_itself() -> None:
    """PSNR to the attacked image would be compared with that to another attacked one, or to itself."""
    faces = Round(FACES, BLOCK)  # ten of each person
    others = faces.others_of_their_class(torch.arange(8))
    assert set(others.tolist()) <= {8, 9}
    with pytest.raises(ValueError, match="psnr_other: expected another image with label 0 in the data, got none"):
        faces.others_of_their_class(torch.arange(10))


def test_an_attacker_whose_data_are_all_attacked_holds_nothing() -> None:
    """A generator would be trained on no image, or on attacked ones."""
    samples = PROTOCOL.with_({"batch.data": "cifar10-samples", "batch.image_size": 32, "scoring.control_images": 16})
    with pytest.raises(ValueError, match="public: expected images of 'cifar10-samples' that are not attacked"):
        Round(samples, BLOCK).public  # noqa: B018 - the property raises
    digits = Round(samples.with_({"attacker.public": "digits"}), BLOCK).public
    assert torch.equal(digits.images, load("digits", image_size=32, channels=3).images)


def test_a_block_s_setting_is_put_into_the_protocol() -> None:
    """What was drawn for the block would be stored and not measured."""
    drawn = Round(PROTOCOL, Block("toy", 0, {"victim.width": 8, "batch.size": 2})).protocol
    assert (drawn.at("victim.width"), drawn.batch.size) == (8, 2)
