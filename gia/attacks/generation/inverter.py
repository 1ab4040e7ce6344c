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

#: Standard deviations beyond which features are cut off, since a quotient may have any size.
_FAR = 10.0


class Inverter(nn.Module):
    """A multilayer perceptron from gradients to the images behind them (Wu et al., 2023, section 3).

    Each parameter's gradient is divided by its own scale. With a hash, every entry is then added to one of
    `hashed` buckets with a random sign; bucket and sign are drawn once. The result is scaled to norm 1 and every
    feature is standardized by the training pairs. `train_inverter` makes an inverter, `load` reads one.

    With a `classifier` the perceptron makes one image at a time and serves all images of a batch. It also gets an
    image's label y, how many images of the batch share it and a number among these, and the image's features as the
    classifier's gradient shows them: (gW_y - gW_0) / (gb_y - gb_0), where gW_0 and gb_0 are the means over the labels
    that are not in the batch. Where the victim finds all labels about equally likely, as before its training, this is
    the mean of the features of the images with label y.

    Args:
        shapes: name of each shared parameter -> its shape.
        image_shape, batch_size, training, local: those of the observations that it inverts.
        hashed: number of buckets, None where every entry is a feature.
        hidden: units of each hidden layer.
        classifier: name of the victim's last linear layer, whose gradient is read label by label; None makes all images
            at once.

    Attributes:
        training_mode: the argument `training`. `training` itself is torch's mode of this network.
        shapes, image_shape, batch_size, local, hashed, hidden, classifier: the arguments.

    >>> import gia
    >>> form = {"image_shape": (3, 4, 4), "batch_size": 1, "training": False, "local": None}
    >>> gia.attacks.Inverter(shapes={"layers.0.weight": (8, 48)}, hashed=8, hidden=(), **form)
    Inverter(batch_size=1, image_shape=(3, 4, 4), hashed=8, hidden=(), training_mode=False, local=None)
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
        classifier: str | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        channels, height, width = image_shape
        self.image_shape, self.batch_size = (channels, height, width), batch_size
        self.training_mode, self.local = training, local
        self.hashed, self.hidden, self.classifier = hashed, tuple(hidden), classifier
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        features = self._width = sum(self.sizes) if hashed is None else hashed
        inputs, outputs = features, batch_size
        if classifier is not None:
            self._classes, shown = self.shapes[f"{classifier}.weight"]
            features += shown
            inputs, outputs = features + self._classes + batch_size + 1, 1
        self.register_buffer("scales", torch.ones(len(self.sizes)))
        # The bucket of each entry, counted from 1; the sign is that of the number.
        self.register_buffer("place", torch.ones(0 if hashed is None else sum(self.sizes), dtype=torch.int32))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        sides = [inputs, *self.hidden, outputs * channels * height * width]
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
        } | ({} if self.classifier is None else {"classifier": self.classifier})
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in facts.items())})"

    def buckets(self, gradients: Sequence[Tensor]) -> Tensor:
        """Scaled and hashed gradients (N, features) of gradients (N, *shape), one tensor each. The map is linear.

        With a `classifier` its own gradients follow, weight first.
        """
        scaled = [g.flatten(1) / scale for g, scale in zip(gradients, self.scales, strict=True)]
        flat = torch.cat(scaled, 1)
        found = flat
        if self.hashed is not None:
            found = flat.new_zeros(len(flat), self.hashed).index_add_(1, self.place.abs() - 1, flat * self.place.sign())
        if self.classifier is None:
            return found
        named = dict(zip(self.shapes, gradients, strict=True))
        return torch.cat([found, *(named[f"{self.classifier}.{part}"].flatten(1) for part in ("weight", "bias"))], 1)

    def forward(self, buckets: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, batch_size, C, H, W), unclamped, from the result of `buckets`, (N, features).

        Labels (N, batch_size) are read with a `classifier` only; None restores them.
        """
        if self.classifier is None:
            features = (_unit(buckets) - self.mean) / self.deviation
        else:
            labels = self.labels(buckets) if labels is None else labels
            features = (self._each(buckets, labels) - self.mean) / self.deviation
            features = torch.cat([features.clamp(-_FAR, _FAR), self._names(labels).to(features)], 2)
        images: Tensor = self.network(features)
        return images.view(-1, self.batch_size, *self.image_shape)

    def standardize_by(self, buckets: Tensor, labels: Tensor | None = None) -> None:
        """Set mean and deviation of each feature to those of the buckets (N, features) of many observations.

        Labels are as in `forward`.
        """
        if self.classifier is None:
            features = _unit(buckets)
        else:
            features = self._each(buckets, self.labels(buckets) if labels is None else labels).flatten(0, 1)
        self.mean.copy_(features.mean(0))
        deviation = features.std(0)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def labels(self, buckets: Tensor) -> Tensor:
        """Labels (N, batch_size), restored from the classifier's bias one after the other, sorted.

        Each image adds about as much to the entry of its label as all of them add on average.
        """
        left = -buckets[:, -self._classes :]
        one = left.clamp_min(0).sum(1, keepdim=True) / self.batch_size
        found = []
        for _ in range(self.batch_size):
            found.append(left.argmax(1, keepdim=True))
            left = left.scatter_add(1, found[-1], -one)
        return torch.cat(found, 1).sort(1).values

    def _each(self, buckets: Tensor, labels: Tensor) -> Tensor:
        """(N, batch_size, features): the whole gradient, and each image's features as the classifier's shows them."""
        whole, classifier = buckets[:, : self._width], buckets[:, self._width :]
        weight, bias = classifier[:, : -self._classes], classifier[:, -self._classes :]
        rows = torch.cat([weight.view(len(weight), self._classes, -1), bias[:, :, None]], 2)
        absent = 1.0 - nn.functional.one_hot(labels, self._classes).amax(1).to(rows)
        rest = (absent[:, None] @ rows) / absent.sum(1).clamp_min(1)[:, None, None]
        own = rows.take_along_dim(labels[:, :, None], 1) - rest
        size = own[..., -1:]
        tiny = torch.finfo(size.dtype).tiny
        shown = own[..., :-1] / torch.where(size.abs() > tiny, size, tiny)
        return torch.cat([_unit(whole)[:, None].expand(-1, self.batch_size, -1), shown], 2)

    def _names(self, labels: Tensor) -> Tensor:
        """(N, batch_size, classes + batch_size + 1): label, number among the images with it, how many these are."""
        alike = labels[:, :, None] == labels[:, None]
        number = alike.tril(-1).sum(2)
        parts = [nn.functional.one_hot(labels, self._classes), nn.functional.one_hot(number, self.batch_size)]
        return torch.cat([*parts, alike.sum(2, keepdim=True)], 2)

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
            "classifier": self.classifier,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the inverter to one safetensors file, from which `load` restores it bit for bit."""
        cached_net.write(Path(path), *self.stored())

    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the facts of which a file of this inverter consists, as `restored` takes them."""
        tensors = {name: value.cpu() for name, value in self.state_dict().items()}
        return tensors, {"format": _FORMAT, **self.described()}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inverter:
        """Read an inverter that `save` wrote. Raises ValueError for a file that holds none or a malformed one."""
        state, facts = cached_net.read(Path(path))
        if facts.get("format") != _FORMAT:
            raise ValueError(f"path: expected a file of format {_FORMAT}, got {path}; Inverter.save writes one")
        try:
            _check_facts(facts)
            inverter = cls.restored(state, facts)
            inverter.check_values()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
            raise ValueError(
                f"path: expected a complete inverter, got {path} ({type(error).__name__}: {error})"
            ) from error
        return inverter

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Inverter:
        """The inverter that `stored` described, frozen."""
        facts = {name: value for name, value in facts.items() if name != "format"}
        if facts["local"] is not None:
            facts["local"] = LocalTraining(**facts["local"])
        with torch.device("meta"):  # an initialization would draw from the global random state
            inverter = cls(**facts)
        inverter.load_state_dict(state, assign=True)
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
