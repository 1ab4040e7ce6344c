"""What a client checks before it trains on a model: values that no honest model reached (arXiv 2503.11514, Sec. VI)."""

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

from gia.errors import expected_one_of
from gia.federated import per_example
from gia.federated.losses import Loss, LossName, loss_of
from gia.federated.outputs import check_initialized
from gia.federated.victims import differentiable

__all__ = ["Finding", "LastAccepted", "Limits", "ValidationReport", "default_limits", "fit_limits", "validate_model"]

#: check -> the largest accepted value, or a TOML file with a table of these.
Limits = Mapping[str, float] | str | os.PathLike[str]
#: Rows shorter than this hold no image; the smallest images of this project have 8 x 8 pixels.
SHORTEST_IMAGE = 64
#: How many reports set a limit that one of them may exceed; a training sends about three models, so 1 % of trainings.
_ONE_IN = 300
#: Random directions in which long rows are compared.
_DIRECTIONS = 64

#: Checks without a default limit, since honest models reach what malicious ones do; they are measured and noted.
ADVISORY = frozenset({"dsnr"})
#: The note on D-SNR; the numbers are those of docs/pilots.md#detect.
_NOTE = (
    "D-SNR {value:.3g} (advisory): so many times as much as all others together weighs one image of the batch in a "
    "layer's gradient. Class fishing reaches 79, accurate honest models do in a quarter of all batches of 8."
)

#: check -> the sentence about a finding; `{layer}`, `{value}` and `{limit}` are filled in.
SENTENCES: Mapping[str, str] = {
    "structure": "The model is not built as agreed: {layer}.",
    "finite": "{layer} holds {value:.0f} weights that are NaN or infinite.",
    "similar_rows": "Rows of {layer} are nearly multiples of each other (cosine {value:.4f}, at most {limit:.4f} in "
    "honest layers): the difference of neighbouring rows that measure the same can reveal a single image.",
    "ordered_biases": "The biases of {layer} rise or fall with their index ({value:.1f} standard deviations, at most "
    "{limit:.1f} in honest layers), as the cut-offs of bins do.",
    "outlier_biases": "A bias of {layer} is {value:.3g} times the mean weight of the layer, per unit of input (at most "
    "{limit:.3g} in honest layers): it decides which inputs have an effect.",
    "zeroed_rows": "The largest row of {layer} is {value:.3g} times its median row (at most {limit:.3g} in honest "
    "layers), both without the part that all rows share: only images that activate that row have a gradient.",
    "drift": "{layer} moved by {value:.3g} of its size since the last accepted round (at most {limit:.3g} in honest "
    "rounds).",
    "dsnr": "In the gradient of {layer} one image of the batch weighs {value:.3g} times as much as all others together "
    "(at most {limit:.3g} in honest models).",
    "transmit_snr": "A kernel of the first layer, {layer}, passes on one input {value:.3g} times as strongly as all "
    "others together (at most {limit:.3g} in honest models).",
}


@dataclass(frozen=True)
class Finding:
    """One value of a model beyond that of all honest models; `str` is a sentence about it.

    Attributes:
        check: a key of `SENTENCES`.
        layer: where the value was measured, by the received model's name for it. No check depends on names.
        value: what was measured.
        limit: the largest accepted value.

    >>> from gia.federated import Finding
    >>> print(Finding(check="drift", layer="layers.0", value=2.0, limit=0.5))
    layers.0 moved by 2 of its size since the last accepted round (at most 0.5 in honest rounds).
    """

    check: str
    layer: str
    value: float
    limit: float

    def __str__(self) -> str:
        return SENTENCES[self.check].format(layer=self.layer, value=self.value, limit=self.limit)


@dataclass(frozen=True)
class ValidationReport:
    """The result of `validate_model`; `str` lists the findings in sentences, and what an advisory check measured.

    Attributes:
        findings: in the order of the checks.
        skipped: check -> why it could not be made.
        values: check -> largest value over layers, for every check that was made.
        training: whether batch normalization used the statistics of the batch in the checks that need one.

    >>> from gia.federated import Finding, ValidationReport
    >>> drift = Finding(check="drift", layer="layers.0", value=2.0, limit=0.5)
    >>> ValidationReport(findings=(drift,), skipped={"dsnr": "no batch was given"}, values={"drift": 2.0})
    ValidationReport(not ok, eval mode, findings: drift; values: drift 2; skipped: dsnr)
    >>> print(ValidationReport(findings=(), values={"dsnr": 2.0}))
    no findings. D-SNR 2 (advisory): so many times as much as all others together weighs one image ...
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
        findings = " ".join(map(str, self.findings)) or "no findings"
        if "dsnr" not in self.values or any(finding.check == "dsnr" for finding in self.findings):
            return findings
        return f"{findings.removesuffix('.')}. {_NOTE.format(value=self.values['dsnr'])}"

    def __repr__(self) -> str:
        findings = ", ".join(dict.fromkeys(finding.check for finding in self.findings)) or "none"
        values = ", ".join(f"{check} {value:.3g}" for check, value in self.values.items()) or "none"
        return (
            f"ValidationReport({'ok' if self.ok else 'not ok'}, {'train' if self.training else 'eval'} mode, "
            f"findings: {findings}; values: {values}; skipped: {', '.join(self.skipped) or 'none'})"
        )


@torch.inference_mode(False)
@torch.no_grad()
def validate_model(
    received: nn.Module,
    expected: nn.Module | None = None,
    *,
    batch: tuple[Tensor, Tensor] | None = None,
    training: bool = False,
    loss: Loss | LossName = cross_entropy,
    limits: Limits | None = None,
) -> ValidationReport:
    """Check a received model before a client trains on it. A finding is a value beyond that of honest models.

    | check | value, the largest over layers |
    |---|---|
    | structure | shapes of parameters and buffers, in order; number of parameters; with a batch the functions called |
    | finite | number of weights that are NaN or infinite |
    | similar_rows | fourth largest |cosine| of a row with its nearest row, for rows of at least 64 weights |
    | ordered_biases | |rank correlation| of biases and index in standard deviations, for at least 8 biases |
    | outlier_biases | max |b| / mean |w| of the layer; with a batch divided by its input's deviation, if above 1 |
    | zeroed_rows | largest / median norm of at least 3 rows, without their common part; not of depthwise kernels |
    | drift | |change| / |before| of a layer since `expected` |
    | dsnr | max_i g_i / (sum of the others + 1e-6), g_i the norm of image i's gradient (Garov et al., ICLR 2024) |
    | transmit_snr | max |w| / (sum of the others + 1e-6) of a kernel of the first layer (Garov et al.) |

    A limit is twice the value that one honest model in 300 exceeds; for cosines it is half as far from 1. These models
    are small; `limits.toml` lists their families, optimizers, weight decays and lengths of training. The
    claim `detect.false_alarms` counts alarms on each family by limits that the others set: about one honest training in
    a hundred is flagged. Two public networks that set no limit pass, cifar10-cnn and efficientnet-lite0. ImageNet's
    AlexNet and VGG-16, which have no normalization and biases above 30, would not pass: for such models pass limits
    that `fit_limits` derives. A model without findings may still leak: the claim `detect.evasion` has examples.

    D-SNR is advisory: it is measured and noted in the report, and is never a finding unless `limits` sets a limit. No
    limit separates honest models: a batch with one wrong image, of a model that is sure of the others, has any D-SNR.
    Batches of one image have none.

    Args:
        received: maps images to logits; not changed and not trained on. Weights are found by their shapes and by the
            functions that use them, never by names of classes or parameters.
        expected: the model agreed upon, or the one accepted in the last round; None skips structure and drift.
        batch: images (N, C, H, W) in [0, 1] and labels (N,) of the client; None skips the checks that need a forward
            pass. D-SNR needs at least two images.
        training: whether the client will train with batch statistics. An image's gradient is then its term in the batch
            gradient.
        loss: the client's training loss, (logits, labels) -> scalar.
        limits: check -> largest accepted value, or a TOML file with a table `limits` of these. Other checks keep their
            default limits.

    Returns:
        The report, with all findings and values.

    Raises:
        ValueError: a limit of an unknown check, or one that is not a number of at least 0.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=8, channels=1, width=70, generator=g)
    >>> gia.validate_model(model).ok
    True
    >>> sent = gia.federated.server.imprint(model, image_shape=(1, 8, 8), bins=20, generator=g)
    >>> sorted({finding.check for finding in gia.validate_model(sent).findings})
    ['ordered_biases', 'similar_rows']
    """
    check_initialized(received)
    loss = loss_of(loss)
    results = _Results(_accepted(limits))
    layers, spreads = list(_layers(received)), dict[int, float]()
    if expected is not None:
        _compare(results, received, expected, batch)
    else:
        results.skipped |= {"structure": "no model was agreed upon", "drift": "no earlier round is known"}
    if batch is not None:
        images, labels = batch
        like = next(received.parameters())
        images, labels = differentiable(images).to(like), differentiable(labels).to(like.device)
        uses, norms = per_example.norms(received, images, labels, loss=loss, training=training)
        known = {parameter.data_ptr(): name for name, parameter in received.named_parameters()}
        names = [
            known.get(use.weight.data_ptr(), f"operation {i}").removesuffix(".weight") for i, use in enumerate(uses)
        ]
        # Weights that the forward pass computes, for example from a buffer, are not parameters but can do the same.
        layers += [
            _Layer(name, use.weight, use.bias)
            for name, use in zip(names, uses, strict=True)
            if use.weight.data_ptr() not in known
        ]
        for use in reversed(uses):  # of several uses of a weight the first one counts
            spreads[use.weight.data_ptr()] = float(use.inputs.std(correction=0))
        if len(images) < 2:
            results.skipped["dsnr"] = "the gradient of a single image is that image's alone"
        else:
            for name, each in zip(names, norms, strict=True):
                results.measured("dsnr", name, per_example.dominance(each))
        if uses and uses[0].weight[0].numel() >= 9:
            results.measured("transmit_snr", names[0], per_example.transmit_snr(uses[0].weight))
    else:
        results.skipped |= dict.fromkeys(("dsnr", "transmit_snr"), "no batch was given")
    _statics(results, layers, spreads, received)
    order = list(SENTENCES)
    findings = sorted(results.findings, key=lambda finding: order.index(finding.check))
    return ValidationReport(tuple(findings), results.skipped, results.values, training)


class LastAccepted:
    """A client's `validate` over several rounds, which compares each model with the last one that was accepted.

    Args:
        agreed: the model agreed upon, with which the first received model is compared; None skips that comparison.
        batch, training, loss, limits: as in `validate_model`.

    Attributes:
        accepted: a copy of the last accepted model, or of `agreed`.

    Raises:
        ValueError: as in `validate_model`.

    >>> import torch, gia
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    >>> validate = gia.federated.LastAccepted(model)
    >>> client = gia.federated.Client(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]), validate=validate)
    >>> _ = client.answer(model)
    >>> print(validate(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))))
    The model is not built as agreed: it has 52 parameters, not 39.
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
        """The report on `received`; if it is ok, a copy of the model is stored for the next round."""
        report = validate_model(received, self.accepted, batch=self._batch, **self._settings)
        if report.ok:
            self.accepted = copy.deepcopy(received)
        return report


def fit_limits(reports: Iterable[ValidationReport]) -> dict[str, float]:
    """Limits from reports on honest models; `limits.toml` was made in this way.

    A limit is twice the value that one report in 300 exceeds, or the largest of fewer; for cosines it is half as far
    from 1. Otherwise a single training that collapsed would set it. Advisory checks get infinity.

    Args:
        reports: of models that you trust, at all stages of their training, on batches of the sizes that clients have.
            Count false alarms on other models.

    Returns:
        check -> limit, for `validate_model`.

    >>> from gia.federated import ValidationReport, fit_limits
    >>> fit_limits([ValidationReport((), values={"drift": 0.25}), ValidationReport((), values={"drift": 0.5})])
    {'drift': 1.0}
    """
    measured: dict[str, list[float]] = {}
    for report in reports:
        for check, value in report.values.items():
            measured.setdefault(check, []).append(value)
    largest = {check: sorted(values, reverse=True)[len(values) // _ONE_IN] for check, values in measured.items()}
    limits = {check: 1 - (1 - value) / 2 if check == "similar_rows" else 2 * value for check, value in largest.items()}
    return limits | dict.fromkeys(ADVISORY & set(limits), math.inf)


@lru_cache(maxsize=1)
def default_limits() -> Mapping[str, float]:
    """check -> limit, fitted on the honest models that `limits.toml` lists.

    >>> from gia.federated.validation import default_limits
    >>> default_limits()["dsnr"]
    inf
    """
    return _read(Path(__file__).with_name("limits.toml"))


def _read(path: str | os.PathLike[str]) -> dict[str, float]:
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content.get("limits"), dict):
        raise ValueError(f"limits: expected a table [limits] in {os.fspath(path)}, got {sorted(content)}")
    return dict(content["limits"])


def _accepted(given: Limits | None) -> dict[str, float]:
    """The default limits, with those of the caller in their places."""
    own = {} if given is None else dict(given) if isinstance(given, Mapping) else _read(given)
    if unknown := sorted(set(own) - set(default_limits())):
        raise ValueError(expected_one_of("limits", unknown[0], sorted(default_limits())))
    if wrong := [
        check
        for check, limit in own.items()
        if isinstance(limit, bool) or not (isinstance(limit, int | float) and limit >= 0)
    ]:
        raise ValueError(f"limits[{wrong[0]!r}]: expected a number of at least 0, got {own[wrong[0]]!r}")
    return {**default_limits(), **own}


class _Results:
    """Collects findings, values and skipped checks."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.findings: list[Finding] = []
        self.skipped: dict[str, str] = {}
        self.values: dict[str, float] = {}
        self._limits = limits

    def measured(self, check: str, layer: str, value: float) -> None:
        self.values[check] = max(value, self.values.get(check, 0.0))
        limit = self._limits[check]
        if not value <= limit:  # not `value > limit`, which is false for NaN
            self.findings.append(Finding(check, layer, value, limit))

    def wrong(self, check: str, layer: str, value: float, limit: float) -> None:
        self.findings.append(Finding(check, layer, value, limit))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A weight with rows, a parameter or a computed one, and the bias of the same layer."""

    name: str
    weight: Tensor
    bias: Tensor | None

    @property
    def rows(self) -> Tensor:
        return self.weight.flatten(1)

    @property
    def depthwise(self) -> bool:
        """Whether each row sees a few pixels of a single channel; such a row cannot select an image."""
        return self.weight.dim() > 2 and self.weight.shape[1] == 1 and self.weight[0].numel() < SHORTEST_IMAGE


def _layers(model: nn.Module) -> Iterator[_Layer]:
    """All parameters with rows."""
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        for weight in own:
            if weight.dim() >= 2 and weight.numel():
                biases = [p for p in own if p.dim() == 1 and len(p) == len(weight)]
                yield _Layer(name or "the model", weight.detach(), biases[0].detach() if biases else None)


def _statics(results: _Results, layers: list[_Layer], spreads: Mapping[int, float], model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        # The sum is not finite if a term is not. It may also overflow, so the entries are then counted.
        if not math.isfinite(float(parameter.sum())) and (wrong := int((~parameter.isfinite()).sum())):
            results.wrong("finite", name, wrong, 0)
    vectors = [(name, p.detach()) for name, p in model.named_parameters() if p.dim() == 1]
    vectors += [(layer.name, layer.bias) for layer in layers if layer.bias is not None and _is_computed(layer)]
    for name, vector in vectors:
        if len(vector) >= 8:
            results.measured("ordered_biases", name, _ordered(vector))
    for layer in layers:
        rows, bias = layer.rows, layer.bias
        if rows.shape[1] >= SHORTEST_IMAGE and len(rows) > 1:
            results.measured("similar_rows", layer.name, _similar(rows))
        if len(rows) > 2 and not layer.depthwise:
            results.measured("zeroed_rows", layer.name, _largest_to_median(rows))
        if bias is not None and bool(bias.any()):
            # Weights for pixels from 0 to 255 are smaller, relative to the bias, than weights for pixels from 0 to 1.
            unit = float(rows.abs().mean()) * max(1.0, spreads.get(layer.weight.data_ptr(), 1.0))
            results.measured("outlier_biases", layer.name, float(bias.abs().max()) / unit if unit else math.inf)


def _is_computed(layer: _Layer) -> bool:
    return layer.name.startswith("operation ")


def _similar(rows: Tensor) -> float:
    """Over rows, the fourth largest |cosine| with the nearest other row; the smallest if there are fewer rows.

    Long rows are compared in 64 random directions, which keep a cosine near 1 near 1 (Johnson and Lindenstrauss, 1984).
    The directions are seeded by the weights, so that nobody can choose weights that suit known directions.
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
    """|rank correlation| r of entries and index as atanh(r) sqrt(k - 3) (Fisher), which is about normal at random."""
    ranks = torch.unique(vector, return_inverse=True)[1].double()  # equal entries have equal ranks
    ranks -= ranks.mean()
    if not bool(ranks.any()):
        return 0.0
    index = torch.arange(len(vector), dtype=torch.float64, device=vector.device) - (len(vector) - 1) / 2
    r = min(abs(float(ranks @ index / (ranks.norm() * index.norm()))), 1 - 1e-12)
    return math.atanh(r) * math.sqrt(len(vector) - 3)


def _largest_to_median(weight: Tensor) -> float:
    """Largest / median norm of rows, after subtracting the mean of all rows but the farthest from the mean.

    A part that all rows of a classifier share changes no probability and no gradient before the classifier.
    """
    centre = weight.mean(0)
    top = weight[int((weight - centre).norm(dim=1).argmax())]
    sizes = (weight - (centre * len(weight) - top) / (len(weight) - 1)).norm(dim=1)
    largest, middle = float(sizes.max()), float(sizes.median())
    return (largest / middle if middle else math.inf) if largest else 0.0


def _compare(results: _Results, received: nn.Module, expected: nn.Module, batch: tuple[Tensor, Tensor] | None) -> None:
    ours, theirs = ([p.numel() for p in model.parameters()] for model in (expected, received))
    if sum(ours) != sum(theirs):
        results.wrong("structure", f"it has {sum(theirs)} parameters, not {sum(ours)}", sum(theirs), sum(ours))
        return
    for kind in ("parameters", "buffers"):
        shapes = [
            [(tuple(t.shape), t.dtype, t.requires_grad) for t in getattr(m, kind)()] for m in (expected, received)
        ]
        if shapes[0] != shapes[1]:
            results.wrong(
                "structure", f"its {kind} have other shapes, dtypes or requires_grad", len(shapes[1]), len(shapes[0])
            )
            return
    if batch is not None:
        image = batch[0][:1].to(next(received.parameters()))
        calls = [per_example.operations(model, image) for model in (expected, received)]
        if calls[0] != calls[1]:
            results.wrong("structure", "its forward pass calls other functions", len(calls[1]), len(calls[0]))
    for (name, new), (_, old) in zip(_owners(received), _owners(expected), strict=True):
        size = math.sqrt(sum(float(p.norm()) ** 2 for p in old))
        moved = math.sqrt(sum(float((p - q.to(p)).norm()) ** 2 for p, q in zip(new, old, strict=True)))
        # For a layer whose weights start at zero: half of what torch's initialization gives as many rows, or less.
        floor = 0.25 * math.sqrt(sum(len(p) for p in old if p.dim() > 1) or sum(p.numel() for p in old))
        results.measured("drift", name, moved / max(size, floor))


def _owners(model: nn.Module) -> list[tuple[str, list[Tensor]]]:
    """Modules that own parameters directly, in order."""
    owners = [(name, [p.detach() for p in m.parameters(recurse=False)]) for name, m in model.named_modules()]
    return [(name, parameters) for name, parameters in owners if parameters]
