"""FedAvg: do several local steps protect the images? (arXiv 2503.11514, Sec. IV-B, Table III and Table I.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.factors import attack_types, decide, table
from claims.protocols import CELLS
from claims.protocols.changes import averaging, knowing, pinned
from gia.federated import LocalTraining

#: Images behind each gradient of FedSGD: first all those behind an update, then the paper's way, only a local batch.
SHARED = {
    "reduced": {"FedSGD of 4": 4, "FedSGD of 2": 2, "FedSGD of 1": 1},
    "paper": {"FedSGD of 64": 64, "FedSGD of 16": 16, "FedSGD of 8": 8, "FedSGD of 1": 1},
}


@pytest.mark.parametrize("attack_type", attack_types("fedavg"))
def test_fedavg(claims, attack_type):
    """An update in place of a gradient. For OP-GIA: not simulating the local steps has the lowest SSIM in 9 of 9."""
    decide(claims, attack_type, "fedavg", averaging)


@pytest.mark.claim("op.fedavg_strong")
def test_full_knowledge_of_local_steps_does_not_make_up_for_them(claims):
    """PSNR from a fully known update lies below that from one gradient of the same images.

    The paper compares with a gradient of as many images as a local batch holds: those stand beside the pair. The fully
    known updates are those of `op.fedavg`, on the same blocks; gradients have a control of their own.
    """
    protocol, (first, *others) = CELLS[claims.scale]["fedavg"]["op"].protocol, SHARED[claims.scale]

    def gradients(protocol, level):
        return replace(protocol, local=None, batch_size=SHARED[claims.scale][level])

    def blocks(count):
        shared = claims.table("op.fedavg", protocol, levels=(first, *others), change=gradients, blocks=count)
        return shared.beside(table(claims, "op", "fedavg", knowing, count)).of(first, "strong", *others)

    claims.paired("op.fedavg_strong", blocks)


@pytest.mark.baseline
@pytest.mark.parametrize("knowledge", ["strong", "none"])
@pytest.mark.parametrize("attack_type", ["op"])
def test_quality_is_that_on_record(baseline, attack_type, knowledge):
    """The simulation of local steps, or the client's, changed: on purpose, or by a regression."""
    protocol = pinned(CELLS["reduced"]["fedavg"][attack_type].protocol)
    local = LocalTraining(epochs=2, batch_size=2, lr=0.02)
    protocol = knowing(replace(protocol, local=local, score=("psnr", "ssim")), knowledge)
    baseline.check_level(f"{attack_type}/{knowledge}", protocol)
