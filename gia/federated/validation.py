"""What a client checks before it trains on a model: values that no honest model reached (arXiv 2503.11514, Sec. VI)."""

from __future__ import annotations

import copy
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gia.errors import expected_one_of
from gia.federated import per_example
from gia.federated.losses import Loss, LossName, loss_of
from gia.federated.outputs import check_initialized
from gia.federated.victims import differentiable

__all__ = ["Finding", "LastAccepted", "Limits", "ValidationReport", "default_limits", "fit_limits", "validate_model"]

#: check -> the largest accepted value, or a TOML file with a table of these.
Limits = Mapping[str, float] | str | os.PathLike[str]
#: How many reports set a limit that one of them may exceed; a training sends about three models, so 1 % of trainings.
_ONE_IN = 300
#: Random directions in which long rows are compared.
_DIRECTIONS = 64
#: Up to so many rows are all compared with each other; more are split, three times, into parts of at most as many.
_ALL_PAIRS, _SPLITS = 4096, 3
#: The share of channels of a batch normalization whose statistics may lie anywhere.
_CHANNELS = 0.05

#: check -> limit of a check that no honest training sets: running statistics are not trained, and servers that send
#: others move them towards those of the data.
BY_DESIGN: dict[str, float] = {"statistics": 0.8}

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
    "statistics": "The running statistics of {layer} are not those of the data: a channel in twenty has its threshold "
    "{value:.3g} standard deviations away from what the batch or an earlier model explains (at most {limit:.3g} in "
    "honest models): few images pass it.",
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
        skipped: check -> why it, or a part of it, could not be made; `operators` are functions that were not judged.
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
    | structure | shapes of parameters and buffers, in order; buffers that no training moves; functions and arguments |
    | finite | number of weights or buffer entries that are NaN or infinite |
    | similar_rows | fourth largest |cosine| of a row with its nearest row, for rows of at least 64 weights |
    | ordered_biases | |rank correlation| of biases and index in standard deviations, for at least 8 biases |
    | outlier_biases | max |b| / mean |w| of the layer; with a batch divided by its input's deviation, if above 1 |
    | zeroed_rows | largest / median norm of at least 3 rows, without their common part; not of depthwise kernels |
    | drift | |change| / |before| of a layer since `expected` |
    | statistics | standard deviations by which one threshold in twenty is beyond those of `expected` and of the batch |
    | dsnr | max_i g_i / (sum of the others + 1e-6), g_i the norm of image i's gradient (Garov et al., ICLR 2024) |
    | transmit_snr | max |w| / (sum of the others + 1e-6) of a kernel of the first layer (Garov et al.) |

    `structure` needs a batch for the functions that the forward pass calls and their arguments: layouts, strides, eps,
    slopes. Opposite rows are not similar in a layer of two rows, since trained classifiers of two classes have them;
    layers of one or two rows are also compared with each other. Biases that are nearly equal, such as the log of a
    prior, count by their differences, unless their rows are alike.

    With a batch, weights and biases are judged as the forward pass applies them: in whatever layout, by linear layers,
    convolutions and matrix products, with the elementwise functions and the batch normalization in evaluation mode that
    follow. Without one they are judged as they are stored, and parametrized weights as they are computed. Whatever
    cannot be judged stands in `skipped`: under `operators` the functions that apply a matrix in another way, such as
    attention, and under `statistics` why running statistics were not compared.

    A limit is twice the value that one honest model in 300 exceeds; for cosines it is half as far from 1. These models
    are small; `limits.toml` lists their families, optimizers, weight decays and lengths of training. That of
    `statistics` is set by design: statistics at the 95 % quantile are 1.6 deviations away, honest ones move towards
    those of the data. The claim `detect.false_alarms` counts alarms on each family by limits that the others set: about
    one honest training in a hundred is flagged. Networks that set no limit and pass: cifar10-cnn, with a batch and
    without, efficientnet-lite0, and the trained P-, R- and O-Net of facenet-pytorch without a batch; at random
    initialization InceptionResnetV1, ten families of torchvision, and of timm mixer, resmlp, ghostnet, vit, deit and
    nf_regnet. ImageNet's AlexNet and VGG-16, which have no normalization and biases above 30, would not pass: for such
    models pass limits that `fit_limits` derives. A model without findings may still leak: the claim `detect.evasion`
    has examples.

    D-SNR is advisory: it is measured and noted in the report, and is never a finding unless `limits` sets a limit. No
    limit separates honest models: a batch with one wrong image, of a model that is sure of the others, has any D-SNR.
    Batches of one image have none.

    Args:
        received: maps images to logits; not changed and not trained on. Weights are found by their shapes and by the
            functions that use them, never by names of classes or parameters.
        expected: the model agreed upon, or the one accepted in the last round; None skips structure, drift and
            statistics.
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
        ValueError: a limit of an unknown check, or one that is not a number of at least 0; lazy parameters; with a
            batch a model that does not return logits (N, classes).

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=8, channels=1, width=70, generator=g)
    >>> gia.validate_model(model).ok
    True
    >>> sent = gia.federated.server.imprint(model, image_shape=(1, 8, 8), bins=20, generator=g)
    >>> sorted({finding.check for finding in gia.validate_model(sent).findings})
    ['ordered_biases', 'similar_rows']
    """
    for model in (received, expected):
        if model is not None:
            check_initialized(model)
    loss = loss_of(loss)
    results = _Results(complete_limits(limits))
    record: per_example.Recorder | None = None
    if expected is None:
        results.skipped |= {"structure": "no model was agreed upon", "drift": "no earlier round is known"}
    # A parametrized weight is computed once, so that it is known again where it is applied.
    with per_example.in_mode(received, False), parametrize.cached():
        layers = list(_stored(received))
        if batch is not None:
            images, labels = batch
            like = next(received.parameters())
            images, labels = differentiable(images).to(like), differentiable(labels).to(like.device)
            record, norms = per_example.norms(received, images, labels, loss=loss, training=training)
            layers = _applied(layers, record.uses)
            _in_batch(results, layers, record, norms, images, training=training)
        else:
            results.skipped |= dict.fromkeys(("dsnr", "transmit_snr", "operators"), "no batch was given")
    if expected is not None:
        _compare(results, received, expected, batch, record, training=training)
    _statistics(results, received, expected, record, training=training)
    _statics(results, layers, received)
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
        self._settings: dict[str, Any] = {"training": training, "loss": loss, "limits": complete_limits(limits)}

    def __call__(self, received: nn.Module) -> ValidationReport:
        """The report on `received`; if it is ok, a copy of the model is stored for the next round."""
        report = validate_model(received, self.accepted, batch=self._batch, **self._settings)
        if report.ok:
            self.accepted = copy.deepcopy(received)
        return report


def fit_limits(reports: Iterable[ValidationReport]) -> dict[str, float]:
    """Limits from reports on honest models; `limits.toml` was made in this way.

    A limit is twice the value that one report in 300 exceeds, or the largest of fewer; for cosines it is half as far
    from 1. Otherwise a single training that collapsed would set it. Advisory checks get infinity, and `statistics` its
    limit by design.

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
    limits |= {check: limit for check, limit in BY_DESIGN.items() if check in limits}
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


def complete_limits(given: Limits | None) -> dict[str, float]:
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
    """A weight with rows, and what its layer adds to it.

    Attributes:
        name: of the module that owns the weight, or the number of the operation that applies it.
        weight, bias: as they are applied, or as they are stored if nothing is known of how they are applied.
        linear: whether the weight is known to be that of a linear layer or convolution.
        use: the application, in a forward pass on the batch.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    linear: bool
    use: per_example.Use | None = None

    @property
    def rows(self) -> Tensor:
        return self.weight.flatten(1)

    @property
    def scaled_rows(self) -> Tensor:
        """Rows as what follows, such as a batch normalization, scales them."""
        return self.rows if self.use is None or self.use.scale is None else self.rows * self.use.scale[:, None]

    @property
    def selects(self) -> bool:
        """Whether rows can select an image: not if each sees a few pixels of a single channel, or is one factor."""
        short = self.weight[0].numel() < per_example.SHORTEST_IMAGE
        return not (self.rows.shape[1] == 1 or (self.weight.dim() > 2 and self.weight.shape[1] == 1 and short))

    @property
    def spread(self) -> float:
        """The deviation of the layer's input, 1 where it is unknown."""
        return 1.0 if self.use is None else float(self.use.inputs.std(correction=0))


def _stored(model: nn.Module) -> Iterator[_Layer]:
    """All parameters with rows; in place of the parts of a parametrization, the weight that they make."""
    parts = {
        id(part)
        for module in model.modules()
        if isinstance(made := getattr(module, "parametrizations", None), nn.ModuleDict)
        and parametrize.is_parametrized(module)
        for part in made.modules()
    }
    for name, module in model.named_modules():
        if id(module) in parts:
            continue
        made, hidden = _made(module)
        own = made + [p.detach() for key, p in module.named_parameters(recurse=False) if key not in hidden]
        linear = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        for weight in own:
            if weight.dim() >= 2 and weight.numel():
                biases = [p for p in own if p.dim() == 1 and len(p) == len(weight)]
                yield _Layer(name or "the model", weight, biases[0] if biases else None, linear)


def _made(module: nn.Module) -> tuple[list[Tensor], set[str]]:
    """Tensors that a module computes from its parameters, and the names of these parameters."""
    made: list[Tensor] = []
    hidden: set[str] = set()
    if parametrize.is_parametrized(module):
        made += [getattr(module, str(key)).detach() for key in module.parametrizations]  # type: ignore[union-attr]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            made.append(hook.compute_weight(module).detach())
            hidden |= {f"{hook.name}_g", f"{hook.name}_v"}
        elif isinstance(hook, SpectralNorm):
            made.append(hook.compute_weight(module, do_power_iteration=False).detach())
            hidden.add(f"{hook.name}_orig")
    return made, hidden


def _applied(stored: list[_Layer], uses: list[per_example.Use]) -> list[_Layer]:
    """Every weight as the forward pass applies it, and as they are stored those that it does not apply."""
    names = {(layer.weight.data_ptr(), layer.weight.numel()): layer.name for layer in stored}
    layers: list[_Layer] = []
    first: dict[tuple[Any, ...], int] = {}
    for i, use in enumerate(uses):
        place = use.weight.data_ptr(), use.weight.numel()
        how = (*place, use.weight.shape, use.weight.stride(), None if use.bias is None else use.bias.data_ptr())
        known = first.setdefault(how, i)
        if known == i or use.scale is not None:  # of several uses in one way the first one counts
            layers.append(_Layer(names.get(place, f"operation {i}"), use.weight, use.bias, True, use))
    used = {(use.weight.data_ptr(), use.weight.numel()) for use in uses}
    return layers + [layer for layer in stored if (layer.weight.data_ptr(), layer.weight.numel()) not in used]


def _in_batch(
    results: _Results,
    layers: list[_Layer],
    record: per_example.Recorder,
    norms: list[Tensor],
    images: Tensor,
    *,
    training: bool,
) -> None:
    """The checks of one forward and backward pass."""
    uses = record.uses
    names = {id(layer.use): layer.name for layer in layers}
    places = {(layer.weight.data_ptr(), layer.weight.numel()): layer.name for layer in reversed(layers) if layer.use}
    named = [names.get(id(use)) or places[use.weight.data_ptr(), use.weight.numel()] for use in uses]
    if len(images) < 2:
        results.skipped["dsnr"] = "the gradient of a single image is that image's alone"
    else:
        for name, each in zip(named, norms, strict=True):
            results.measured("dsnr", name, per_example.dominance(each))
    if uses and uses[0].weight[0].numel() >= 9:
        results.measured("transmit_snr", named[0], per_example.transmit_snr(uses[0].weight))
    elif not uses:
        results.skipped["transmit_snr"] = "no linear layer or convolution was seen"
    if record.opaque:
        results.skipped["operators"] = f"not judged as they are applied: matrices in {', '.join(record.opaque)}"


def _statistics(
    results: _Results,
    received: nn.Module,
    expected: nn.Module | None,
    record: per_example.Recorder | None,
    *,
    training: bool,
) -> None:
    """Where running statistics put the thresholds of channels, against the batch and the agreed model."""
    kept = any(isinstance(module, _NormBase) and module.running_mean is not None for module in received.modules())
    if (record is not None and not record.normalizations) or (record is None and (training or not kept)):
        return
    shapes = [[b.shape for b in model.buffers()] for model in (received, expected) if model is not None]
    if expected is None or shapes[0] != shapes[1]:
        results.skipped["statistics"] = "no model was agreed upon" if expected is None else "the agreed one has others"
        return
    pairs = list(zip(received.buffers(), expected.buffers(), strict=True))
    if all(torch.equal(new, old.to(new)) for new, old in pairs):
        results.measured("statistics", "the model", 0.0)
        return
    if record is None or any(len(normalization.inputs) < 2 for normalization in record.normalizations):
        results.skipped["statistics"] = "no batch was given" if record is None else "a single image has no spread"
        return
    before = {new.data_ptr(): old for new, old in pairs}
    names = {buffer.data_ptr(): key.rpartition(".")[0] for key, buffer in received.named_buffers()}
    for i, normalization in enumerate(record.normalizations):
        used = normalization.mean, normalization.variance
        # Statistics that are no buffer are compared with those that a normalization starts from.
        old = [before.get(t.data_ptr(), torch.full_like(t, start)).to(t) for start, t in enumerate(used)]
        name = names.get(used[0].data_ptr(), f"normalization {i}")
        results.measured("statistics", name, _away(normalization, old[0], old[1]))


def _away(normalization: per_example.Normalization, old_mean: Tensor, old_variance: Tensor) -> float:
    """The distance of thresholds that one channel in twenty exceeds, in deviations of what is normalized.

    A channel is cut off at g mean - b sqrt(variance), up to its factor. It is compared with the smallest and largest
    value between the agreed statistics and those of the batch, and two standard errors of the batch are taken off.
    Channels that are constant over the batch are left out.
    """
    n, g, b = normalization, normalization.weight, normalization.bias
    g = torch.ones_like(n.mean) if g is None else g
    b = torch.zeros_like(n.mean) if b is None else b
    images = (
        n.inputs.movedim(1, -1).flatten(1, -2) if n.inputs.dim() > 2 else n.inputs[:, None]
    )  # (N, places, channels)
    each = images.mean(1)
    variance, mean = torch.var_mean(images.flatten(0, 1), 0, correction=0)
    size = variance.sqrt()
    error = each.std(0) / math.sqrt(len(each))
    corners = torch.stack([g * m - b * (v + n.eps).sqrt() for m in (old_mean, mean) for v in (old_variance, variance)])
    at = g * n.mean - b * (n.variance + n.eps).sqrt()
    beyond = torch.maximum(corners.amin(0) - at, at - corners.amax(0)) - 2 * g.abs() * error
    away = torch.where(beyond > 0, beyond / (g.abs() * size), 0.0)
    away = away[g * size != 0]
    if not len(away):
        return 0.0
    return float(away.kthvalue(max(1, math.ceil((1 - _CHANNELS) * len(away)))).values)


def _statics(results: _Results, layers: list[_Layer], model: nn.Module) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        # The sum is not finite if a term is not. It may also overflow, so the entries are then counted.
        finite = not tensor.is_floating_point() or math.isfinite(float(tensor.sum()))
        if not finite and (wrong := int((~tensor.isfinite()).sum())):
            results.wrong("finite", name, wrong, 0)
    vectors = [(name, p.detach()) for name, p in model.named_parameters() if p.dim() == 1]
    known = {vector.data_ptr() for _, vector in vectors}
    for layer in layers:
        if layer.bias is not None and layer.bias.data_ptr() not in known and layer.bias.dim() == 1:
            vectors.append((layer.name, layer.bias))
        if layer.use is not None and layer.use.scale is not None and layer.use.shift is not None:
            start = 0 if layer.bias is None else layer.bias
            cuts = start + layer.use.shift / layer.use.scale
            vectors.append((layer.name, cuts[cuts.isfinite()]))
    for name, vector in vectors:
        if len(vector) >= 8:
            results.measured("ordered_biases", name, _ordered(vector))
    for layer in layers:
        rows = layer.rows
        if rows.shape[1] >= per_example.SHORTEST_IMAGE and len(rows) > 1:
            results.measured("similar_rows", layer.name, _similar(rows))
        if len(rows) > 2 and layer.selects:
            results.measured("zeroed_rows", layer.name, _largest_to_median(layer.scaled_rows))
        if (value := _outlier(layer)) is not None:
            results.measured("outlier_biases", layer.name, value)
    for name, rows in _few_rows(layers):
        results.measured("similar_rows", name, _similar(rows))


def _few_rows(layers: list[_Layer]) -> Iterator[tuple[str, Tensor]]:
    """The rows of layers with one row, and the differences in those with two, together: three or more of one length.

    Otherwise rows that are alike could be spread over as many layers.
    """
    few: dict[int, list[_Layer]] = {}
    for layer in layers:
        if layer.linear and len(layer.rows) <= 2 and layer.rows.shape[1] >= per_example.SHORTEST_IMAGE:
            few.setdefault(layer.rows.shape[1], []).append(layer)
    for alike in few.values():
        if len(alike) > 2:
            rows = [layer.rows[0] - layer.rows[1] if len(layer.rows) == 2 else layer.rows[0] for layer in alike]
            yield f"{alike[0].name} and {len(alike) - 1} layers of its kind", torch.stack(rows)


def _outlier(layer: _Layer) -> float | None:
    """The largest bias per mean weight and unit of input, or None without biases."""
    rows, bias, use = layer.scaled_rows, layer.bias, layer.use
    # Weights for pixels from 0 to 255 are smaller, relative to the bias, than weights for pixels from 0 to 1.
    unit = float(rows.abs().mean()) * max(1.0, layer.spread)
    if use is None or use.scale is None or use.shift is None:
        if bias is None or not bool(bias.any()):
            return None
        size = float(bias.abs().max())
        away = float((bias - bias.median()).abs().max())
        # A classifier may start with the log of a prior in all its biases. Rows that are alike read one measure, which
        # a common bias cuts off, so that they are judged by the bias itself.
        size = away if away < size / 4 and not _alike(layer.rows) else size
        return size / unit if unit else math.inf if size else 0.0
    # As a normalization applies it: from zero, or from the mean of the batch, whichever is less.
    deviation, mean = torch.std_mean(use.signals, 0, correction=0)
    start = torch.zeros_like(mean) if bias is None else bias
    offset = torch.minimum(*((use.scale * at + use.shift).abs() for at in (start, mean)))
    unit = max(unit, use.unit, float((use.scale.abs() * deviation).median()))
    size = float(offset.max())
    return size / unit if unit else math.inf if size else 0.0


def _alike(rows: Tensor) -> bool:
    """Whether at least three rows have more than half of their size in common."""
    return len(rows) > 2 and bool(2 * rows.mean(0).norm() > rows.norm(dim=1).mean())


def _similar(rows: Tensor) -> float:
    """Over rows, the fourth largest |cosine| with the nearest other row; the smallest if there are fewer rows.

    Two rows are similar if they point the same way; opposite ones are what every trained classifier of two classes has.
    Long rows are compared in 64 random directions, which keep a cosine near 1 near 1 (Johnson and Lindenstrauss, 1984).
    The directions are seeded by the weights, so that nobody can choose weights that suit known directions. Many rows
    are compared within the parts of random projection trees (Dasgupta and Freund, 2008), at a cost linear in the rows.
    """
    g = torch.Generator().manual_seed(hash(float(rows.sum())) % 2**63)
    if rows.shape[1] > 4 * _DIRECTIONS:
        rows = rows @ torch.randn(rows.shape[1], _DIRECTIONS, generator=g).to(rows)
    sizes = rows.norm(dim=1, keepdim=True)
    rows = (rows / sizes.clamp_min(torch.finfo(rows.dtype).tiny))[sizes[:, 0] > 0]
    if len(rows) < 2:
        return 0.0
    if len(rows) <= _ALL_PAIRS:
        nearest = _nearest(rows)
    else:
        nearest = rows.new_zeros(len(rows))
        for _ in range(_SPLITS):
            for part in _parts(rows, torch.arange(len(rows), device=rows.device), g):
                nearest[part] = torch.maximum(nearest[part], _nearest(rows[part]))
    return float(nearest.topk(min(4, len(rows))).values[-1])


def _nearest(rows: Tensor) -> Tensor:
    """For each of these rows of norm 1, the |cosine| with the nearest other one."""
    nearest = []
    for first in range(0, len(rows), 1024):  # all pairs at once may not fit into memory
        cosines = rows[first : first + 1024] @ rows.mT
        cosines = cosines.abs() if len(rows) > 2 else cosines.clamp_min(0)
        cosines.diagonal(first).zero_()
        nearest.append(cosines.amax(1))
    return torch.cat(nearest)


def _parts(rows: Tensor, chosen: Tensor, g: torch.Generator) -> Iterator[Tensor]:
    """Halve by the median of a random projection until parts are small; a row and its negative stay together."""
    if len(chosen) <= _ALL_PAIRS:
        yield chosen
        return
    side, along = (rows[chosen] @ torch.randn(rows.shape[1], 2, generator=g).to(rows)).unbind(1)
    order = chosen[(along * side.sign()).argsort()]
    for half in order.chunk(2):
        yield from _parts(rows, half, g)


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


def _compare(
    results: _Results,
    received: nn.Module,
    expected: nn.Module,
    batch: tuple[Tensor, Tensor] | None,
    record: per_example.Recorder | None,
    *,
    training: bool,
) -> None:
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
        images = batch[0][:2].to(next(received.parameters()))  # two, for a batch normalization in training mode
        calls = [per_example.operations(model, images, training=training) for model in (expected, received)]
        if calls[0] != calls[1]:
            pairs = zip_longest(*calls, fillvalue="nothing")
            line = next(f"{new}, not {old}" for old, new in pairs if new != old)
            results.wrong("structure", f"its forward pass calls {line}", len(calls[1]), len(calls[0]))
    _compare_buffers(results, received, expected, record, training=training)
    for (name, new), (_, old) in zip(_owners(received), _owners(expected), strict=True):
        size = math.sqrt(sum(float(p.norm()) ** 2 for p in old))
        moved = math.sqrt(sum(float((p - q.to(p)).norm()) ** 2 for p, q in zip(new, old, strict=True)))
        # For a layer whose weights start at zero: half of what torch's initialization gives as many rows, or less.
        floor = 0.25 * math.sqrt(sum(len(p) for p in old if p.dim() > 1) or sum(p.numel() for p in old))
        results.measured("drift", name, moved / max(size, floor))


def _compare_buffers(
    results: _Results,
    received: nn.Module,
    expected: nn.Module,
    record: per_example.Recorder | None,
    *,
    training: bool,
) -> None:
    """Buffers do not change in training, but for running statistics and what spectral norms iterate.

    Running statistics that the forward pass applies are judged by `_statistics`, the weights of a spectral norm as they
    are applied.
    """
    judged = {t.data_ptr() for n in (record.normalizations if record else []) for t in (n.mean, n.variance)}
    free = {
        id(buffer)
        for module in received.modules()
        for key, buffer in module.named_buffers(recurse=False)
        if isinstance(module, _NormBase | _SpectralNorm)
        or any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
        if key == "num_batches_tracked" or not isinstance(module, _NormBase) or record is None or training
    }
    for (name, new), (_, old) in zip(received.named_buffers(), expected.named_buffers(), strict=True):
        if not torch.equal(new, old.to(new)) and new.data_ptr() not in judged and id(new) not in free:
            results.wrong("structure", f"its buffer {name} holds other values", 1, 0)


def _owners(model: nn.Module) -> list[tuple[str, list[Tensor]]]:
    """Modules that own parameters directly, in order."""
    owners = [(name, [p.detach() for p in m.parameters(recurse=False)]) for name, m in model.named_modules()]
    return [(name, parameters) for name, parameters in owners if parameters]
