"""ANA-GIA by a changed architecture: Robbing the Fed."""

from __future__ import annotations

from claims import published
from claims.cell import Cell
from claims.edits import Imprinted
from claims.reduced.spaces import ANA_ARCH, DETAILED, narrowed
from gia.experiment import Fitting

#: All 64 images behind one gradient, unless the batch size or equal labels are the factor.
PROTOCOL = ANA_ARCH

#: The server sends its block first, and the clients train what they received: the attacked net is the trained one.
TRAINED = narrowed(
    ANA_ARCH,
    changes={
        "batch.image_size": 16,
        "fit": Fitting(epochs=16, half=5, accuracy=0.5, as_attacked=True),
        "vary": {"fit.batch_size": (16, 32)},
    },
    data=("photos", "faces"),
)

#: The sparse block, which several local steps need, in the float32 of real clients. An update is a difference of large
#: weights, so it keeps few of their digits; the mode (0, 1) gives small cut-offs.
FEDERATED = narrowed(
    ANA_ARCH,
    changes={
        "victim.edit": Imprinted(sparse=True, mode=(0, 1)),
        "victim.dtype": "float32",
        "client.local": published.LOCAL,
        "scoring.metrics": ("exact_leak", "exact_share", "recovered_share", "psnr"),
        "vary": published.LOCAL_VARIED,
    },
)

CELLS = {
    "batch_size": Cell(protocol=ANA_ARCH, levels=(8, 32, 64)),
    "resolution": Cell(
        protocol=narrowed(ANA_ARCH, "batch.image_size", data=[name for name in DETAILED if name != "imagenet-samples"]),
        levels=(16, 32, 64),
    ),
    "same_labels": Cell(protocol=ANA_ARCH.with_({"batch.size": 4}), levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained")),
    # The networks behind the block: their own layers never see the image.
    "architecture": Cell(protocol=narrowed(ANA_ARCH, "victim.name"), levels=("convnet", "mlp", "lenet", "resnet8")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=ANA_ARCH.with_({"scoring.metrics": ("psnr", "psnr_other")}), levels=("attacked",)),
}
