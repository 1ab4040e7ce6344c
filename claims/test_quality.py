"""The quality of attacks on pinned settings, against the samples in baselines/*.json (see baselines/README.md)."""

from __future__ import annotations

import pytest

from claims.changes import batches_of, in_state, knowing, on_network, resized, with_equal_labels
from claims.equipment import Inverting
from claims.reduced import CELLS, PROTOCOLS
from gia.experiment import Fishing, Fitting, Protocol
from gia.federated import LocalTraining
from gia.harness.baseline.check import Baselines


def pinned(protocol: Protocol) -> Protocol:
    """The form in which a protocol's quality is stored: nothing drawn, float64, cheap enough for every commit."""
    return protocol.with_(
        {
            "victim.dtype": "float64",
            "batch.images": 4,
            "batch.pattern_batch": 4,
            "attacker.settings.steps": 100,
            "vary": {},
        }
    )


def _architecture() -> dict[str, Protocol]:
    """A deeper network costs more than a commit's check may."""
    narrow = pinned(CELLS["architecture"]["op"].protocol.drawn({"victim.width": 16}))
    single = narrow.with_({"batch.images": 1, "batch.pattern_batch": None, "scoring.metrics": ("psnr", "ssim", "rmse")})
    return {"op/resnet10": on_network(single, "resnet10")}


def _batch_size() -> dict[str, Protocol]:
    return {
        f"{attack_type}/B={batch_size}": batches_of(pinned(PROTOCOLS[attack_type]), batch_size)
        for attack_type in ("op", "gen_w")
        for batch_size in (1, 4)
    }


def _exact_recovery() -> dict[str, Protocol]:
    few = PROTOCOLS["ana_arch"].with_(
        {
            "victim.dtype": "float64",
            "victim.edit.bins": 100,
            "batch.images": 16,
            "scoring.metrics": ("psnr", "rmse"),
            "vary": {},
        }
    )
    return {f"ana_arch/B={batch_size}": batches_of(few, batch_size) for batch_size in (1, 16)}


def _fedavg() -> dict[str, Protocol]:
    protocol = pinned(CELLS["fedavg"]["op"].protocol).with_(
        {"client.local": LocalTraining(epochs=2, batch_size=2, lr=0.02), "scoring.metrics": ("psnr", "ssim")}
    )
    return {f"op/{knowledge}": knowing(protocol, knowledge) for knowledge in ("strong", "none")}


def _isolation() -> dict[str, Protocol]:
    protocol = pinned(PROTOCOLS["ana_param"])
    return {
        "ana_param/class": protocol.with_(
            {"victim.fish": Fishing(kind="class", targets=1), "batch.pattern": "distinct"}
        ),
        "ana_param/feature": protocol.with_(
            {"victim.fish": Fishing(kind="feature", targets=1), "batch.pattern": "equal"}
        ),
    }


def _latent_search() -> dict[str, Protocol]:
    """The decoder learns from the images that the control leaves, so the control's number is pinned too."""
    protocol = pinned(PROTOCOLS["gen_z"]).with_(
        {
            "attacker.settings": {"optimizer": "cma", "steps": 50, "population": 10},
            "scoring.metrics": ("psnr", "rmse"),
            "scoring.judge": None,
            "scoring.control_images": 8,
        }
    )
    return {
        f"gen_z/{optimizer}": protocol.with_({"attacker.settings.optimizer": optimizer})
        for optimizer in ("cma", "adam")
    }


def _learned_inverter() -> dict[str, Protocol]:
    protocol = pinned(PROTOCOLS["gen_inv"]).with_(
        {
            "batch.pattern_batch": None,
            "attacker.settings": {},
            "attacker.equip": Inverting(epochs=8, most=300, hashed=128, hidden=(64,)),
        }
    )
    return {f"gen_inv/B={batch_size}": batches_of(protocol, batch_size) for batch_size in (1, 4)}


def _resolution() -> dict[str, Protocol]:
    protocol = pinned(CELLS["resolution"]["op"].protocol).with_(
        {
            "batch.data": "photos",
            "batch.images": 1,
            "batch.pattern_batch": None,
            "scoring.metrics": ("psnr", "ssim", "rmse"),
        }
    )
    return {f"op/side={pixels}": resized(protocol, pixels) for pixels in (16, 48)}


def _same_labels() -> dict[str, Protocol]:
    protocol = pinned(CELLS["same_labels"]["op"].protocol)
    return {f"op/equal={equal}": with_equal_labels(protocol, equal) for equal in (1, 4)}


def _training_state() -> dict[str, Protocol]:
    """Small, since each seed trains."""
    protocol = pinned(CELLS["training_state"]["op"].protocol).with_(
        {
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
