"""What is audited: the user's model, its images, and how a client trains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.data import Images
from gia.federated import LocalTraining
from gia.federated.losses import Loss, LossName, takes_targets
from gia.federated.outputs import check_initialized
from gia.federated.victims import victim_of
from gia.numerics import digest_of

__all__ = ["Setup", "digest_of_tensors", "facts", "one_line", "shape_for", "unwrapped"]


@dataclass(frozen=True, eq=False)
class Setup:
    """A model with the images and the local training of its clients.

    Attributes:
        model: as the server sends it, on its device.
        images: the private images first, then as many as a doubled batch adds, then those of the attacker.
        reserved: number of images that are not the attacker's.
        batch_size: private images of a client. `batches` clients are attacked.
        local: the local training; None where a client shares the gradient of its batch.
        defenses: what a client does to what it shares.
        training: whether batch normalization uses the statistics of its batch.
        loss: the training loss.
        seed: of everything that is drawn.
    """

    model: nn.Module
    images: Images
    reserved: int
    batch_size: int
    batches: int
    local: LocalTraining | None
    defenses: tuple[Any, ...]
    training: bool
    loss: Loss | LossName
    seed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        _, channels, height, width = self.images.images.shape
        return channels, height, width

    @property
    def private(self) -> Tensor:
        """Indices of the private images."""
        return torch.arange(self.batches * self.batch_size)

    def doubled(self) -> Setup | None:
        """The set-up with twice as many images in each batch; None where there are not enough images."""
        changed = replace(self, batch_size=2 * self.batch_size)
        return changed if len(changed.private) <= self.reserved else None

    def longer(self) -> Setup:
        """The set-up with one more epoch of local training; two where a gradient was shared."""
        local = self.local or LocalTraining(epochs=1, batch_size=self.batch_size, lr=0.01)
        return replace(self, local=replace(local, epochs=local.epochs + 1))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `DataParallel`, `DistributedDataParallel` and `torch.compile`, however deep.

    Raises TypeError for a value that is no module, ValueError for lazy parameters.

    >>> from torch import nn
    >>> from gia.audit.setup import unwrapped
    >>> unwrapped(nn.DataParallel(nn.Linear(2, 1)))
    Linear(in_features=2, out_features=1, bias=True)
    """
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            break
        model = inner
    check_initialized(model)
    return model


def shape_for(
    model: nn.Module,
    image_size: int | Sequence[int],
    channels: int | None,
    *,
    loss: Loss | LossName,
    training: bool,
    count: int = 2,
) -> tuple[tuple[int, int, int], int]:
    """The shape (C, H, W) of the images that a model takes, and its number of classes, tried on gray images.

    Args:
        model: as sent.
        image_size: height and width in pixels.
        channels: 1 or 3; None tries both, colour first.
        loss: with one output and a loss of the user, there are two classes.
        training: the mode of batch normalization.
        count: number of images of the trial.

    Raises ValueError where the model takes none of these, with its own error.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    like, errors = next(model.parameters(), None), []
    if like is None:
        raise ValueError("model: expected at least one parameter, got none")
    for each in (3, 1) if channels is None else (channels,):
        images = torch.full((count, each, height, width), 0.5).to(like)
        try:
            with torch.no_grad():
                outputs = victim_of(model, training)(images)
        except Exception as error:  # the user's own code: whatever it raises is the answer
            errors.append(f"{each} channel{'s' if each > 1 else ''}: {one_line(error)}")
            continue
        if outputs.dim() != 2:
            raise ValueError(f"model: expected outputs (N, classes), got {tuple(outputs.shape)}")
        single = outputs.shape[1] == 1 and (takes_targets(loss) or loss not in ("cross_entropy", cross_entropy))
        return (each, height, width), 2 if single else outputs.shape[1]
    raise ValueError(f"image_size: expected images that the model takes, got {height}x{width} ({'; '.join(errors)})")


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of an error in one line; its class where it has none.

    >>> from gia.audit.setup import one_line
    >>> one_line(ValueError("mat1 and mat2\\ndo not fit"))
    'mat1 and mat2 do not fit'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def digest_of_tensors(*tensors: Tensor) -> str:
    """Sixteen hex digits of the content of tensors: shapes, dtypes and values.

    >>> import torch
    >>> from gia.audit.setup import digest_of_tensors
    >>> digest_of_tensors(torch.zeros(2)) == digest_of_tensors(torch.zeros(2, 1))
    False
    """
    hashed = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        hashed.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
        hashed.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest_of(hashed.hexdigest())


def facts(setup: Setup) -> dict[str, Any]:
    """The set-up as plain JSON, with names as they are printed."""
    parameters = list(setup.model.parameters())
    shared = [p for p in parameters if p.requires_grad]
    channels, height, width = setup.shape
    return {
        "model": f"{type(setup.model).__name__}, {sum(p.numel() for p in parameters):,} parameters, "
        f"{sum(p.numel() for p in shared):,} of them shared",
        "images": f"{setup.images.source}, {height}x{width}, {'gray' if channels == 1 else f'{channels} channels'}",
        "attacked": f"{setup.batches} client{'s' if setup.batches > 1 else ''} with {setup.batch_size} "
        f"image{'s' if setup.batch_size > 1 else ''} each",
        "shared": "the gradient of the batch" if setup.local is None else f"the update of {setup.local}",
        "defenses": ", ".join(map(repr, setup.defenses)) or "none",
        "batch normalization": "statistics of the batch" if setup.training else "running statistics",
        "device": str(parameters[0].device),
        "versions": f"gia {_version()}, torch {torch.__version__}",
    }


def _version() -> str:
    try:
        return metadata.version("gia")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
