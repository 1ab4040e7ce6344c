"""Settings that the paper states and that several attack types share."""

from __future__ import annotations

from gia.federated import LocalTraining

#: CIFAR's channel means and deviations, as the paper's code standardizes.
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}

#: The clients of federated averaging (Table III), and what the paper varies.
LOCAL = LocalTraining(epochs=1, batch_size=8, lr=0.01)
LOCAL_VARIED = {"client.local.epochs": (1, 2, 5), "client.local.batch_size": (1, 8, 16)}
