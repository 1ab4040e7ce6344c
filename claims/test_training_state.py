"""Training state: does training the network protect the images? (arXiv 2503.11514, Sec. IV-B, Fig. 3a and Table I.)"""

from __future__ import annotations

import pytest

from claims.changes import in_state
from claims.factors import attack_types, decide
from claims.scales import Scale
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("training_state"))
def test_training_state(claims: Claims, scale: Scale, attack_type: str) -> None:
    """The same net before and after its training: OP-GIA's SSIM falls from .765 to .678.

    Some cells also show the net after half of the training, and one that was trained without the attacked images.
    """
    decide(claims, scale, attack_type, "training_state", in_state)
