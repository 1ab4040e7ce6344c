"""What an attacker sees of one client. Nothing that takes an observation knows the private batch."""

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

from gia.federated.layers import batch_norm_layers
from gia.numerics import replacing

__all__ = ["LocalTraining", "Observation", "shared_names"]

_FORMAT = "gia.Observation/1"


@dataclass(frozen=True)
class LocalTraining:
    """Local training of a client in federated averaging: `epochs` passes of SGD over its data.

    Args:
        epochs: passes over the private images, at least 1.
        batch_size: images per local step, at least 1; the last step of an epoch may have fewer.
        lr: step size, positive and finite.
        momentum: heavy-ball momentum in [0, 1).

    Raises:
        ValueError: a value out of range.
        TypeError: `epochs` or `batch_size` is not a whole number.

    >>> from gia import LocalTraining
    >>> LocalTraining(epochs=2, batch_size=8, lr=0.1)
    LocalTraining(epochs=2, batch_size=8, lr=0.1, momentum=0.0)
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

    It holds detached, contiguous copies of all tensors.

    Attributes:
        gradients: parameter name -> gradient of the mean loss, with the parameter's shape; never a buffer. After local
            training it is the weights before minus the weights after, undivided.
        image_shape: (C, H, W) of the private images.
        batch_size: number of private images behind the gradient.
        training: whether batch normalization used the statistics of the batch; an attack runs in the same mode.
        labels: (batch_size,) int64, sorted, so that their order says nothing about the data.
        local: the local training behind an update.
        batch_norm: layer name -> (mean, biased variance) of what enters that batch normalization, each (channels,), for
            the private batch.
        trainable: names of the shared parameters; None for all of the model's.

    Raises:
        ValueError: no gradient, a value that is not finite, or a field of a wrong shape, dtype or range.
        TypeError: a field of a wrong type.

    >>> import torch, gia
    >>> gradients = {"weight": torch.zeros(2, 12), "bias": torch.zeros(2)}
    >>> gia.Observation(gradients, image_shape=(3, 2, 2), batch_size=4, labels=torch.tensor([1, 0, 1, 1]))
    Observation(2 tensors with 26 entries in float32, 4 images of 3x2x2, eval mode, known: labels)
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
        for size in shape:
            _check_count("image_shape", size)
        _check_count("batch_size", self.batch_size)
        object.__setattr__(self, "image_shape", shape)
        copies = {name: _copied(f"gradients[{name!r}]", value) for name, value in self.gradients.items()}
        object.__setattr__(self, "gradients", copies)
        if self.batch_norm is not None:
            statistics = {
                name: tuple(_copied(f"batch_norm[{name!r}]", value) for value in pair)
                for name, pair in self.batch_norm.items()
            }
            object.__setattr__(self, "batch_norm", statistics)
        if self.local is not None and not isinstance(self.local, LocalTraining):
            raise TypeError(f"local: expected a LocalTraining, got {type(self.local).__name__}")
        if self.labels is not None:
            if not isinstance(self.labels, Tensor):
                raise TypeError(f"labels: expected a tensor, got {type(self.labels).__name__}")
            labels = self.labels.detach().clone()
            if labels.dtype != torch.int64 or labels.shape != (self.batch_size,):
                raise ValueError(
                    f"labels: expected ({self.batch_size},) of int64, got {tuple(labels.shape)} of {labels.dtype}"
                )
            if int(labels.min()) < 0:
                raise ValueError(f"labels: expected class indices from 0, got {int(labels.min())}")
            object.__setattr__(self, "labels", labels.sort().values)
        if self.trainable is not None:
            object.__setattr__(self, "trainable", tuple(self.trainable))

    def __repr__(self) -> str:
        known = [name for name in ("labels", "local", "batch_norm", "trainable") if getattr(self, name) is not None]
        dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in self.gradients.values()})
        entries = sum(value.numel() for value in self.gradients.values())
        shape = "x".join(map(str, self.image_shape))
        return (
            f"Observation({len(self.gradients)} tensors with {entries:,} entries in {' and '.join(dtypes)}, "
            f"{self.batch_size} images of {shape}, {'train' if self.training else 'eval'} mode, "
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

        Args:
            model: the model as it was sent to the client.
            tensors: parameter name -> gradient, or the gradients in the order of the shared parameters of `model`:
                those of `trainable`, else those with `requires_grad`.
            image_shape, batch_size, training, labels, local, batch_norm, trainable: the attributes of these names.

        Raises:
            ValueError: a wrong number of tensors, a wrong name, shape, dtype or device, a missing parameter, or a value
                that is not finite; the message names it.

        >>> import torch, gia
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> captured = [torch.ones(2, 12), torch.ones(2)]
        >>> list(gia.Observation.from_tensors(model, captured, image_shape=(3, 2, 2), batch_size=1).gradients)
        ['1.weight', '1.bias']
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

        Leaked `batch_norm` statistics must belong to batch normalizations of the model and have one entry per channel.

        >>> import torch, gia
        >>> observation = gia.Observation({"weight": torch.zeros(2, 2)}, image_shape=(1, 1, 2), batch_size=1)
        >>> observation.check(torch.nn.Linear(2, 3, bias=False))
        Traceback (most recent call last):
        ValueError: gradients['weight']: expected the parameter's shape (3, 2), got (2, 2)
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        parameters = dict(model.named_parameters())
        expected = list(parameters) if self.trainable is None else list(self.trainable)
        if unknown := [name for name in [*expected, *self.gradients] if name not in parameters]:
            raise ValueError(f"gradients: expected parameters of the model, {_some(parameters)}, got {unknown[0]!r}")
        if missing := [name for name in expected if name not in self.gradients]:
            raise ValueError(f"gradients: expected {_some(expected)}, got none for {missing[0]!r}")
        if extra := [name for name in self.gradients if name not in expected]:
            raise ValueError(f"gradients: expected the trainable parameters {_some(expected)}, got {extra[0]!r} too")
        for name, gradient in self.gradients.items():
            parameter = parameters[name]
            for what in ("shape", "dtype", "device"):
                want, got = getattr(parameter, what), getattr(gradient, what)
                if want != got:
                    want, got = (tuple(want), tuple(got)) if what == "shape" else (want, got)
                    raise ValueError(f"gradients[{name!r}]: expected the parameter's {what} {want}, got {got}")
        layers = batch_norm_layers(model)
        for name, statistics in (self.batch_norm or {}).items():
            if name not in layers:
                raise ValueError(f"batch_norm: expected batch normalizations {_some(layers)}, got {name!r}")
            channels, shapes = layers[name].num_features, [tuple(value.shape) for value in statistics]
            if shapes != [(channels,)] * 2:
                raise ValueError(f"batch_norm[{name!r}]: expected a mean and a variance ({channels},), got {shapes}")

    def to(self, device: torch.device | str) -> Observation:
        """The same observation with every tensor on `device`.

        >>> import torch, gia
        >>> gia.Observation({"w": torch.zeros(2)}, image_shape=(1, 1, 2), batch_size=1).to("cpu").gradients["w"].device
        device(type='cpu')
        """
        return replace(
            self,
            gradients={name: value.to(device) for name, value in self.gradients.items()},
            labels=None if self.labels is None else self.labels.to(device),
            batch_norm=None
            if self.batch_norm is None
            else {name: (mean.to(device), var.to(device)) for name, (mean, var) in self.batch_norm.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file. `load` returns the same observation, bit for bit.

        Args:
            path: the file; its folder must exist. An older file of this name is replaced once the new one is complete.

        >>> import tempfile, torch, gia
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/observation.safetensors"
        ...     gia.Observation({"w": torch.ones(2)}, image_shape=(1, 1, 2), batch_size=1).save(path)
        ...     gia.Observation.load(path).gradients["w"]
        tensor([1., 1.])
        """
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
        on_cpu = {name: value.cpu() for name, value in tensors.items()}
        with replacing(path) as partial:
            save_file(on_cpu, partial, metadata={"gia": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> Observation:
        """Read what `save` wrote; see there for an example.

        Raises:
            ValueError: a safetensors file that holds no observation.
            FileNotFoundError: no such file.
        """
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("gia", "{}"))
            if facts.get("format") != _FORMAT:
                raise ValueError(
                    f"path: expected a file written by Observation.save ({_FORMAT}), got {path}; "
                    "use Observation.from_tensors for a gradient that was captured elsewhere"
                )
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
    """Names of the parameters that a client trains, and therefore shares: those with `requires_grad`.

    >>> from torch import nn
    >>> from gia.federated.observation import shared_names
    >>> shared_names(nn.Linear(2, 3))
    ['weight', 'bias']
    """
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _copied(argument: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{argument}: expected a floating-point dtype, got {value.dtype}")
    # A finite sum has finite terms, and is much faster than asking each entry; finite entries may have an infinite sum.
    if not (bool(value.sum().isfinite()) or bool(value.isfinite().all())):
        raise ValueError(f"{argument}: expected finite values, got NaN or infinity")
    # Contiguous, as after loading from a file: the order of a sum, and so its last bits, depends on the strides.
    return value.detach().clone(memory_format=torch.contiguous_format)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
