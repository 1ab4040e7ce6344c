"""The paper's defense in three stages: the network's design, the local protocol, and checks of what is received."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gia.defenses.design import DesignFinding, design_findings
from gia.federated.client import Client, Report
from gia.federated.observation import LocalTraining
from gia.federated.validation import validate_model

__all__ = ["Pipeline"]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Three stages that a client composes (arXiv 2503.11514, Sec. VI); None leaves out the second or the third.

    Whether each stage lowers what attacks recover is measured by the rows `defense.*` of the register.

    Args:
        design: (model) -> findings about its shape. `functools.partial(design_findings, image_shape=...)` knows the
            images.
        protocol: the local training. A client must hold at least one whole batch of it, since a smaller one would
            share the gradient of fewer images.
        validation: (received, expected, *, batch, training) -> report, such as `gia.validate_model`.

    >>> import torch, gia
    >>> pipeline = gia.defenses.Pipeline(protocol=gia.LocalTraining(epochs=2, batch_size=4, lr=0.01))
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("lenet", num_classes=3, image_size=16, generator=g)
    >>> [finding.row for finding in pipeline.design(model)]
    ['op.architecture']
    >>> client = pipeline.client(torch.rand(8, 3, 16, 16, generator=g), torch.arange(8) % 3, agreed=model, generator=g)
    >>> client.answer(model).batch_size
    8
    >>> sent = gia.federated.server.fish_class(model, target=0)
    >>> client.answer(sent)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gia.federated.client.RefusedModel: model: expected one that the client's validation accepts, ...
    """

    design: Callable[[nn.Module], Sequence[DesignFinding]] = design_findings
    protocol: LocalTraining | None = None
    validation: Callable[..., Report] | None = validate_model

    def client(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        agreed: nn.Module | None = None,
        training: bool = False,
        **options: Any,
    ) -> Client:
        """A client that trains by the protocol and validates what it receives, on its own images.

        Args:
            images: (N, C, H, W) in [0, 1].
            labels: (N,) int64.
            agreed: the model agreed upon, for the validation.
            training: whether batch normalization uses the statistics of its batch.
            options: further arguments of `gia.federated.Client`, such as `defenses`, `generator` and `reveal`.

        Raises ValueError for fewer images than a batch of the protocol, and as `gia.federated.Client` does.
        """
        least = 1 if self.protocol is None else self.protocol.batch_size
        if len(images) < least:
            raise ValueError(f"images: expected at least {least}, a batch of the protocol, got {len(images)}")
        validate = None
        if self.validation is not None:
            validate = functools.partial(self.validation, expected=agreed, batch=(images, labels), training=training)
        return Client(images, labels, local=self.protocol, validate=validate, training=training, **options)
