"""`validate_model`, which makes all checks of a received model, and `LastAccepted`, which makes them in each round."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from gia.federated import per_example
from gia.federated.losses import Loss, LossName, loss_of
from gia.federated.outputs import check_initialized
from gia.federated.private_batch import checked_batch
from gia.federated.recorder import Recorder
from gia.federated.validation.agreement import check_agreement
from gia.federated.validation.layers import Layer, applied_layers, stored_layers
from gia.federated.validation.limits import Limits, complete_limits
from gia.federated.validation.report import SENTENCES, Results, ValidationReport
from gia.federated.validation.statistics import check_statistics
from gia.federated.validation.weights import check_weights
from gia.federated.victims import differentiable, differentiable_model, in_mode

#: Images and labels.
Batch = tuple[Tensor | np.ndarray, Tensor | np.ndarray]


@torch.inference_mode(False)
@torch.no_grad()
def validate_model(
    received: nn.Module,
    expected: nn.Module | None = None,
    *,
    batch: Batch | None = None,
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
    slopes, tensors that are neither parameters nor buffers. Opposite rows are not similar in a layer of two rows, since
    trained classifiers of two classes have them; layers of one or two rows are also compared with each other. Biases
    that are nearly equal, such as the log of a nearly uniform prior, count by their differences, unless their rows are
    alike. The log of a skewed prior is an outlier in a wide network, as it is in class fishing: where the classifier
    starts with probabilities of .95 and .05, a gradient over eight images has a cosine of .98 with that of the only one
    of the rare class. A client that agreed upon such a start can pass its own limit of `outlier_biases`.

    With a batch, weights and biases are judged as the forward pass applies them: in whatever layout, by linear layers,
    convolutions and matrix products, with the elementwise functions and the batch normalization in evaluation mode that
    follow. Without one they are judged as they are stored, and parametrized weights as they are computed. Running
    statistics are compared with those that the batch has in evaluation mode, and with those that training on it notes,
    in the received model and in `expected`. Whatever cannot be judged stands in `skipped`: under `operators` the
    functions that apply a matrix or one of its rows in another way, such as attention, or join a matrix to data, as
    ViTs join registers to patches, and under `statistics` why running statistics were not compared.

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
        batch: images (N, C, H, W) in [0, 1] and labels of the client, tensors or NumPy arrays as in `share_gradient`;
            None skips the checks that need a forward pass. D-SNR needs at least two images.
        training: whether the client will train with batch statistics. An image's gradient is then its term in the batch
            gradient.
        loss: the client's training loss, (logits, labels) -> scalar.
        limits: check -> largest accepted value, or a TOML file with a table `limits` of these. Other checks keep their
            default limits.

    Returns:
        The report, with all findings and values.

    Raises:
        ValueError: a limit of an unknown check, or one that is not a number of at least 0; lazy parameters; a batch
            that `share_gradient` would not take; a model that is or holds a ScriptModule, whose functions cannot be
            seen; with a batch a model that has no parameters, does not run on it, does not return logits (N, classes),
            or has no gradient: no client can train on these.
        TypeError: a batch of other things than tensors and arrays.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=8, channels=1, width=70, generator=g)
    >>> gia.validate_model(model).ok
    True
    >>> sent = gia.federated.server.imprint(model, image_shape=(1, 8, 8), bins=20, generator=g)
    >>> sorted({finding.check for finding in gia.validate_model(sent).findings})
    ['ordered_biases', 'similar_rows']
    """
    received, expected = _checked(received), None if expected is None else _checked(expected)
    loss = loss_of(loss)
    if batch is not None:
        batch = checked_batch(*batch, loss)
        if next(received.parameters(), None) is None:
            raise ValueError("model: expected parameters, which a client trains, got none")
    results = Results(complete_limits(limits))
    record: Recorder | None = None
    if expected is None:
        results.skipped |= {"structure": "no model was agreed upon", "drift": "no earlier round is known"}
    # A parametrized weight is computed once, so that it is known again where it is applied.
    with in_mode(received, False), parametrize.cached():
        layers = list(stored_layers(received))
        if batch is not None:
            images, labels = batch
            like = next(received.parameters())
            images, labels = differentiable(images).to(like), differentiable(labels).to(like.device)
            record, norms = per_example.norms(received, images, labels, loss=loss, training=training)
            layers = applied_layers(layers, record.uses)
            _check_gradients(results, layers, record, norms, images)
        else:
            results.skipped |= dict.fromkeys(("dsnr", "transmit_snr", "operators"), "no batch was given")
            results.skipped.setdefault("structure", "no batch was given to compare functions and constants")
    if expected is not None:
        check_agreement(results, received, expected, batch, record, training=training)
    check_statistics(results, received, expected, record, training=training)
    check_weights(results, layers, received)
    order = list(SENTENCES)
    findings = sorted(results.findings, key=lambda finding: order.index(finding.check))
    return ValidationReport(tuple(findings), results.skipped, results.values, training)


def _checked(model: nn.Module) -> nn.Module:
    """The model, or a copy that autograd can use, if its parameters have values and its functions can be seen."""
    check_initialized(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"model: expected modules of Python, whose functions can be seen, got the script {name!r}")
    return differentiable_model(model)


def _check_gradients(
    results: Results,
    layers: list[Layer],
    record: Recorder,
    norms: list[Tensor],
    images: Tensor,
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


class LastAccepted:
    """A client's `validate` over several rounds, which compares each model with the last one that was accepted.

    Args:
        agreed: the model agreed upon, with which the first received model is compared; None skips that comparison.
        batch, training, loss, limits: as in `validate_model`.

    Attributes:
        accepted: a copy of the last accepted model, or of `agreed`.

    Raises:
        ValueError, TypeError: as in `validate_model`.

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
        batch: Batch | None = None,
        training: bool = False,
        loss: Loss | LossName = cross_entropy,
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
