"""Labels restored from the gradient of the last linear layer, for the attacks that take them as known.

With mean cross-entropy, probabilities p_i and features o_i of image i, that layer's gradients are, for class c,

    gb_c = mean_i (p_ic - [y_i = c])        gW_c = mean_i (p_ic - [y_i = c]) o_i

so gb_c is below zero only for a class that some image has. With features >= 0 the same holds for entries of gW_c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gia.attacks.logits import logits_of
from gia.attacks.reconstruction import NothingFound
from gia.errors import expected_one_of
from gia.federated import LocalTraining, Observation
from gia.federated.layers import classifier
from gia.federated.victims import victim_of

Rule = Literal["sign", "row_minimum", "counts"]


@torch.inference_mode(False)
@torch.no_grad()
def restore(model: nn.Module, observation: Observation, *, rule: Rule) -> Observation:
    """A copy of the observation with restored, sorted labels. Labels that it had are not read but replaced.

    | rule | published by | correct if |
    |---|---|---|
    | sign | Zhao et al., 2020 (iDLG, arXiv 2001.02610) | there is one image |
    | row_minimum | Yin et al., 2021 (GradInversion, arXiv 2104.07586) | labels are distinct, features >= 0, and each |
    | | | image i has a feature m with o_im > sum_j p_jc o_jm for its class c |
    | counts | Wainakh et al., 2022 (LLG*, arXiv 2105.09369) | each count is estimated to within less than 1/2 |

    *sign* takes the class whose entry in gb is negative or, where p rounds to 1, the only zero. *row_minimum* takes the
    B classes with the smallest entries min_m gW_cm; it cannot check that labels are distinct. *counts* is for repeated
    labels: a class whose entry in gb is negative gets one label; each other label goes to the class with most images
    missing. Class c has B (p_c - gb_c) images, where p_c is its mean probability, estimated from 17 gray images between
    black and white in place of the private ones. The rule therefore suits untrained nets, whose answers are almost the
    same for all images.

    Where the bias is not shared, row sums of gW replace gb in *sign* and *counts* (features >= 0, not all 0), and
    *counts* divides them by the gray images' mean sum of features.

    On untrained ConvNets *counts* restores all labels, repeated or not; *row_minimum* restores all labels if they are
    distinct. On trained nets *row_minimum* stays reliable for distinct labels, and *counts* restores 50 to 95 %,
    fewer for larger batches.
    *sign* is correct for single images, also of trained nets (`tests/unit/attacks/test_labels.py`).

    *sign* and *row_minimum* also accept a federated-averaging update at any scale; the conditions above then concern
    the probabilities and features during local training (plain SGD or momentum). *counts* divides an update by the sum
    of its steps according to `local`, which is exact for one full-batch step. Without `local` an update counts as a
    gradient, which gives wrong counts unless lr is 1.

    Args:
        model: the victim as sent. Its last linear layer is the `nn.Linear` whose output is the logits, with any name;
            batch normalization runs in the observation's mode.
        observation: of a client that trained with (mean) cross-entropy.
        rule: one of the above.

    Returns the copy. Departs from LLG* in computing impact and offset from the model's answer in closed form (as in
    Geng et al., 2021, arXiv 2110.09074), and in using images of constant brightness in place of zeros, ones and noise,
    so nothing is drawn.

    Raises ValueError where no linear layer outputs the logits or shares what a rule needs, where its gradient is zero,
    B is not 1 (sign) or exceeds the number of classes (row_minimum), a condition on the features fails on the gray
    images, or too many classes (for sign, also none) have a negative entry, as after a defense.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images, labels = torch.rand(3, 3, 4, 4, generator=seed), torch.tensor([4, 1, 4])
    >>> observation = gia.share_gradient(model, images, labels)
    >>> gia.attacks.labels.restore(model, observation, rule="counts").labels.tolist()
    [1, 4, 4]
    """
    if rule not in _RULES:
        raise ValueError(expected_one_of("rule", rule, _RULES))
    if not isinstance(observation, Observation):
        raise TypeError(f"observation: expected a gia.Observation, got {type(observation).__name__}")
    observation.check(model)
    labels = _RULES[rule](_classifier(model, observation))
    return replace(observation, labels=labels)


@dataclass(frozen=True)
class _Classifier:
    """The last linear layer: its observed gradients, and its inputs and outputs for the gray images.

    Attributes:
        weight, bias: gradients (K, D) and (K,), None if not shared.
        features, probabilities: (17, D) and (17, K).
        batch_size: number of private images.
        local: their local training, None if not known.
    """

    name: str
    weight: Tensor | None
    bias: Tensor | None
    features: Tensor
    probabilities: Tensor
    batch_size: int
    local: LocalTraining | None

    def rows(self) -> Tensor:
        """gW (K, D), after a check that the features are >= 0."""
        if self.weight is None:
            raise ValueError(
                f"gradients: expected '{self.name}.weight', which the rule needs, got a gradient without it"
            )
        if bool((self.features < 0).any()) or not bool(self.features.any()):
            low, high = self.features.aminmax()
            raise ValueError(
                f"model: expected inputs of {self.name!r} >= 0 and not all 0, to read labels from its weight, got "
                f"{float(low):.3g} to {float(high):.3g} for gray images"
            )
        return self._evidence("weight", self.weight)

    def signal(self) -> tuple[Tensor, float]:
        """gb (K,) and 1, or the row sums of gW and the sum of features, by which they are larger than gb."""
        if self.bias is not None:
            return self._evidence("bias", self.bias), 1.0
        return self.rows().sum(1), float(self.features.sum(1).mean())

    def _evidence(self, part: str, gradient: Tensor) -> Tensor:
        if not bool(gradient.any()):
            raise NothingFound(f"gradients: expected an entry other than 0 in '{self.name}.{part}', got zeros")
        return gradient

    def negative(self, values: Tensor) -> Tensor:
        """The classes below zero. Without a defense there are at most as many as images."""
        classes = (values < 0).nonzero().flatten()
        if len(classes) > self.batch_size:
            raise ValueError(
                f"gradients: expected at most {self.batch_size} classes of {self.name!r} with a negative entry, one "
                f"per image, got {len(classes)}; was the gradient defended?"
            )
        return classes


def _sign(layer: _Classifier) -> Tensor:
    if layer.batch_size != 1:
        raise ValueError(f"batch_size: expected 1 for the sign rule, got {layer.batch_size}")
    signal, _ = layer.signal()
    classes = layer.negative(signal)
    if not len(classes):
        classes = (signal == 0).nonzero().flatten()  # p - 1, rounded
    if len(classes) != 1:
        raise ValueError(
            f"gradients: expected one class of {layer.name!r} with a negative entry or, after rounding, with a zero, "
            f"got no negative entry and {len(classes)} zeros"
        )
    return classes


def _row_minimum(layer: _Classifier) -> Tensor:
    smallest = layer.rows().amin(1)
    if layer.batch_size > len(smallest):
        raise ValueError(
            f"batch_size: expected at most {len(smallest)}, the number of distinct labels, got {layer.batch_size}"
        )
    layer.negative(smallest)
    return smallest.argsort(stable=True)[: layer.batch_size]


def _counts(layer: _Classifier) -> Tensor:
    gradient, size = layer.signal()
    labels = layer.negative(gradient).tolist()
    missing = layer.batch_size * (
        layer.probabilities.mean(0) - gradient / (size * _scale(layer.local, layer.batch_size))
    )
    missing[labels] -= 1
    while len(labels) < layer.batch_size:
        labels.append(int(missing.argmax()))  # computed each time: one argmax for all would repeat a class
        missing[labels[-1]] -= 1
    return torch.tensor(labels, device=gradient.device)


def _scale(local: LocalTraining | None, batch_size: int) -> float:
    """The factor between an update and a gradient, valid while the weights hardly change."""
    if local is None:
        return 1.0
    velocity = total = 0.0
    for _ in range(local.epochs * -(-batch_size // local.batch_size)):
        velocity = local.momentum * velocity + 1
        total += velocity
    return local.lr * total


_RULES: Mapping[Rule, Callable[[_Classifier], Tensor]] = {
    "sign": _sign,
    "row_minimum": _row_minimum,
    "counts": _counts,
}


def _classifier(model: nn.Module, observation: Observation) -> _Classifier:
    """The classifier's observed gradients and its answer to gray images."""
    victim = victim_of(model, observation.training)
    like = next(iter(observation.gradients.values()))
    gray = torch.linspace(0, 1, 17, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)
    images = gray.expand(-1, *observation.image_shape).contiguous()
    logits_of(victim, images)  # raises a clear error where the model does not take these images
    name = classifier(victim, images, bias=False)
    features: list[Tensor] = []
    hook = victim.get_submodule(name).register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    logits = logits_of(victim, images)
    hook.remove()
    return _Classifier(
        name=name,
        weight=observation.gradients.get(f"{name}.weight"),
        bias=observation.gradients.get(f"{name}.bias"),
        features=features[0],
        probabilities=logits.softmax(1),
        batch_size=observation.batch_size,
        local=observation.local,
    )
