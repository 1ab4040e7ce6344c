"""What an attacker sees of one client. Nothing that takes an observation knows the private batch."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gia.federated.layers import batch_norm_layers
from gia.federated.outputs import check_initialized
from gia.federated.victims import differentiating
from gia.numerics import replacing

__all__ = ["LocalTraining", "Observation", "shared_names"]

_FORMAT = "gia.Observation/1"
#: What a gradient may be stored in.
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in ("lr", "momentum"):
            if isinstance(value := getattr(self, name), bool | str):
                raise TypeError(f"{name}: expected a number, got {value!r}")
        try:
            positive = 0 < float(self.lr) < math.inf
        except OverflowError as error:
            raise ValueError("lr: expected a positive finite step size, got one that no float can hold") from error
        if not positive:
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
        labels: (batch_size,) int64 class labels, or targets (batch_size, ...) in floats of a loss that has no classes;
            sorted, so that their order says nothing about the data.
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
        object.__setattr__(self, "image_shape", tuple(_count("image_shape", size) for size in shape))
        object.__setattr__(self, "batch_size", _count("batch_size", self.batch_size))
        if not isinstance(self.training, bool | np.bool_):
            raise TypeError(f"training: expected True or False, got {self.training!r}")
        object.__setattr__(self, "training", bool(self.training))
        copies = {name: _copied(f"gradients[{name!r}]", value) for name, value in self.gradients.items()}
        object.__setattr__(self, "gradients", copies)
        if self.batch_norm is not None:
            statistics = {name: _statistics(name, pair) for name, pair in self.batch_norm.items()}
            object.__setattr__(self, "batch_norm", statistics)
        if self.local is not None and not isinstance(self.local, LocalTraining):
            raise TypeError(f"local: expected a LocalTraining, got {type(self.local).__name__}")
        if self.labels is not None:
            object.__setattr__(self, "labels", _sorted_labels(self.labels, self.batch_size))
        if self.trainable is not None:
            names = (self.trainable,) if isinstance(self.trainable, str) else tuple(self.trainable)
            if isinstance(self.trainable, str) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"trainable: expected a sequence of parameter names, got {self.trainable!r}")
            object.__setattr__(self, "trainable", names)

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
        tensors: Mapping[str, Tensor | np.ndarray] | Iterable[Tensor | np.ndarray],
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
                those of `trainable`, else those with `requires_grad`. NumPy arrays, sparse tensors and any iterable are
                taken. The form of a `state_dict` is taken too; its buffers, which have no gradient, are left out.
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
        check_initialized(model)
        parameters, state = dict(model.named_parameters()), model.state_dict(keep_vars=True)
        if not isinstance(tensors, Mapping):
            given, names = _listed(tensors), list(trainable) if trainable is not None else shared_names(model)
            if len(given) == len(state) != len(names):  # in the order of a state_dict
                names = list(state)
            if len(given) != len(names):
                buffers = f", or {len(state)} with buffers, as in state_dict()" if len(state) > len(names) else ""
                raise ValueError(f"tensors: expected {len(names)}, one per shared parameter{buffers}, got {len(given)}")
            tensors = dict(zip(names, given, strict=True))
        if state.keys() <= tensors.keys():  # a whole state_dict holds what was not trained too
            kept = set(shared_names(model) if trainable is None else trainable)
            tensors = {name: value for name, value in tensors.items() if name in kept or name not in state}
        tensors = {name: value for name, value in tensors.items() if name in parameters or name not in state}
        if trainable is None and len(shared_names(model)) < len(dict(model.named_parameters())):
            trainable = shared_names(model)
        observation = cls(
            gradients=cast(Mapping[str, Tensor], tensors),  # arrays become tensors in it
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
        check_initialized(model)
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
            ValueError: a file that holds no observation, or one with a part that is missing, malformed or out of range.
            FileNotFoundError: no such file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("gia", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ValueError, RecursionError, OverflowError) as error:
            raise ValueError(f"path: expected a readable file of Observation.save, got {path} ({error})") from error
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            raise ValueError(
                f"path: expected a file written by Observation.save ({_FORMAT}), got {path}; "
                "use Observation.from_tensors for a gradient that was captured elsewhere"
            )
        try:
            return cls._of(facts, tensors)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"path: expected a complete observation, got {path} ({reason})") from error

    @classmethod
    def _of(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Observation:
        """The observation of a file's metadata and tensors; raises in many ways where they are malformed."""
        order, layers, trainable = (facts[key] for key in ("order", "batch_norm", "trainable"))
        for key, names in (("order", order), ("batch_norm", layers), ("trainable", trainable)):
            optional = key != "order"
            listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
            if not listed and not (optional and names is None):
                raise ValueError(f"{key}: expected a list of names, got {names!r}")
            if listed and len(set(names)) != len(names):
                raise ValueError(f"{key}: expected distinct names, got {names!r}")
        if not isinstance(facts["image_shape"], list):
            raise ValueError(f"image_shape: expected a list, got {facts['image_shape']!r}")
        gradients = {f"gradients/{name}": name for name in order}
        statistics = [f"batch_norm/{part}/{name}" for name in layers or () for part in ("mean", "variance")]
        if unread := sorted(set(tensors) - set(gradients) - set(statistics) - {"labels"}):
            raise ValueError(f"tensors: expected those that the file lists, got {unread[0]!r} too")
        return cls(
            gradients={name: tensors[key] for key, name in gradients.items()},
            image_shape=cast(tuple[int, int, int], facts["image_shape"]),
            batch_size=facts["batch_size"],
            training=facts["training"],
            labels=tensors.get("labels"),
            local=None if facts["local"] is None else LocalTraining(**facts["local"]),
            batch_norm=None
            if layers is None
            else {
                each: (tensors[f"batch_norm/mean/{each}"], tensors[f"batch_norm/variance/{each}"]) for each in layers
            },
            trainable=trainable,
        )


def shared_names(model: nn.Module) -> list[str]:
    """Names of the parameters that a client trains, and therefore shares: those with `requires_grad`.

    >>> from torch import nn
    >>> from gia.federated.observation import shared_names
    >>> shared_names(nn.Linear(2, 3))
    ['weight', 'bias']
    """
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@differentiating()
def _copied(argument: str, value: object) -> Tensor:
    value = _dense(argument, value)
    if value.dtype not in _DTYPES:  # torch cannot even add numbers of the others, such as float8
        raise ValueError(f"{argument}: expected float16, bfloat16, float32 or float64, got {value.dtype}")
    # A finite sum has finite terms, and is much faster than asking each entry; finite entries may have an infinite sum.
    if not (bool(value.sum().isfinite()) or bool(value.isfinite().all())):
        raise ValueError(f"{argument}: expected finite values, got NaN or infinity")
    # Contiguous, as after loading from a file: the order of a sum, and so its last bits, depends on the strides.
    return value.detach().clone(memory_format=torch.contiguous_format)


def _dense(argument: str, value: object) -> Tensor:
    if isinstance(value, np.ndarray | np.generic):
        try:
            return torch.from_numpy(np.array(value))
        except TypeError as error:
            raise TypeError(f"{argument}: expected an array of numbers, got dtype {value.dtype}") from error
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: expected a tensor or a NumPy array, got {type(value).__name__}")
    return value if value.layout == torch.strided else value.to_dense()


def _statistics(name: str, pair: object) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise TypeError(f"batch_norm[{name!r}]: expected a mean and a variance, got {type(pair).__name__}")
    mean, variance = (_copied(f"batch_norm[{name!r}]", value) for value in pair)
    if bool((variance < 0).any()):
        raise ValueError(f"batch_norm[{name!r}]: expected a variance of at least 0, got {float(variance.min()):g}")
    return mean, variance


def _sorted_labels(value: object, count: int) -> Tensor:
    """Class labels in their order, or rows of targets in lexicographic order."""
    labels = _dense("labels", value)
    if labels.is_floating_point():
        if labels.shape[:1] != (count,):
            raise ValueError(f"labels: expected ({count}, ...) targets, got {tuple(labels.shape)}")
        targets = _copied("labels", labels)
        rows = targets.reshape(count, -1).cpu().double().numpy()
        return targets[torch.from_numpy(np.lexsort(rows.T[::-1]).copy()).to(targets.device)]
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(f"labels: expected ({count},) of int64, got {tuple(labels.shape)} of {labels.dtype}")
    if int(labels.min()) < 0:
        raise ValueError(f"labels: expected class indices from 0, got {int(labels.min())}")
    with torch.inference_mode(False):
        return labels.detach().clone().sort().values


def _listed(values: object) -> list[Any]:
    if isinstance(values, str | Tensor) or not isinstance(values, Iterable):
        raise TypeError(f"tensors: expected a mapping or an iterable of tensors, got {type(values).__name__}")
    return list(values)


def _count(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if count < 1:
        raise ValueError(f"{name}: expected at least 1, got {count}")
    return count


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
