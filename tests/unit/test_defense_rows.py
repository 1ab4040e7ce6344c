"""What the rows of the defense compare: servers behind checks, federated trainings, and the plot of both costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from claims import federations, privacy_utility
from claims.checked import EXACT, behind_checks, path_works
from claims.federations import ALL_STAGES, UNDEFENDED, Federation
from claims.reduced.defense import ALL, COST, NAIVE, STAGES, WITH, WITHOUT
from claims.reduced.defense import UNDEFENDED as BARE
from gia.defenses import noise
from gia.harness.blocks.block import Block

BLOCK = Block("toy.run", 0, {})


@pytest.mark.parametrize("name", ["ana_arch", "ana_param"])
def test_a_client_that_checks_stops_the_naive_server_and_not_what_passes(name: str) -> None:
    """A refused model would leak, or the server that adapts would be one that clients refuse anyway."""
    row = STAGES["defense.stage3"][name]
    found = {level: behind_checks(row.change(row.protocol, level), BLOCK).values for level in row.levels}
    assert found[WITHOUT]["leak"] > 10
    assert found[WITHOUT]["refused"] == 0
    assert (found[NAIVE]["refused"], found[NAIVE]["leak"], found[NAIVE]["exact_leak"]) == (1, 0, 0)
    assert found[WITH]["refused"] == 0
    assert all(values["leak"] <= EXACT for values in found.values()), "the PSNR of an exact image is that of rounding"


def test_the_control_of_a_server_fails_where_no_quotient_is_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block would count although the inversion cannot work in it."""
    row = STAGES["defense.stage3"]["ana_arch"]
    assert path_works(row.protocol, BLOCK).passed
    monkeypatch.setattr("claims.checked.recovered", lambda *_: {})
    assert not path_works(row.protocol, BLOCK).passed


def test_levels_of_a_row_attack_the_same_images_and_the_adaptive_attacker_knows_the_training() -> None:
    """An effect would be that of other images, or of an attacker who does not know the defense."""
    for id, rows in STAGES.items():
        for name, row in rows.items():
            first, second = (row.change(row.protocol, level) for level in list(row.levels)[:2])
            for key in ("batch.data", "batch.images", "batch.pattern", "batch.pattern_batch"):
                assert first.at(key) == second.at(key), (id, name, key)
            if second.client.local is not None and not name.startswith("ana"):
                assert "local" in second.client.reveal
                assert first.client.local is None
    assert list(STAGES["defense.pipeline"]["op"].levels) == [BARE, ALL]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A federation that trains in a second."""
    monkeypatch.setattr(federations, "EPOCHS", 5)
    monkeypatch.setattr(federations, "TRAINED", 100)
    generator = torch.Generator().manual_seed(0)
    return Federation.of("digits", image_size=8, concentration=0.5, generator=generator)


def test_every_arm_sees_each_image_as_often_and_no_honest_model_is_refused(quick: Federation) -> None:
    """One arm would be better because it trains for longer, or because its clients sit out."""
    assert sorted(torch.cat(quick.parts).tolist()) == list(range(100))
    for arm in (UNDEFENDED, ALL_STAGES):
        found = quick.trained(arm, width=6, lr=0.01, generator=torch.Generator().manual_seed(0))
        assert (len(found.accuracies) - 1) * arm.epochs == federations.EPOCHS
        assert found.refusals == 0
        assert len(list(found.model.parameters())) == 2 * (arm.depth + 1)


def test_larger_batches_take_proportionally_larger_steps_and_both_levels_are_controlled() -> None:
    """The pipeline's training would learn nothing in as many passes, and the row would say that it costs all."""
    assert UNDEFENDED.local(0.01).lr == 0.01
    assert ALL_STAGES.local(0.01).lr == 0.04
    assert all(COST.change(COST.protocol, level).control is not None for level in COST.levels)


def test_a_defense_of_an_arm_reaches_the_training_and_the_attacked_client(quick: Federation) -> None:
    """A classical defense would be free, or would not be attacked."""
    loud = federations.Arm(defenses=(noise(std=0.1),))
    g = torch.Generator().manual_seed
    plain, noisy = (quick.trained(arm, width=6, lr=0.01, generator=g(0)).model for arm in (UNDEFENDED, loud))
    assert float((noisy.fc.bias - plain.fc.bias).detach().std()) > 0.05  # 5 rounds of the mean of 5 noises of .1 each
    leaks = [privacy_utility.leak(quick, arm, width=6, lr=0.01, seed=0) for arm in (UNDEFENDED, loud)]
    assert leaks[0] > leaks[1] + 1


def test_the_cost_row_measures_its_arms_and_keeps_the_last_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control would train a second time, or both levels would train in one way."""
    asked: list[Any] = []

    class Told:
        accuracies, refusals = (0.1, 0.8), 0

    monkeypatch.setattr(Federation, "trained", lambda _, arm, **options: asked.append((arm, options)) or Told())
    plain, defended = (COST.change(COST.protocol, level) for level in COST.levels)
    assert plain.control is not None
    assert plain.control(plain, BLOCK).passed
    assert federations.federated_accuracy(plain, BLOCK).values["accuracy"] == 0.8
    federations.federated_accuracy(defended, BLOCK)
    assert [arm for arm, _ in asked] == [UNDEFENDED, ALL_STAGES]
    monkeypatch.setattr(Told, "accuracies", (0.1, 0.29))  # three times a guess is .3
    assert not plain.control(plain, Block("toy.run", 1, {})).passed
    federations._last.clear()


def test_the_table_of_privacy_and_utility_has_medians_over_seeds() -> None:
    """A line of the table would be one seed's."""
    points = {
        f"digits/undefended/{seed}": {"leak": leak, "accuracy": accuracy}
        for seed, (leak, accuracy) in enumerate([(1.0, 0.5), (9.0, 0.9), (3.0, 0.6)])
    }
    (line,) = privacy_utility.table(points).splitlines()
    assert line.startswith("digits  undefended")
    assert line.endswith("leak  3.00 [ 1.00,  9.00] dB   accuracy 0.600 [0.500, 0.900]")


def test_the_points_of_another_commit_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file would name a commit that did not measure it, or a killed run would begin at the start."""
    asked: list[str] = []

    def measured(name: str, *_: Any) -> dict[str, float]:
        asked.append(name)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return {"leak": 1.0, "accuracy": 0.5, "refusals": 0.0}

    monkeypatch.setattr(privacy_utility, "FOLDER", tmp_path)
    monkeypatch.setattr(privacy_utility, "measured", measured)
    monkeypatch.setattr(privacy_utility.pictures, "scatter", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        privacy_utility.main(["1"])
    privacy_utility.main(["1"])
    every = len(privacy_utility.DATA) * len(privacy_utility.ARMS)
    assert len(asked) == every + 1, "six points of the killed run stand"

    file = tmp_path / "privacy_utility.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "commit": "another"}), encoding="utf-8")
    privacy_utility.main(["1"])
    assert len(asked) == 2 * every + 1
