"""The network of Learning to Invert: hashed gradients in, the images of a batch out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gia.federated import LocalTraining, Observation
from gia.models import cached_net

_FORMAT = "gia.Inverter/1"


class Inverter(nn.Module):
    """A multilayer perceptron from gradients to the images behind them (Wu et al., 2023, section 3).

    Each parameter's gradient is divided by its own scale. With a hash, every entry is then added to one of
    `hashed` buckets with a random sign; bucket and sign are drawn once. The result is scaled to norm 1 and every
    feature is standardized by the training pairs. `train_inverter` makes an inverter, `load` reads one.

    Args:
        shapes: name of each shared parameter -> its shape.
        image_shape, batch_size, training, local: those of the observations that it inverts.
        hashed: number of buckets, None where every entry is a feature.
        hidden: units of each hidden layer.

    Attributes:
        training_mode: the argument `training`. `training` itself is torch's mode of this network.
        shapes, image_shape, batch_size, local, hashed, hidden: the arguments.

    >>> import gia
    >>> form = {"image_shape": (3, 4, 4), "batch_size": 1, "training": False, "local": None}
    >>> gia.attacks.Inverter(shapes={"layers.0.weight": (8, 48)}, hashed=16, hidden=(32, 32), **form)
    Inverter(batch_size=1, image_shape=(3, 4, 4), hashed=16, hidden=(32, 32), training_mode=False, local=None)
    """

    scales: Tensor
    place: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        shapes: Mapping[str, Sequence[int]],
        image_shape: Sequence[int],
        batch_size: int,
        training: bool,
        local: LocalTraining | None,
        hashed: int | None,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        channels, height, width = image_shape
        self.image_shape, self.batch_size = (channels, height, width), batch_size
        self.training_mode, self.local = training, local
        self.hashed, self.hidden = hashed, tuple(hidden)
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        features = sum(self.sizes) if hashed is None else hashed
        self.register_buffer("scales", torch.ones(len(self.sizes)))
        # The bucket of each entry, counted from 1; the sign is that of the number.
        self.register_buffer("place", torch.ones(0 if hashed is None else sum(self.sizes), dtype=torch.int32))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        sides = [features, *self.hidden, batch_size * channels * height * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(sides):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.network = nn.Sequential(*layers[:-1])

    def __repr__(self) -> str:
        facts = {
            "batch_size": self.batch_size,
            "image_shape": self.image_shape,
            "hashed": self.hashed,
            "hidden": self.hidden,
            "training_mode": self.training_mode,
            "local": self.local,
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in facts.items())})"

    def buckets(self, gradients: Sequence[Tensor]) -> Tensor:
        """Scaled and hashed gradients (N, features) of gradients (N, *shape), one tensor each. The map is linear."""
        scaled = [g.flatten(1) / scale for g, scale in zip(gradients, self.scales, strict=True)]
        flat = torch.cat(scaled, 1)
        if self.hashed is None:
            return flat
        hashed = flat.new_zeros(len(flat), self.hashed)
        return hashed.index_add_(1, self.place.abs() - 1, flat * self.place.sign())

    def forward(self, buckets: Tensor) -> Tensor:
        """Images (N, batch_size, C, H, W), unclamped, from the result of `buckets`, (N, features)."""
        features = (_unit(buckets) - self.mean) / self.deviation
        images: Tensor = self.network(features)
        return images.view(-1, self.batch_size, *self.image_shape)

    def standardize_by(self, buckets: Tensor) -> None:
        """Set mean and deviation of each feature to those of the buckets (N, features) of many observations."""
        unit = _unit(buckets)
        self.mean.copy_(unit.mean(0))
        deviation = unit.std(0)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def check(self, observation: Observation) -> None:
        """Raise ValueError unless this inverter was trained for observations of this form."""
        reference = next(iter(observation.gradients.values()))
        seen = {name: tuple(value.shape) for name, value in observation.gradients.items()}
        for name in [*self.shapes, *seen]:
            if self.shapes.get(name) != seen.get(name):
                raise ValueError(
                    f"gradients: expected {name!r} of shape {self.shapes.get(name)}, as the inverter was trained, "
                    f"got {seen.get(name)}"
                )
        for what, mine, theirs in (
            ("image_shape", self.image_shape, observation.image_shape),
            ("batch_size", self.batch_size, observation.batch_size),
            ("training", self.training_mode, observation.training),
            ("local", self.local, observation.local),
            ("dtype", self.mean.dtype, reference.dtype),
            ("device", self.mean.device, reference.device),
        ):
            if mine != theirs:
                raise ValueError(f"{what}: expected {mine}, for which the inverter was trained, got {theirs}")

    def described(self) -> dict[str, Any]:
        """The arguments of this inverter as values that JSON can hold."""
        return {
            "shapes": self.shapes,
            "image_shape": self.image_shape,
            "batch_size": self.batch_size,
            "training": self.training_mode,
            "local": None if self.local is None else asdict(self.local),
            "hashed": self.hashed,
            "hidden": self.hidden,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the inverter to one safetensors file, from which `load` restores it bit for bit."""
        tensors = {name: value.cpu() for name, value in self.state_dict().items()}
        cached_net.write(Path(path), tensors, {"format": _FORMAT, **self.described()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inverter:
        """Read an inverter that `save` wrote. Raises ValueError for a file that holds none or a malformed one."""
        state, facts = cached_net.read(Path(path))
        if facts.pop("format", None) != _FORMAT:
            raise ValueError(f"path: expected a file of format {_FORMAT}, got {path}; Inverter.save writes one")
        try:
            _check_facts(facts)
            if facts["local"] is not None:
                facts["local"] = LocalTraining(**facts["local"])
            with torch.device("meta"):  # an initialization would draw from the global random state
                inverter = cls(**facts)
            inverter.load_state_dict(state, assign=True)
            inverter.check_values()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
            raise ValueError(
                f"path: expected a complete inverter, got {path} ({type(error).__name__}: {error})"
            ) from error
        return inverter.requires_grad_(False).eval()

    def check_values(self) -> None:
        """Raise ValueError for weights that are not finite, scales and deviations that are not positive, or a bad hash.

        >>> import gia
        >>> form = {"image_shape": (3, 4, 4), "batch_size": 1, "training": False, "local": None}
        >>> gia.attacks.Inverter(shapes={"weight": (8, 48)}, hashed=None, hidden=(4,), **form).check_values()
        """
        floats = {name: value for name, value in self.state_dict().items() if name != "place"}
        dtypes = {value.dtype for value in floats.values()}
        if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
            raise ValueError(f"weights: expected one floating-point dtype, got {sorted(map(str, dtypes))}")
        for name, value in floats.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name}: expected finite values, got NaN or infinity")
        for name in ("scales", "deviation"):
            if not bool((floats[name] > 0).all()):
                raise ValueError(f"{name}: expected values above 0, got {float(floats[name].min()):g}")
        place = self.place.abs()
        if self.place.dtype != torch.int32 or not bool(((place >= 1) & (place <= (self.hashed or 0))).all()):
            raise ValueError(f"place: expected buckets from 1 to {self.hashed} in int32, got others")


def _check_facts(facts: Mapping[str, Any]) -> None:
    """Raise unless a file's facts have the types that `Inverter.described` writes."""
    shapes, hidden = facts["shapes"], facts["hidden"]
    if not isinstance(shapes, dict) or not shapes:
        raise ValueError(f"shapes: expected a table of shapes, got {shapes!r}")
    counts = [
        *hidden,
        *facts["image_shape"],
        facts["batch_size"],
        *(size for shape in shapes.values() for size in shape),
    ]
    if facts["hashed"] is not None:
        counts.append(facts["hashed"])
    if wrong := [count for count in counts if type(count) is not int or not 1 <= count < 2**31]:
        raise ValueError(f"sizes: expected whole numbers from 1, got {wrong[0]!r}")
    if not isinstance(facts["training"], bool):
        raise ValueError(f"training: expected true or false, got {facts['training']!r}")


def _unit(buckets: Tensor) -> Tensor:
    unit: Tensor = buckets / buckets.norm(dim=1, keepdim=True).clamp_min(torch.finfo(buckets.dtype).tiny)
    return unit
