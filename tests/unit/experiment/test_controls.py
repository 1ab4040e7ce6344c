"""Controls detect an attack that does nothing and a victim that has learned nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gia.attacks import train_inverter
from gia.data import Images
from gia.experiment import Protocol, exchange, measure
from gia.experiment.controls import (
    beats_auxiliary_mean,
    beats_blind_guess,
    inverts_its_own_samples,
    shares_gradients,
)
from gia.federated import fit
from gia.harness.blocks.block import Block
from gia.models import build, train_decoder
from tests.unit.experiment.toy import BLOCK, FITTING, PROTOCOL, Silent, Spy, silence, unchanged, with_state

#: Enough steps for the attack to work.
ALIVE = PROTOCOL.with_({"attacker.settings.steps": 50})


@pytest.mark.parametrize("state", ["untrained", "trained"])
def test_the_control_voids_a_block_whose_training_taught_nothing(state: Any, tmp_path: Path) -> None:
    """A "trained" net that is as good as untrained would be evidence of what training does."""
    taught, control = (
        beats_blind_guess(ALIVE.with_({"fit": replace(FITTING, state=state, accuracy=least)}), BLOCK, cache=tmp_path)
        for least in (0.5, 1.0)
    )
    assert taught.passed, taught.reason
    assert "held-out accuracy 0." in taught.reason
    assert not control.passed
    assert control.reason.startswith("failed: held-out accuracy 0.")
    assert control.values["held_out_accuracy"] > 0.5


def test_the_control_passes_an_attack_that_works() -> None:
    """Every block would be void."""
    control = beats_blind_guess(ALIVE, BLOCK)
    assert control.passed, control.reason
    assert control.values["psnr"] > control.values["blind_psnr"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"steps": 0}, "objective"), ({"steps": 10, "lr": 1e-6}, "PSNR")],
    ids=["no step", "steps that lead nowhere"],
)
def test_the_control_fails_an_attack_that_does_nothing(settings: dict[str, Any], why: str) -> None:
    """An attack that does nothing "supports" every claim that says worse."""
    control = beats_blind_guess(PROTOCOL.with_({"attacker.settings": settings}), BLOCK)
    assert not control.passed
    assert why in control.reason


def test_the_control_fails_a_gradient_that_is_zero() -> None:
    """Zero gradients would count as evidence that an attack is weak."""
    control = beats_blind_guess(PROTOCOL.with_({"victim.edit": silence}), BLOCK)
    assert not control.passed
    assert "gradient is zero" in control.reason


def test_the_control_without_an_attack_asks_for_gradients_and_for_a_victim_that_has_learned(tmp_path: Path) -> None:
    """Cosines of zero gradients, or of a net called trained that has learned nothing, would be evidence."""
    asked = {
        least: shares_gradients(with_state("untrained", accuracy=least), BLOCK, cache=tmp_path) for least in (0.4, 1)
    }
    assert asked[0.4].passed, asked[0.4].reason
    assert not asked[1].passed
    assert f"{asked[1].values['held_out_accuracy']:.3f}" in asked[1].reason
    assert shares_gradients(PROTOCOL, BLOCK).passed
    assert not shares_gradients(PROTOCOL.with_({"victim.edit": silence}), BLOCK).passed


def test_control_images_are_not_private(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with a lucky first level would select themselves."""
    batches: list[Tensor] = []

    class Watched(exchange.federated.Client):
        def __init__(self, images: Tensor, *rest: Any, **options: Any) -> None:
            batches.append(images)
            super().__init__(images, *rest, **options)

    monkeypatch.setattr(exchange.federated, "Client", Watched)
    monkeypatch.setattr(exchange.attacks, "card_of", lambda attack: None)  # it does not search: no objective to watch
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
    private, batches = batches, []
    beats_blind_guess(protocol, BLOCK)
    assert (len(private), len(batches)) == (8, 12)
    assert not any(torch.equal(one, other) for one in private for other in batches)
    with pytest.raises(ValueError, match=r"control_images: expected 1 to 12, .* got 13"):
        beats_blind_guess(protocol.with_({"scoring.control_images": 13}), BLOCK)


def test_only_the_level_whose_control_counts_needs_whole_batches_of_control_images(spy: Spy) -> None:
    """A control would be run on a batch of another size than the attack, or cost as much as the largest level."""
    larger = PROTOCOL.with_({"batch.size": 4, "scoring.control_images": 2, "victim.edit": unchanged})
    measure(larger, BLOCK)
    with pytest.raises(ValueError, match="control_images: expected whole batches of size=4, got 2"):
        beats_blind_guess(larger, BLOCK)


def decoder(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """A decoder of digits, trained for a moment."""
    return {"decoder": train_decoder(public, epochs=10, generator=generator, cache=cache)}


def judge(images: Images, *, generator: torch.Generator, cache: Any) -> torch.nn.Module:
    """A classifier of digits, trained for a moment."""
    net = build("mlp", num_classes=10, image_size=8, channels=1, width=64, generator=generator)
    return fit(net, images, epochs=10, batch_size=64, lr=4e-3, generator=generator, cache=cache).model


LATENT = PROTOCOL.with_(
    {
        "attacker.attack": "ggl",
        "attacker.settings": {"optimizer": "cma", "steps": 5, "population": 5},
        "attacker.equip": decoder,
        "scoring.judge": judge,
        "scoring.metrics": ("label_agreement",),
        "scoring.control": inverts_its_own_samples,
        "scoring.control_images": 8,
    }
)


def misleading(observation: Any, *, generator: torch.Generator) -> Any:
    """Noise in place of what a client shares."""
    noise = {name: torch.randn(g.shape, generator=generator) for name, g in observation.gradients.items()}
    return replace(observation, gradients=noise)


def nothing(images: Images, *, generator: torch.Generator, cache: Any) -> torch.nn.Module:
    """A judge that sees the same digit everywhere."""
    return Silent(judge(images, generator=generator, cache=cache))


def test_the_control_of_latent_search_asks_for_own_samples_and_a_judge_that_agrees(tmp_path: Path) -> None:
    """A search that follows nothing, a silent victim or a blind judge would "support" that a factor has no effect."""
    changes: dict[str, dict[str, Any]] = {
        "alive": {},
        "still": {"attacker.settings.lr": 1e-6},
        "idle": {"attacker.settings.steps": 0},
        "misled": {"scoring.control_images": 32, "client.defenses": (misleading,)},
        "blind": {"scoring.judge": nothing},
        "silent": {"victim.edit": silence},
    }
    alive, still, idle, misled, blind, silent = (
        inverts_its_own_samples(LATENT.with_(change), BLOCK, cache=tmp_path) for change in changes.values()
    )
    assert alive.passed, alive.reason
    assert alive.values["own_psnr"] >= 20
    assert still.reason.startswith("failed: own samples")
    assert "label agreement" not in still.reason
    assert blind.reason.startswith("failed: label agreement")
    assert "a shared gradient is zero" in silent.reason
    assert idle.reason.startswith("failed: real images")
    assert "label agreement" not in idle.reason, "a sample that no gradient has moved shows the class too"
    assert misled.reason.startswith("failed: real images")
    assert [control.passed for control in (still, idle, misled, blind, silent)] == [False] * 5


def test_an_attacker_that_blocks_share_is_trained_once(tmp_path: Path) -> None:
    """Blocks that share an attacker would train a decoder and a judge each, or those with none would share one."""
    for index in range(2):
        block = Block("toy.attacker", index, {})
        measure(LATENT.with_({"attacker.seed": 0}), block, cache=tmp_path / "one")
        measure(LATENT, block, cache=tmp_path / "each")
    stored = {name: sorted(path.name.split("-")[0] for path in (tmp_path / name).iterdir()) for name in ("one", "each")}
    assert stored == {"one": ["decoder", "fit"], "each": ["decoder"] * 2 + ["fit"] * 2}


def inverter(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """An inverter of digits, trained for a moment."""
    settings = {"batch_size": 1, "hashed": 64, "hidden": (64,), "epochs": 10, "lr": 3e-3, "training_batch": 64}
    images, labels = public.images[:600], public.labels[:600]
    return {"inverter": train_inverter(model, images, labels, generator=generator, cache=cache, **settings)}


def backwards(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """The same with its images upside down in value: an inverter that has learned what is not there."""
    made = inverter(protocol, model, public, generator=generator, cache=cache)["inverter"]
    with torch.no_grad():
        last = made.network[-1]
        last.weight.neg_()
        last.bias.copy_(1 - last.bias)
    return {"inverter": made}


def test_the_control_of_a_learned_inverter_asks_for_more_than_its_mean_image(tmp_path: Path) -> None:
    """An inverter that has learned nothing would "support" that whatever is done to it does not matter."""
    protocol = PROTOCOL.with_(
        {
            "attacker.attack": "learning_to_invert",
            "attacker.settings": {},
            "attacker.equip": inverter,
            "scoring.control_images": 8,
        }
    )
    alive, dead, silent = (
        beats_auxiliary_mean(protocol.with_(change), BLOCK, cache=tmp_path)
        for change in ({}, {"attacker.equip": backwards}, {"victim.edit": silence})
    )
    assert alive.passed, alive.reason
    assert alive.values["psnr"] > alive.values["mean_psnr"] > 8
    assert "dB of the auxiliary mean image" in alive.reason
    assert dead.reason.startswith("failed: PSNR")
    assert "a shared gradient is zero" in silent.reason
    assert not dead.passed
    assert not silent.passed
