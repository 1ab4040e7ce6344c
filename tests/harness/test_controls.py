"""Controls tell a dead attack and a victim that has learned nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gia.attacks import train_inverter
from gia.data import Images
from gia.federated import fit
from gia.harness import scene
from gia.harness.blocks import Block
from gia.harness.casting import keeping_fits
from gia.harness.controls import beats_auxiliary_mean, beats_blind_guess, inverts_its_own_samples, shares_gradients
from gia.harness.protocol import Protocol
from gia.harness.run import measure
from gia.models import build, train_decoder
from tests.harness.toy import BLOCK, FITTING, PROTOCOL, Silent, Spy, black, silence, with_state


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

    class Watched(scene.Client):
        def __init__(self, images: Tensor, *rest: Any, **options: Any) -> None:
            batches.append(images)
            super().__init__(images, *rest, **options)

    monkeypatch.setattr(scene, "Client", Watched)
    protocol = replace(PROTOCOL, data="cifar10-samples", image_size=32, images=8, pattern_batch=8, control_images=12)
    monkeypatch.setattr(scene.attacks, "run_many", Spy(black))
    measure(protocol, BLOCK)
    private, batches = batches, []
    monkeypatch.setattr(
        scene.attacks, "CARDS", {"inverting_gradients": replace(scene.attacks.CARDS["dlg"], iterative=False)}
    )
    beats_blind_guess(protocol, BLOCK)
    assert (len(private), len(batches)) == (8, 12)
    assert not any(torch.equal(one, other) for one in private for other in batches)
    with pytest.raises(ValueError, match=r"control_images: .*at most the 12 images"):
        beats_blind_guess(replace(protocol, control_images=13), BLOCK)


def test_only_the_level_whose_control_counts_needs_whole_batches_of_control_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A control would be run on a batch of another size than the attack, or cost as much as the largest level."""
    monkeypatch.setattr(scene.attacks, "run_many", Spy(black))
    larger = replace(PROTOCOL, batch_size=4, control_images=2, edit=unchanged)
    measure(larger, BLOCK)
    with pytest.raises(ValueError, match="control_images: expected whole batches of batch_size=4, got 2"):
        beats_blind_guess(larger, BLOCK)


def unchanged(model: Any, public: Images, *, generator: torch.Generator) -> Any:
    """An edit that asks for the server's own images and does nothing."""
    return model


def decoder(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """A decoder of digits, trained for a moment."""
    return {"decoder": train_decoder(public, epochs=10, generator=generator, cache=cache)}


def judge(images: Images, *, generator: torch.Generator, cache: Any) -> torch.nn.Module:
    """A classifier of digits, trained for a moment."""
    net = build("mlp", num_classes=10, image_size=8, channels=1, width=64, generator=generator)
    return fit(net, images, epochs=10, batch_size=64, lr=4e-3, generator=generator, cache=cache).model


LATENT = replace(
    PROTOCOL,
    attack="ggl",
    settings={"optimizer": "cma", "steps": 5, "population": 5},
    equip=decoder,
    judge=judge,
    score=("label_agreement",),
    control=inverts_its_own_samples,
    control_images=8,
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
    with keeping_fits(tmp_path):
        alive = inverts_its_own_samples(LATENT, BLOCK)
        still = inverts_its_own_samples(replace(LATENT, settings={**LATENT.settings, "lr": 1e-6}), BLOCK)
        idle = inverts_its_own_samples(replace(LATENT, settings={**LATENT.settings, "steps": 0}), BLOCK)
        misled = inverts_its_own_samples(replace(LATENT, control_images=32, defenses=(misleading,)), BLOCK)
        blind = inverts_its_own_samples(replace(LATENT, judge=nothing), BLOCK)
    silent = inverts_its_own_samples(replace(LATENT, edit=silence), BLOCK)
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


def test_an_attacker_of_many_blocks_is_trained_once(tmp_path: Path) -> None:
    """Blocks that share an attacker would train a decoder and a judge each, or those with none would share one."""
    for index in range(2):
        block = Block("toy.attacker", index, {})
        with keeping_fits(tmp_path / "one"):
            measure(replace(LATENT, attacker=0), block)
        with keeping_fits(tmp_path / "each"):
            measure(LATENT, block)
    kept = {name: sorted(path.name.split("-")[0] for path in (tmp_path / name).iterdir()) for name in ("one", "each")}
    assert kept == {"one": ["decoder", "fit"], "each": ["decoder"] * 2 + ["fit"] * 2}


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
    protocol = replace(PROTOCOL, attack="learning_to_invert", settings={}, equip=inverter, control_images=8)
    with keeping_fits(tmp_path):
        alive = beats_auxiliary_mean(protocol, BLOCK)
        dead = beats_auxiliary_mean(replace(protocol, equip=backwards), BLOCK)
    silent = beats_auxiliary_mean(replace(protocol, edit=silence), BLOCK)
    assert alive.passed, alive.reason
    assert alive.values["psnr"] > alive.values["mean_psnr"] > 8
    assert "dB of the auxiliary mean image" in alive.reason
    assert dead.reason.startswith("failed: PSNR")
    assert "a shared gradient is zero" in silent.reason
    assert not dead.passed
    assert not silent.passed
