"""The quality of attacks on pinned settings, against the samples in baselines/*.json (see baselines/README.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from claims.changes import batches_of, in_state, knowing, on_network, resized, with_equal_labels
from claims.equipment import Inverting, precise_decoder_of_public
from claims.reduced import PROTOCOLS
from gia.experiment import Fishing, Fitting, Protocol
from gia.federated import LocalTraining
from gia.harness.baseline.check import Baselines

#: Settings of the stored samples; they move only with a reason, unlike the spaces that claims draw from.
COMMON = {
    "victim.dtype": "float64",
    "batch.images": 4,
    "batch.pattern_batch": 4,
    "vary": {},
}
METRICS = ("psnr", "ssim", "cw_ssim", "lpips", "rmse")


def pinned(attack_type: str, changes: Mapping[str, Any]) -> Protocol:
    """A type's protocol in a form that is stored: nothing drawn, float64, cheap enough for every commit."""
    steps = {} if attack_type in ("ana_arch", "gen_inv") else {"attacker.settings": {"steps": 100}}
    return PROTOCOLS[attack_type].with_({**COMMON, "scoring.metrics": METRICS, **steps, **changes})


def _op(**changes: Any) -> Protocol:
    """Inverting Gradients on four of CIFAR-10's samples behind a ConvNet."""
    return pinned("op", {"batch.image_size": 32, "batch.pattern": "distinct", **changes})


def _architecture() -> dict[str, Protocol]:
    """A deeper network costs more than a commit's check may."""
    single = _op(
        **{
            "victim.width": 16,
            "batch.image_size": 16,
            "batch.images": 1,
            "batch.pattern": "any",
            "batch.pattern_batch": None,
            "attacker.settings.total_variation": 0.1,
            "scoring.metrics": ("psnr", "ssim", "rmse"),
        }
    )
    return {"op/resnet10": on_network(single, "resnet10")}


def _weights(**changes: Any) -> Protocol:
    """CI-Net behind a Sigmoid net, which it relies on."""
    return pinned(
        "gen_w",
        {"victim.activation": "sigmoid", "batch.pattern": "distinct", "scoring.metrics": ("psnr", "ssim"), **changes},
    )


def _batch_size() -> dict[str, Protocol]:
    return {
        f"{name}/B={batch_size}": batches_of(protocol, batch_size)
        for name, protocol in (("op", _op()), ("gen_w", _weights()))
        for batch_size in (1, 4)
    }


def _exact_recovery() -> dict[str, Protocol]:
    few = pinned(
        "ana_arch",
        {
            "victim.width": 16,
            "victim.edit.bins": 100,
            "batch.images": 16,
            "batch.size": 1,
            "batch.pattern_batch": None,
            "scoring.metrics": ("psnr", "rmse"),
        },
    )
    return {f"ana_arch/B={batch_size}": batches_of(few, batch_size) for batch_size in (1, 16)}


def _fedavg() -> dict[str, Protocol]:
    protocol = _op(
        **{
            "batch.image_size": 16,
            "batch.size": 4,
            "client.local": LocalTraining(epochs=2, batch_size=2, lr=0.02),
            "scoring.metrics": ("psnr", "ssim"),
        }
    )
    return {f"op/{knowledge}": knowing(protocol, knowledge) for knowledge in ("strong", "none")}


def _isolation() -> dict[str, Protocol]:
    protocol = pinned(
        "ana_param",
        {"attacker.settings.total_variation": 3e-3, "scoring.metrics": ("psnr", "ssim"), "batch.pattern_batch": 4},
    )
    return {
        "ana_param/class": protocol.with_({"victim.fish": Fishing(kind="class", targets=1)}),
        "ana_param/feature": protocol.with_(
            {"victim.fish": Fishing(kind="feature", targets=1), "batch.pattern": "equal"}
        ),
    }


def _latent_search() -> dict[str, Protocol]:
    """The decoder learns from the images that the control leaves, so the control's number is pinned too."""
    protocol = pinned(
        "gen_z",
        {
            "attacker.settings": {"optimizer": "cma", "steps": 50, "population": 10},
            "attacker.equip": precise_decoder_of_public,
            "attacker.seed": None,
            "scoring.metrics": ("psnr", "rmse"),
            "scoring.judge": None,
            "scoring.control_images": 8,
        },
    )
    return {
        f"gen_z/{optimizer}": protocol.with_({"attacker.settings.optimizer": optimizer})
        for optimizer in ("cma", "adam")
    }


def _learned_inverter() -> dict[str, Protocol]:
    protocol = pinned(
        "gen_inv",
        {
            "victim.activation": "sigmoid",
            "victim.init": "dlg",
            "batch.pattern_batch": None,
            "attacker.equip": Inverting(epochs=8, most=300, hashed=128, hidden=(64,)),
            "scoring.metrics": ("psnr", "ssim"),
        },
    )
    return {f"gen_inv/B={batch_size}": batches_of(protocol, batch_size) for batch_size in (1, 4)}


def _resolution() -> dict[str, Protocol]:
    protocol = _op(
        **{
            "batch.data": "photos",
            "batch.images": 1,
            "batch.pattern": "any",
            "batch.pattern_batch": None,
            "scoring.metrics": ("psnr", "ssim", "rmse"),
        }
    )
    return {f"op/side={pixels}": resized(protocol, pixels) for pixels in (16, 48)}


def _same_labels() -> dict[str, Protocol]:
    protocol = _op(**{"batch.data": "faces", "batch.size": 4})
    return {f"op/equal={equal}": with_equal_labels(protocol, equal) for equal in (1, 4)}


def _training_state() -> dict[str, Protocol]:
    """Small, since each seed trains."""
    protocol = _op(
        **{
            "batch.data": "faces",
            "batch.image_size": 16,
            "batch.images": 2,
            "batch.pattern_batch": 2,
            "scoring.metrics": ("psnr", "ssim"),
            "fit": Fitting(epochs=6, half=3, accuracy=0.3),
        }
    )
    return {f"op/{state}": in_state(protocol, state) for state in ("untrained", "half-trained")}


#: File in baselines/ -> entry -> the level that it holds a sample of.
RECORDED = {
    "architecture": _architecture(),
    "batch_size": _batch_size(),
    "exact_recovery": _exact_recovery(),
    "fedavg": _fedavg(),
    "isolation": _isolation(),
    "latent_search": _latent_search(),
    "learned_inverter": _learned_inverter(),
    "resolution": _resolution(),
    "same_labels": _same_labels(),
    "training_state": _training_state(),
}


@pytest.mark.baseline
@pytest.mark.parametrize(
    ("file", "entry", "level"),
    [
        pytest.param(file, entry, level, id=f"{file}/{entry}")
        for file, levels in RECORDED.items()
        for entry, level in levels.items()
    ],
)
def test_quality_is_that_on_record(baselines: Baselines, file: str, entry: str, level: Protocol) -> None:
    """An attack that became worse, or better, than its stored sample changed: on purpose, or by a regression."""
    baselines.open(file).check_level(entry, level, deciding="psnr")
