"""What an attacker sees of one client: the wall between the private batch and everything behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_FORMAT = "gia.Observation/1"


@dataclass(frozen=True)
class LocalTraining:
    """Local training of a client in federated averaging: `epochs` passes of SGD over its data.

    Args:
        epochs: passes over the private images, at least 1.
        batch_size: images per local step, at least 1; the last step of an epoch may be smaller.
        lr: step size, positive.
        momentum: heavy-ball momentum in [0, 1).
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            _check_count(name, getattr(self, name))
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr: expected a positive finite step size, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected [0, 1), got {self.momentum}")


@dataclass(frozen=True, eq=False)
class Observation:
    """One client's answer to one model. The optional fields *are* the threat model: None means not leaked.

    Attributes:
        gradients: parameter name -> detached gradient of the mean loss, shaped as the parameter; never a buffer.
            After local training it is the weights before minus the weights after, undivided.
        image_shape: (C, H, W) of the private images.
        batch_size: number of private images behind the gradient.
        training: whether batch normalization used batch statistics; the attack runs in the same mode.
        labels: (batch_size,) int64, sorted, so that their order says nothing about the data.
        local: the local training behind an update.
        batch_norm: layer name -> (mean, biased variance) of the private batch at each batch normalization.
        trainable: names of the shared parameters, None for all of the model's.
    """

    gradients: Mapping[str, Tensor]
    image_shape: tuple[int, int, int]
    batch_size: int
    training: bool = False
    labels: Tensor | None = None
    local: LocalTraining | None = None
    batch_norm: Mapping[str, tuple[Tensor, Tensor]] | None = None
    trainable: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.gradients, Mapping):
            raise TypeError(f"gradients: expected a mapping of parameter names, got {type(self.gradients).__name__}")
        if not self.gradients:
            raise ValueError("gradients: expected at least one parameter, got none")
        shape = tuple(self.image_shape)
        if len(shape) != 3:
            raise ValueError(f"image_shape: expected (channels, height, width), got {self.image_shape}")
        for side in shape:
            _check_count("image_shape", side)
        _check_count("batch_size", self.batch_size)
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "gradients", {k: _kept(f"gradients: {k!r}", v) for k, v in self.gradients.items()})
        if self.batch_norm is not None:
            kept = {k: tuple(_kept(f"batch_norm: {k!r}", v) for v in pair) for k, pair in self.batch_norm.items()}
            object.__setattr__(self, "batch_norm", kept)
        if self.local is not None and not isinstance(self.local, LocalTraining):
            raise TypeError(f"local: expected a LocalTraining, got {type(self.local).__name__}")
        if self.labels is not None:
            if not isinstance(self.labels, Tensor):
                raise TypeError(f"labels: expected a tensor, got {type(self.labels).__name__}")
            labels = self.labels.detach().clone()
            if labels.dtype != torch.int64 or labels.shape != (self.batch_size,):
                raise ValueError(
                    f"labels: expected {self.batch_size} of dtype int64, got {tuple(labels.shape)} of {labels.dtype}"
                )
            if int(labels.min()) < 0:
                raise ValueError(f"labels: expected class indices from 0, got {int(labels.min())}")
            object.__setattr__(self, "labels", labels.sort().values)
        if self.trainable is not None:
            object.__setattr__(self, "trainable", tuple(self.trainable))

    def __repr__(self) -> str:
        known = [name for name in ("labels", "local", "batch_norm", "trainable") if getattr(self, name) is not None]
        mode = "train" if self.training else "eval"
        shape = "x".join(map(str, self.image_shape))
        return (
            f"Observation({len(self.gradients)} tensors, {self.batch_size} images of {shape}, {mode} mode, "
            f"known: {', '.join(known) or 'nothing more'})"
        )

    @classmethod
    def from_tensors(
        cls,
        model: nn.Module,
        tensors: Mapping[str, Tensor] | Sequence[Tensor],
        *,
        image_shape: tuple[int, int, int],
        batch_size: int,
        training: bool = False,
        labels: Tensor | None = None,
        local: LocalTraining | None = None,
        batch_norm: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        trainable: Sequence[str] | None = None,
    ) -> Observation:
        """An observation of a gradient that was captured elsewhere.

        `tensors` maps parameter names to gradients, or lists them in the order of the shared parameters of `model`
        (those of `trainable`, else those that require a gradient). Raises ValueError for a wrong number, name, shape
        or dtype, a missing parameter, or a value that is not finite, and names it.
        """
        if not isinstance(tensors, Mapping):
            names = list(trainable) if trainable is not None else shared_names(model)
            if len(tensors) != len(names):
                raise ValueError(f"tensors: expected {len(names)}, one per shared parameter, got {len(tensors)}")
            tensors = dict(zip(names, tensors, strict=True))
        if trainable is None and len(shared_names(model)) < len(dict(model.named_parameters())):
            trainable = shared_names(model)
        observation = cls(
            gradients=tensors,
            image_shape=image_shape,
            batch_size=batch_size,
            training=training,
            labels=labels,
            local=local,
            batch_norm=batch_norm,
            trainable=None if trainable is None else tuple(trainable),
        )
        observation.check(model)
        return observation

    def check(self, model: nn.Module) -> None:
        """Raise ValueError unless the gradients fit the parameters of `model` by name, shape, dtype and device.

        Leaked `batch_norm` statistics must name batch normalizations of the model and have their number of channels.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        parameters = dict(model.named_parameters())
        expected = list(parameters) if self.trainable is None else list(self.trainable)
        if unknown := [name for name in [*expected, *self.gradients] if name not in parameters]:
            raise ValueError(f"gradients: the model has no parameter {unknown[0]!r}; it has {_some(parameters)}")
        if missing := [name for name in expected if name not in self.gradients]:
            raise ValueError(f"gradients: {missing[0]!r} is missing; expected {_some(expected)}")
        if extra := [name for name in self.gradients if name not in expected]:
            raise ValueError(f"gradients: {extra[0]!r} is not among the trainable parameters {_some(expected)}")
        for name, gradient in self.gradients.items():
            parameter = parameters[name]
            for what in ("shape", "dtype", "device"):
                want, got = getattr(parameter, what), getattr(gradient, what)
                if want != got:
                    want, got = (tuple(want), tuple(got)) if what == "shape" else (want, got)
                    raise ValueError(f"gradients: {name!r} has {what} {got}, the model's parameter has {want}")
        modules = dict(model.named_modules())
        for name, statistics in (self.batch_norm or {}).items():
            layer = modules.get(name)
            if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise ValueError(f"batch_norm: the model has no batch normalization {name!r}")
            if [tuple(value.shape) for value in statistics] != [(layer.num_features,)] * 2:
                raise ValueError(f"batch_norm: {name!r} expects a mean and a variance of {layer.num_features} channels")

    def to(self, device: torch.device | str) -> Observation:
        """The same observation with every tensor on `device`."""
        return replace(
            self,
            gradients={name: value.to(device) for name, value in self.gradients.items()},
            labels=None if self.labels is None else self.labels.to(device),
            batch_norm=None
            if self.batch_norm is None
            else {name: (mean.to(device), var.to(device)) for name, (mean, var) in self.batch_norm.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; `load` gives the same observation bit for bit."""
        tensors = {f"gradients/{name}": value for name, value in self.gradients.items()}
        if self.labels is not None:
            tensors["labels"] = self.labels
        for name, (mean, variance) in (self.batch_norm or {}).items():
            tensors[f"batch_norm/mean/{name}"] = mean
            tensors[f"batch_norm/variance/{name}"] = variance
        facts: dict[str, Any] = {
            "format": _FORMAT,
            "image_shape": self.image_shape,
            "batch_size": self.batch_size,
            "training": self.training,
            "local": None if self.local is None else asdict(self.local),
            "trainable": self.trainable,
            "order": list(self.gradients),
            "batch_norm": None if self.batch_norm is None else list(self.batch_norm),
        }
        save_file({name: value.cpu() for name, value in tensors.items()}, path, metadata={"gia": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> Observation:
        """Read what `save` wrote. Raises ValueError for a safetensors file that holds no observation."""
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("gia", "{}"))
            if facts.get("format") != _FORMAT:
                raise ValueError(f"path: {path} holds no {_FORMAT}; a captured gradient enters by from_tensors")
            layers = facts["batch_norm"]
            return cls(
                gradients={name: file.get_tensor(f"gradients/{name}") for name in facts["order"]},
                image_shape=facts["image_shape"],
                batch_size=facts["batch_size"],
                training=facts["training"],
                labels=file.get_tensor("labels") if "labels" in file.keys() else None,  # noqa: SIM118 (not a dict)
                local=None if facts["local"] is None else LocalTraining(**facts["local"]),
                batch_norm=None
                if layers is None
                else {
                    name: (file.get_tensor(f"batch_norm/mean/{name}"), file.get_tensor(f"batch_norm/variance/{name}"))
                    for name in layers
                },
                trainable=facts["trainable"],
            )


def shared_names(model: nn.Module) -> list[str]:
    """Names of the parameters that a client trains, and therefore shares: those with `requires_grad`."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _kept(what: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} is a {type(value).__name__}, expected a tensor")
    if not value.is_floating_point():
        raise ValueError(f"{what} has dtype {value.dtype}, expected floating point")
    # No finite sum holds NaN or infinity, which takes far longer to ask of each entry; a large sum overflows.
    if not (bool(value.sum().isfinite()) or bool(value.isfinite().all())):
        raise ValueError(f"{what} holds NaN or infinity")
    # Contiguous, as it comes back from a file: the order of a sum, and so its last bits, follows the strides.
    return value.detach().clone(memory_format=torch.contiguous_format)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected whole numbers, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
