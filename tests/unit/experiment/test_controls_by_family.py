"""Controls where no pixels are searched: of analytic, latent and learned attacks, and of gradients alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gia.attacks import train_inverter
from gia.data import Images
from gia.experiment import Protocol, Round, measure
from gia.experiment.controls import path_works, shares_gradients
from gia.federated import fit
from gia.federated.server import imprint
from gia.harness.blocks.block import Block
from gia.models import build, train_decoder
from tests.unit.experiment.toy import BLOCK, FITTING, PROTOCOL, silence, with_state


def imprinted(model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
    """An imprint block in front of the net."""
    return imprint(model, image_shape=(1, 8, 8), bins=40, generator=generator)


ANALYTIC = PROTOCOL.with_(
    {
        "attacker": replace(PROTOCOL.attacker, attack="robbing_the_fed", settings={}),
        "victim.edit": imprinted,
        "client.reveal": (),
        "batch.size": 4,
        "scoring.control_images": 4,
    }
)


def test_an_analytic_attack_is_controlled_on_its_ideal_input() -> None:
    """A level at which images collide would be void, or one whose block never worked would be evidence."""
    alive, noise, truth = (
        path_works(ANALYTIC.with_({"attacker.placebo": name}), BLOCK) for name in (None, "noise", "truth")
    )
    assert alive.passed, alive.reason
    assert alive.reason.startswith("4 of 4 images exact")
    assert truth.passed
    assert not noise.passed


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
        "scoring.control_images": 8,
    }
)


@pytest.mark.parametrize("optimizer", ["adam", "cma"])
def test_a_latent_search_must_beat_unsearched_samples(optimizer: str, tmp_path: Path) -> None:
    """A sample with the right label would pass for what a search found."""
    settings = {"optimizer": optimizer, "steps": 40 if optimizer == "adam" else 200, "population": 10}
    searching = LATENT.with_({"attacker.settings": settings})
    alive, unmoved = (
        path_works(searching.with_({"attacker.placebo": name}), BLOCK, cache=tmp_path) for name in (None, "unmoved")
    )
    assert alive.passed, alive.reason
    assert not unmoved.passed


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
    settings = {"batch_size": 1, "hashed": 128, "hidden": (128,), "epochs": 20, "lr": 3e-3, "training_batch": 64}
    images, labels = public.images[:1200], public.labels[:1200]
    return {"inverter": train_inverter(model, images, labels, generator=generator, cache=cache, **settings)}


def backwards(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """The same with its images upside down in value: an inverter that has learned what is not there."""
    made = inverter(protocol, model, public, generator=generator, cache=cache)["inverter"]
    with torch.no_grad():
        last = made.network[-1]
        last.weight.neg_()
        last.bias.copy_(1 - last.bias)
    return {"inverter": made}


def test_the_control_of_a_learned_inverter_asks_for_more_than_its_class_means(tmp_path: Path) -> None:
    """An inverter that has learned nothing but labels would "support" that whatever is done to it does not matter."""
    protocol = PROTOCOL.with_(
        {
            "attacker.attack": "learning_to_invert",
            "attacker.settings": {},
            "attacker.equip": inverter,
            "client.reveal": (),
            "scoring.control_images": 8,
        }
    )
    changes: list[dict[str, Any]] = [
        {},
        {"attacker.equip": backwards},
        {"victim.edit": silence},
        {"attacker.placebo": "labels"},
    ]
    alive, dead, silent, labels = (path_works(protocol.with_(change), BLOCK, cache=tmp_path) for change in changes)
    assert alive.passed, alive.reason
    assert alive.values["psnr"] >= alive.values["class_mean_psnr"] + 1
    assert "above" in alive.reason
    assert dead.reason.startswith("failed: PSNR")
    assert labels.values["psnr"] == pytest.approx(labels.values["class_mean_psnr"])
    assert "a shared gradient is zero" in silent.reason
    assert not any(each.passed for each in (dead, silent, labels))


def test_an_inverter_of_another_domain_is_controlled_on_images_that_its_attacker_holds_out(tmp_path: Path) -> None:
    """An inverter that has learned its own domain would count as broken, and what it does elsewhere as unknown."""
    protocol = PROTOCOL.with_(
        {
            "fit": replace(FITTING, accuracy=0.0),
            "batch.data": "faces",
            "attacker.attack": "learning_to_invert",
            "attacker.settings": {},
            "attacker.equip": inverter,
            "attacker.public": "digits",
            "client.reveal": (),
            "scoring.control_images": 8,
        }
    )
    control, round = path_works(protocol, BLOCK, cache=tmp_path), Round(protocol, BLOCK, cache=tmp_path)
    assert control.passed, control.reason
    own, outside = round.controlled, round.controlled_on_public
    assert torch.equal(next(outside.victim.parameters()), next(own.victim.parameters()))
    assert outside.fitted is own.fitted
    assert len(outside.private) == 8
    assert len(outside.public) == len(round.public) - 8
    attacked = outside.data.images[outside.private].flatten(1)
    assert torch.cdist(attacked, outside.public.images.flatten(1)).min() > 0
