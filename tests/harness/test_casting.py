"""Who plays in a block: trained victims and what they are trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gia.data import load
from gia.harness import casting
from gia.harness.casting import keeping_fits
from gia.harness.run import measure
from tests.harness.toy import BLOCK, FITTING, PROTOCOL, Spy, with_state


def test_states_are_stages_of_one_training_and_their_accuracy_is_measured(spy: Spy, tmp_path: Path) -> None:
    """The trained victim would not be the untrained one after training, or its accuracy would be another net's."""
    with keeping_fits(tmp_path):
        seen = [measure(with_state(state), BLOCK) for state in ("untrained", "half-trained", "trained")]
    measure(PROTOCOL, BLOCK)
    states = [call["state"] for call in spy.calls]
    data = load("digits", image_size=8)
    fitted = casting.fitted(with_state("trained"), FITTING, BLOCK, data)
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
    train, test = casting.divided(protocol, protocol.fit, BLOCK, data)
    private, others = casting.private(protocol, BLOCK, data), casting.others(protocol, BLOCK, data)

    def holding(images: Tensor, chosen: Tensor) -> list[bool]:
        return [bool((images == image).flatten(1).all(1).any()) for image in data.images[chosen]]

    attacked = torch.cat([private, others])
    assert holding(train.images, attacked) == [members] * 8
    assert not any(holding(test.images, attacked))
    assert len(train) + len(test) == len(data) - (0 if members else 8)
    assert len(test) == pytest.approx(0.2 * len(data), abs=10)
    kept = casting.divided(with_state("untrained"), FITTING, BLOCK, data)[1]
    assert torch.equal(kept.labels.bincount(), test.labels.bincount())


def test_reserved_images_are_the_attackers_in_every_level_and_nobody_elses() -> None:
    """Levels of other patterns would each train an inverter of their own, on images that another one attacks."""
    data = load("digits", image_size=8)
    levels = [replace(PROTOCOL, pattern=pattern, reserved=1000, control_images=8) for pattern in ("distinct", "equal")]
    first, second = (casting.public_images(level, BLOCK, data) for level in levels)
    assert len(first) == 1000
    assert torch.equal(first.images, second.images)
    for level in levels:
        private, others = casting.private(level, BLOCK, data), casting.others(level, BLOCK, data)
        whose = torch.cat([private, others, casting.left_over(level, BLOCK, data)])
        assert len(whose.unique()) == len(whose) == 4 + 8 + 1000
    assert len(data.labels[casting.private(levels[1], BLOCK, data)].unique()) == 1
    with pytest.raises(ValueError, match=f"reserved: expected at least 0 and less than the {len(data)} images"):
        casting.private(replace(PROTOCOL, reserved=len(data)), BLOCK, data)
