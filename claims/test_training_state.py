"""Training state: does training the network protect the images? (arXiv 2503.11514, Sec. IV-B, Fig. 3a and Table I.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.factors import attack_types, decide
from claims.protocols import CELLS
from claims.protocols.changes import in_state, pinned
from gia.harness.protocol import Fitting


@pytest.mark.parametrize("attack_type", attack_types("training_state"))
def test_training_state(claims, attack_type):
    """The same net before and after its training: OP-GIA's SSIM falls from .765 to .678.

    Beside them may stand the net after half of the training, and one that was trained without the attacked images.
    """
    decide(claims, attack_type, "training_state", in_state)


@pytest.mark.baseline
@pytest.mark.parametrize("state", ["untrained", "half-trained"])
@pytest.mark.parametrize("attack_type", ["op"])
def test_quality_is_that_on_record(baseline, attack_type, state):
    """Training, or the attack on what it leaves, changed: on purpose, or by a regression."""
    protocol = pinned(CELLS["reduced"]["training_state"][attack_type].protocol)
    protocol = replace(protocol, image_size=16, images=2, pattern_batch=2, score=("psnr", "ssim"))  # each seed trains
    protocol = in_state(replace(protocol, fit=Fitting(epochs=6, half=3, accuracy=0.3)), state)
    baseline.check_level(f"{attack_type}/{state}", protocol)
