"""What a client checks before it trains on a model: numbers that no honest model showed (arXiv 2503.11514, Sec. VI)."""

from __future__ import annotations

import copy
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.federated import per_example
from gia.federated.client import Loss

#: check -> the largest value accepted, or the TOML file that holds them.
Limits = Mapping[str, float] | str | os.PathLike[str]
#: Rows shorter than this hold no image: the smallest that this project knows has 8 x 8 pixels.
SHORTEST_IMAGE = 64
#: Random directions in which long rows are compared.
_DIRECTIONS = 64

#: check -> what a person should know of it; `{layer}`, `{value}` and `{limit}` are filled in.
SENTENCES: Mapping[str, str] = {
    "structure": "The model is not built as agreed: {layer}.",
    "finite": "{layer} holds {value:.0f} weights that are NaN or infinite.",
    "similar_rows": "Rows of {layer} are nearly multiples of each other (cosine {value:.4f}, honest layers stay below "
    "{limit:.4f}): neighbouring rows that measure one thing give single images away by their difference.",
    "ordered_biases": "The biases of {layer} rise or fall with their index ({value:.1f} standard deviations, honest "
    "ones at most {limit:.1f}), as the cut-offs of bins do.",
    "outlier_biases": "A bias of {layer} is {value:.3g} times the mean weight beside it, per unit of input (honest "
    "ones at most {limit:.3g}): it decides which inputs count at all.",
    "zeroed_rows": "The strongest row of {layer} is {value:.3g} times its median row (honest ones at most "
    "{limit:.3g}), both without what all rows share: only images that meet that row have a gradient.",
    "drift": "{layer} moved by {value:.3g} of its size since the last accepted round (honest rounds at most "
    "{limit:.3g}).",
    "dsnr": "In the gradient of {layer} one image of the batch outweighs all others together {value:.3g} times "
    "(honest models at most {limit:.3g}).",
    "transmit_snr": "A kernel of the first layer, {layer}, passes on one input {value:.3g} times as strongly as all "
    "others together (honest ones at most {limit:.3g}).",
}


@dataclass(frozen=True)
class Finding:
    """One thing that no honest model showed; `str` is a sentence for a person.

    Attributes:
        check: a key of `SENTENCES`.
        layer: where, by the received model's own name for it, which plays no part in any check.
        value, limit: what was measured, and the most that was accepted.
    """

    check: str
    layer: str
    value: float
    limit: float

    def __str__(self) -> str:
        return SENTENCES[self.check].format(layer=self.layer, value=self.value, limit=self.limit)


@dataclass(frozen=True)
class ValidationReport:
    """What a client found in a model; `ok` if nothing.

    Attributes:
        findings: in the order of the checks.
        skipped: check -> why it could not be made.
        values: check -> largest value over layers, of every check that was made.
        training: mode of batch normalization in which the checks on a batch ran.
    """

    findings: tuple[Finding, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    training: bool = False

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        return " ".join(map(str, self.findings)) or "nothing was found"


@torch.no_grad()
def validate_model(
    received: nn.Module,
    expected: nn.Module | None = None,
    *,
    batch: tuple[Tensor, Tensor] | None = None,
    training: bool = False,
    loss: Loss = cross_entropy,
    limits: Limits | None = None,
) -> ValidationReport:
    """Whether a client should train on `received`: what it finds is beyond every honest model of a collection.

    | check | value, the largest over layers |
    |---|---|
    | structure | shapes, in order, of parameters and buffers; parameter count; with a batch the functions called |
    | finite | weights that are NaN or infinite |
    | similar_rows | fourth largest |cosine| of a row with its nearest row; 64 weights and more |
    | ordered_biases | |rank correlation| of biases and index, in standard deviations; 8 biases and more |
    | outlier_biases | max |b| / mean |w| of the layer; with a batch over the deviation of its inputs, if above 1 |
    | zeroed_rows | largest over median norm of 3 rows and more, without what they share; no depthwise kernels |
    | drift | |change| / |before| of a layer since `expected` |
    | dsnr | max_i g_i / (sum of the others + 1e-6), g_i the norm of image i's gradient (Garov et al., ICLR 2024) |
    | transmit_snr | max |w| / (sum of the others + 1e-6) of a kernel of the first layer (the same) |

    Limits are twice (of cosines, half as far from 1 as) the largest value of honest models, none of which is among
    those that false alarms are counted on: `limits.toml` says which. They are small and trained briefly. Two public
    networks that set no limit and were trained for long pass, cifar10-cnn and efficientnet-lite0; ImageNet's AlexNet
    and VGG-16, without normalization, would not: they have biases above 30. For such models give limits of your own, as
    `fit_limits` finds them. Passing is no proof of honesty: the claim `detect.evasion` shows models that leak
    and pass.

    Args:
        received: maps images to logits; not changed, not trained on. Weights are found by shape and by what is called
            with them, never by names of classes or parameters.
        expected: the model agreed upon, or the last accepted round's; None leaves structure and drift out.
        batch: images (N, C, H, W) in [0, 1] and labels (N,) of the client; None leaves out what needs a forward pass.
            D-SNR also needs two images.
        training, loss: as in `share_gradient`, the mode in which the client will train. In training mode an image's
            gradient is what its rows add to the batch gradient.
        limits: check -> largest value accepted, or a TOML file with them in a table `limits`; other checks keep theirs.

    Raises ValueError for a limit of an unknown check, or one that is no number from 0 on.
    """
    found = _Found(_accepted(limits))
    layers, spreads = list(_layers(received)), dict[int, float]()
    if expected is not None:
        _compare(found, received, expected, batch)
    else:
        found.skipped |= {"structure": "no model was agreed upon", "drift": "no earlier round is known"}
    if batch is not None:
        images, labels = batch
        like = next(received.parameters())
        images, labels = images.to(like), labels.to(like.device)
        uses, norms = per_example.norms(received, images, labels, loss=loss, training=training)
        known = {parameter.data_ptr(): name for name, parameter in received.named_parameters()}
        names = [
            known.get(use.weight.data_ptr(), f"operation {i}").removesuffix(".weight") for i, use in enumerate(uses)
        ]
        # A weight that is computed on the way, from a buffer say, is no parameter, but is used like one.
        layers += [
            _Layer(name, use.weight, use.bias)
            for name, use in zip(names, uses, strict=True)
            if use.weight.data_ptr() not in known
        ]
        for use in reversed(uses):  # of several uses the first counts
            spreads[use.weight.data_ptr()] = float(use.inputs.std(correction=0))
        if len(images) < 2:
            found.skipped["dsnr"] = "one image is the whole gradient"
        else:
            for name, each in zip(names, norms, strict=True):
                found.measured("dsnr", name, per_example.dominance(each))
        if uses and uses[0].weight[0].numel() >= 9:
            found.measured("transmit_snr", names[0], per_example.transmit_snr(uses[0].weight))
    else:
        found.skipped |= dict.fromkeys(("dsnr", "transmit_snr"), "no batch was given")
    _statics(found, layers, spreads, received)
    order = list(SENTENCES)
    findings = sorted(found.findings, key=lambda finding: order.index(finding.check))
    return ValidationReport(tuple(findings), found.skipped, found.values, training)


class LastAccepted:
    """A client's `validate` over rounds: each model against the one that it accepted last.

    Args:
        agreed: the model agreed upon, compared with the first one received.
        batch, training, loss, limits: as in `validate_model`.
    """

    def __init__(
        self,
        agreed: nn.Module | None = None,
        *,
        batch: tuple[Tensor, Tensor] | None = None,
        training: bool = False,
        loss: Loss = cross_entropy,
        limits: Limits | None = None,
    ) -> None:
        self.accepted = copy.deepcopy(agreed)
        self._batch = batch
        self._settings: dict[str, Any] = {"training": training, "loss": loss, "limits": _accepted(limits)}

    def __call__(self, received: nn.Module) -> ValidationReport:
        """The report on `received`, which is kept if it is ok."""
        report = validate_model(received, self.accepted, batch=self._batch, **self._settings)
        if report.ok:
            self.accepted = copy.deepcopy(received)
        return report


def fit_limits(reports: Iterable[ValidationReport]) -> dict[str, float]:
    """check -> limit, from what `validate_model` reports of honest models: the way in which `limits.toml` was made.

    A limit is twice the largest value, for cosines half as far from 1. Report on models that you trust, at all stages
    of their training and on batches of the sizes that clients have; count false alarms on other models.

        limits = fit_limits(validate_model(model, batch=batch) for model in mine)
        validate_model(received, limits=limits)
    """
    largest: dict[str, float] = {}
    for report in reports:
        for check, value in report.values.items():
            largest[check] = max(value, largest.get(check, 0.0))
    return {check: 1 - (1 - value) / 2 if check == "similar_rows" else 2 * value for check, value in largest.items()}


@lru_cache(maxsize=1)
def default_limits() -> Mapping[str, float]:
    """check -> limit, as fitted on honest models; `limits.toml` says on which."""
    return _read(Path(__file__).with_name("limits.toml"))


def _read(path: str | os.PathLike[str]) -> dict[str, float]:
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content.get("limits"), dict):
        raise ValueError(f"limits: expected a table [limits] in {os.fspath(path)}, got {sorted(content)}")
    return dict(content["limits"])


def _accepted(given: Limits | None) -> dict[str, float]:
    own = {} if given is None else dict(given) if isinstance(given, Mapping) else _read(given)
    if unknown := sorted(set(own) - set(default_limits())):
        raise ValueError(f"limits: expected checks of {sorted(default_limits())}, got {unknown[0]!r}")
    if wrong := [
        check
        for check, limit in own.items()
        if isinstance(limit, bool) or not (isinstance(limit, int | float) and limit >= 0)
    ]:
        raise ValueError(f"limits: expected numbers from 0 on, got {own[wrong[0]]!r} for {wrong[0]!r}")
    return {**default_limits(), **own}


class _Found:
    """Findings as they come."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.findings: list[Finding] = []
        self.skipped: dict[str, str] = {}
        self.values: dict[str, float] = {}
        self._limits = limits

    def measured(self, check: str, layer: str, value: float) -> None:
        self.values[check] = max(value, self.values.get(check, 0.0))
        limit = self._limits[check]
        if not value <= limit:  # NaN is no honest value
            self.findings.append(Finding(check, layer, value, limit))

    def wrong(self, check: str, layer: str, value: float, limit: float) -> None:
        self.findings.append(Finding(check, layer, value, limit))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A weight that has rows, as it is or is applied, and the bias beside it."""

    name: str
    weight: Tensor
    bias: Tensor | None

    @property
    def rows(self) -> Tensor:
        return self.weight.flatten(1)

    @property
    def depthwise(self) -> bool:
        """Whether each row sees a few pixels of one channel, perhaps another one for each: no row selects an image."""
        return self.weight.dim() > 2 and self.weight.shape[1] == 1 and self.weight[0].numel() < SHORTEST_IMAGE


def _layers(model: nn.Module) -> Iterator[_Layer]:
    """Every parameter that has rows."""
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        for weight in own:
            if weight.dim() >= 2 and weight.numel():
                biases = [p for p in own if p.dim() == 1 and len(p) == len(weight)]
                yield _Layer(name or "the model", weight.detach(), biases[0].detach() if biases else None)


def _statics(found: _Found, layers: list[_Layer], spreads: Mapping[int, float], model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        # A sum is not finite if a term is not; one that overflows is looked at again.
        if not math.isfinite(float(parameter.sum())) and (wrong := int((~parameter.isfinite()).sum())):
            found.wrong("finite", name, wrong, 0)
    vectors = [(name, p.detach()) for name, p in model.named_parameters() if p.dim() == 1]
    vectors += [(layer.name, layer.bias) for layer in layers if layer.bias is not None and _is_computed(layer)]
    for name, vector in vectors:
        if len(vector) >= 8:
            found.measured("ordered_biases", name, _ordered(vector))
    for layer in layers:
        rows, bias = layer.rows, layer.bias
        if rows.shape[1] >= SHORTEST_IMAGE and len(rows) > 1:
            found.measured("similar_rows", layer.name, _similar(rows))
        if len(rows) > 2 and not layer.depthwise:
            found.measured("zeroed_rows", layer.name, _towering(rows))
        if bias is not None and bool(bias.any()):
            # Weights on pixels from 0 to 255 are small beside a bias that is no larger for it.
            unit = float(rows.abs().mean()) * max(1.0, spreads.get(layer.weight.data_ptr(), 1.0))
            found.measured("outlier_biases", layer.name, float(bias.abs().max()) / unit if unit else math.inf)


def _is_computed(layer: _Layer) -> bool:
    return layer.name.startswith("operation ")


def _similar(rows: Tensor) -> float:
    """The fourth largest, over rows, |cosine| with the nearest other row; of fewer rows the smallest.

    Long rows are compared in 64 random directions (Johnson and Lindenstrauss, 1984): there a cosine near 1 stays near
    1. The directions follow from the weights, so that nobody can choose weights to suit them.
    """
    if rows.shape[1] > 4 * _DIRECTIONS:
        g = torch.Generator().manual_seed(hash(float(rows.sum())) % 2**63)
        rows = rows @ torch.randn(rows.shape[1], _DIRECTIONS, generator=g).to(rows)
    sizes = rows.norm(dim=1, keepdim=True)
    rows = (rows / sizes.clamp_min(torch.finfo(rows.dtype).tiny))[sizes[:, 0] > 0]
    if len(rows) < 2:
        return 0.0
    nearest = []
    for first in range(0, len(rows), 1024):  # all pairs at once may not fit into memory
        cosines = (rows[first : first + 1024] @ rows.mT).abs()
        cosines.diagonal(first).zero_()
        nearest.append(cosines.amax(1))
    return float(torch.cat(nearest).topk(min(4, len(rows))).values[-1])


def _ordered(vector: Tensor) -> float:
    """|rank correlation| r of entries and index as atanh(r) sqrt(k - 3) (Fisher): about normal in random order."""
    ranks = torch.unique(vector, return_inverse=True)[1].double()  # equal entries have equal ranks
    ranks -= ranks.mean()
    if not bool(ranks.any()):
        return 0.0
    index = torch.arange(len(vector), dtype=torch.float64, device=vector.device) - (len(vector) - 1) / 2
    r = min(abs(float(ranks @ index / (ranks.norm() * index.norm()))), 1 - 1e-12)
    return math.atanh(r) * math.sqrt(len(vector) - 3)


def _towering(weight: Tensor) -> float:
    """Largest over median norm of rows, off the mean of all but the row that stands out most.

    What all rows of a classifier share changes neither a probability nor a gradient before it.
    """
    centre = weight.mean(0)
    top = weight[int((weight - centre).norm(dim=1).argmax())]
    sizes = (weight - (centre * len(weight) - top) / (len(weight) - 1)).norm(dim=1)
    largest, middle = float(sizes.max()), float(sizes.median())
    return (largest / middle if middle else math.inf) if largest else 0.0


def _compare(found: _Found, received: nn.Module, expected: nn.Module, batch: tuple[Tensor, Tensor] | None) -> None:
    ours, theirs = ([p.numel() for p in model.parameters()] for model in (expected, received))
    if sum(ours) != sum(theirs):
        found.wrong("structure", f"it has {sum(theirs)} parameters, not {sum(ours)}", sum(theirs), sum(ours))
        return
    for kind in ("parameters", "buffers"):
        shapes = [
            [(tuple(t.shape), t.dtype, t.requires_grad) for t in getattr(m, kind)()] for m in (expected, received)
        ]
        if shapes[0] != shapes[1]:
            found.wrong("structure", f"its {kind} have other shapes", len(shapes[1]), len(shapes[0]))
            return
    if batch is not None:
        image = batch[0][:1].to(next(received.parameters()))
        calls = [per_example.operations(model, image) for model in (expected, received)]
        if calls[0] != calls[1]:
            found.wrong("structure", "it computes in other steps", len(calls[1]), len(calls[0]))
    for (name, new), (_, old) in zip(_owners(received), _owners(expected), strict=True):
        size = math.sqrt(sum(float(p.norm()) ** 2 for p in old))
        moved = math.sqrt(sum(float((p - q.to(p)).norm()) ** 2 for p, q in zip(new, old, strict=True)))
        floor = 1e-3 * math.sqrt(sum(p.numel() for p in old))  # of a layer that starts at zero
        found.measured("drift", name, moved / max(size, floor))


def _owners(model: nn.Module) -> list[tuple[str, list[Tensor]]]:
    """Modules with parameters of their own, in order."""
    owners = [(name, [p.detach() for p in m.parameters(recurse=False)]) for name, m in model.named_modules()]
    return [(name, parameters) for name, parameters in owners if parameters]
