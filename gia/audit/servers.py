"""What a client that knows the model says to malicious servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from gia.audit.report import Validated
from gia.audit.setup import Setup, one_line
from gia.federated import validate_model
from gia.federated.layers import classifier
from gia.federated.server import fish_class, imprint, trap_weights
from gia.numerics import generator_of

__all__ = ["validated"]


def validated(setup: Setup) -> Iterator[Validated]:
    """What a client that knows the model says to it, and to what malicious servers make of it."""
    model, first = setup.model, setup.private[: setup.batch_size]
    like = next(model.parameters())
    batch = setup.images.images[first].to(like), setup.images.labels[first].to(like.device)

    def drawn() -> torch.Generator:
        return generator_of("audit", setup.seed, "server")

    servers: dict[str, Callable[[], nn.Module]] = {
        "honest server": lambda: model,
        "imprint block in front (robbing the fed)": lambda: imprint(
            model, image_shape=setup.shape, bins=64, generator=drawn()
        ),
        "classifier that fishes for one class": lambda: fish_class(model, target=int(setup.images.labels[0])),
    }
    if any(isinstance(m, nn.Linear) for n, m in model.named_modules() if n != _classifier(model)):
        servers["trap weights in the first linear layer"] = lambda: trap_weights(model, generator=drawn())
    for server, make in servers.items():
        try:
            report = validate_model(make(), model, batch=batch, training=setup.training, loss=setup.loss)
        except Exception as error:  # as for attacks: one line in place of a traceback
            yield Validated(server, (), one_line(error))
        else:
            yield Validated(server, tuple(map(str, report.findings)))


def _classifier(model: nn.Module) -> str | None:
    try:
        return classifier(model)
    except ValueError:
        return None
