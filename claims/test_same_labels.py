"""Equal labels: do images that share a label protect each other? (arXiv 2503.11514, Sec. IV-B, Fig. 5 and Table I.)"""

from __future__ import annotations

import pytest

from claims.factors import attack_types, decide
from claims.protocols import CELLS
from claims.protocols.changes import pinned, with_equal_labels


@pytest.mark.parametrize("attack_type", attack_types("same_labels"))
def test_same_labels(claims, attack_type):
    """With every further image of the same label: OP-GIA's PSNR falls from 22.03 dB to 14.03 dB for four of four."""
    decide(claims, attack_type, "same_labels", with_equal_labels)


@pytest.mark.baseline
@pytest.mark.parametrize("equal", [1, 4])
@pytest.mark.parametrize("attack_type", ["op"])
def test_quality_is_that_on_record(baseline, attack_type, equal):
    """An attack that became worse, or better, than its stored sample changed: on purpose, or by a regression."""
    protocol = with_equal_labels(pinned(CELLS["reduced"]["same_labels"][attack_type].protocol), equal)
    baseline.check_level(f"{attack_type}/equal={equal}", protocol)
