"""ANA-GIA by a changed architecture: Robbing the Fed."""

from __future__ import annotations

from claims import published
from claims.cell import Cell
from claims.edits import Imprinted
from gia.experiment import Attacker, Batch, Client, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works

PROTOCOL = Protocol(
    victim=Victim(
        name="resnet18",
        options={"stem": "3x3", "width": 64},
        standardize=published.CIFAR,
        edit=Imprinted(),
    ),
    batch=Batch(data="cifar10", image_size=32, images=64),
    client=Client(reveal=()),
    attacker=Attacker(attack="robbing_the_fed"),
    scoring=Scoring(metrics=("exact_leak", "exact_share", "psnr", "rmse"), control=path_works, control_images=8),
)

#: All 64 images behind one gradient, unless the batch size or equal labels are the factor.
WHOLE = PROTOCOL.with_({"batch.size": 64})

TRAINED = WHOLE.with_({"fit": Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5, as_attacked=True)})

#: The sparse block, which several local steps need. An update is a difference of large weights, so it keeps few digits;
#: the mode (0, 1) gives small cut-offs.
FEDERATED = WHOLE.with_(
    {
        "victim.edit": Imprinted(sparse=True, mode=(0, 1)),
        "client.local": published.LOCAL,
        "scoring.metrics": ("exact_leak", "exact_share", "recovered_share", "psnr"),
        "vary": published.LOCAL_VARIED,
    }
)

ORIGINAL = WHOLE.with_({"scoring.metrics": ("psnr", "psnr_other")})

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 8, 32, 64)),
    "resolution": Cell(protocol=WHOLE.with_({"batch.data": "imagenet"}), levels=(32, 64, 128, 224)),
    "same_labels": Cell(protocol=PROTOCOL.with_({"batch.size": 4}), levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained")),
    # The networks behind the block: their own layers never see the image.
    "architecture": Cell(protocol=WHOLE, levels=("resnet18", "resnet34", "resnet50", "lenet", "alexnet", "vgg16")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}
