"""Training state: does training the network protect the images? (arXiv 2503.11514, Sec. IV-B, Fig. 3a and Table I.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.protocols import PROTOCOLS, STATES, in_state, pinned, trainable
from gia.harness.run import Fitting


@pytest.mark.parametrize("attack_type", [pytest.param("op", marks=pytest.mark.claim("op.training_state"))])
def test_a_trained_network_is_harder_to_invert(claims, attack_type):
    """PSNR from the trained net lies below that from the same net before training; the paper's SSIM .765 and .678.

    Beside them stand the net after half of the training, and one that was trained without the attacked images.
    """
    claims.paired(
        f"{attack_type}.training_state",
        trainable(PROTOCOLS[claims.scale][attack_type], claims.scale),
        levels=tuple(STATES),
        change=in_state,
    )


@pytest.mark.baseline
@pytest.mark.parametrize("state", ["untrained", "half-trained"])
@pytest.mark.parametrize("attack_type", ["op"])
def test_quality_is_that_on_record(baseline, attack_type, state):
    """Training, or the attack on what it leaves, changed: on purpose, or by a regression."""
    protocol = pinned(trainable(PROTOCOLS["reduced"][attack_type], "reduced"))
    protocol = replace(protocol, image_size=16, images=2, pattern_batch=2, score=("psnr", "ssim"))  # each seed trains
    protocol = in_state(replace(protocol, fit=Fitting(epochs=6, half=3, accuracy=0.3)), state)
    baseline.check_attack(f"{attack_type}/{state}", protocol)
