"""Labels restored from the gradient of the last linear layer, for the attacks that take them as known.

With mean cross-entropy, probabilities p_i and features o_i of image i, that layer's gradients are, for class c,

    gb_c = mean_i (p_ic - [y_i = c])        gW_c = mean_i (p_ic - [y_i = c]) o_i

so only a class that some image has can pull gb_c, or with features >= 0 an entry of gW_c, below zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gia.attacks.logits import logits_of
from gia.federated import LocalTraining, Observation, set_mode
from gia.federated.layers import classifier

Rule = Literal["sign", "row_minimum", "counts"]


@torch.no_grad()
def restore(model: nn.Module, observation: Observation, *, rule: Rule) -> Observation:
    """A copy of the observation that has labels, sorted; labels that it had are not read but replaced.

    | rule | published by | right if |
    |---|---|---|
    | sign | Zhao et al., 2020 (iDLG, arXiv 2001.02610) | there is one image |
    | row_minimum | Yin et al., 2021 (GradInversion, arXiv 2104.07586) | labels are distinct, features >= 0, and each |
    | | | image i has a feature m with o_im > sum_j p_jc o_jm for its class c |
    | counts | Wainakh et al., 2022 (LLG*, arXiv 2105.09369) | each count is estimated to within less than 1/2 |

    *sign*: the class whose entry in gb is negative or, where p rounds to 1, alone zero. *row_minimum*: the B classes
    with the smallest entries min_m gW_cm; whether labels are distinct cannot be told from outside. *counts*, for
    repeated labels: a class whose entry in gb is negative gets one label; the others go, one by one, to the class of
    which most is missing. Of class c there are B (p_c - gb_c) images; p_c is its mean probability, taken from 17 gray
    images between black and white in place of the private ones. So it is for untrained nets, which answer to all
    images alike.

    Where the bias is not shared, row sums of gW stand in for gb in *sign* and *counts* (features >= 0, not all 0), and
    *counts* divides them by the gray images' mean sum of features.

    Restored labels in % of 20 batches for each B = 2 / 4 / 8 / 16, of CIFAR-10 and CIFAR-100 test images 0-19 and ORL
    faces at 32 px, labels distinct or as they fall (of CIFAR-10, B = 8 always repeats some). Untrained: ConvNet, ReLU,
    width 32; trained faces: ConvNet of width 16, 30 epochs of Adam, 99 % right on the held-out faces that are shared.

    | victim | row_minimum, distinct | row_minimum, any | counts, distinct | counts, any |
    |---|---|---|---|---|
    | untrained, CIFAR-10 | 100 / 100 / 100 | 98 / 90 / 76 / 49 | 100 / 100 / 100 | 100 / 100 / 100 / 100 |
    | untrained, CIFAR-100 | 100 / 100 / 100 / 100 | 100 / 100 / 94 / 93 | all 100 | all 100 |
    | untrained, faces | 100 / 100 / 100 / 100 | 100 / 100 / 96 / 86 | all 100 | all 100 |
    | cifar10-cnn, eval | 98 / 98 / 98 | 95 / 88 / 74 / 49 | 85 / 78 / 66 | 82 / 75 / 59 / 50 |
    | cifar10-cnn, train | 100 / 100 / 100 | 98 / 90 / 76 / 49 | 100 / 98 / 84 | 100 / 95 / 82 / 78 |
    | trained faces | 100 / 100 / 100 / 100 | 95 / 96 / 96 / 91 | 95 / 85 / 76 / 66 | 90 / 81 / 72 / 62 |

    Without the bias *counts* has 93 to 100 % of the untrained ones at B = 16 (ConvNet, MLP, ResNet-10). *sign* was
    right for each of 20 CIFAR-10 images and 180 faces alone, also of trained nets.
    `tests/unit/attacks/test_labels.py` repeats a part.

    A federated-averaging update serves *sign* and *row_minimum* at any scale, and the statements above hold for it with
    the probabilities and features met on the way (plain SGD or momentum). *counts* divides it by what `local` says that
    the steps add up to; this is exact for one full-batch step, and without `local` an update is taken for a gradient,
    which gives wrong counts unless lr is 1.

    Args:
        model: the victim as sent. Its last linear layer is the `nn.Linear` whose output are the logits, whatever its
            name; batch normalization runs in the observation's mode.
        observation: of a client that trained with (mean) cross-entropy.
        rule: one of the above.

    Departs from LLG* in taking impact and offset from the model's answer in closed form (as in Geng et al., 2021,
    arXiv 2110.09074), and images of constant brightness in place of zeros, ones and noise: nothing is drawn.

    Raises ValueError where no linear layer yields the logits or shares what a rule needs, its gradient is zero, B is
    not 1 (sign) or exceeds the number of classes (row_minimum), a needed condition on the features fails on the gray
    images, or more classes than images (or, for sign, no class that stands out) have a negative entry, as after a
    defense.
    """
    if rule not in _RULES:
        raise ValueError(f"rule: expected one of {sorted(_RULES)}, got {rule!r}")
    if not isinstance(observation, Observation):
        raise TypeError(f"observation: expected a gia.Observation, got {type(observation).__name__}")
    observation.check(model)
    labels = _RULES[rule](_classifier(model, observation))
    return replace(observation, labels=labels)


@dataclass(frozen=True)
class _Classifier:
    """The last linear layer: its observed gradients, and its answer to the gray images.

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
        """gW (K, D), once the features are known to be >= 0."""
        if self.weight is None:
            raise ValueError(f"gradients: '{self.name}.weight' is not shared, but the rule needs it")
        if bool((self.features < 0).any()) or not bool(self.features.any()):
            low, high = self.features.aminmax()
            raise ValueError(
                f"model: to read labels from '{self.name}.weight', its inputs must be >= 0 and not all 0, "
                f"gray images make them {float(low):.3g} to {float(high):.3g}"
            )
        return self._evidence("weight", self.weight)

    def signal(self) -> tuple[Tensor, float]:
        """gb (K,) and 1, or the row sums of gW and the sum of features that they are larger by."""
        if self.bias is not None:
            return self._evidence("bias", self.bias), 1.0
        return self.rows().sum(1), float(self.features.sum(1).mean())

    def _evidence(self, part: str, gradient: Tensor) -> Tensor:
        if not bool(gradient.any()):
            raise ValueError(f"gradients: every entry is zero in '{self.name}.{part}', which tells no label")
        return gradient

    def negative(self, values: Tensor) -> Tensor:
        """The classes below zero, of which there can be no more than images."""
        classes = (values < 0).nonzero().flatten()
        if len(classes) > self.batch_size:
            raise ValueError(
                f"gradients: {len(classes)} classes of {self.name!r} have a negative entry, {self.batch_size} images "
                "cannot do that to a cross-entropy; was the gradient defended?"
            )
        return classes


def _sign(layer: _Classifier) -> Tensor:
    if layer.batch_size != 1:
        raise ValueError(f"batch_size: the sign rule takes one image, got {layer.batch_size}")
    signal, _ = layer.signal()
    classes = layer.negative(signal)
    if not len(classes):
        classes = (signal == 0).nonzero().flatten()  # p - 1, rounded
    if len(classes) != 1:
        raise ValueError(
            f"gradients: no class of {layer.name!r} has a negative entry and {len(classes)} have a zero one, but an "
            "image's own is negative, or the only one that is rounded to zero"
        )
    return classes


def _row_minimum(layer: _Classifier) -> Tensor:
    smallest = layer.rows().amin(1)
    if layer.batch_size > len(smallest):
        raise ValueError(
            f"batch_size: the row minimum takes distinct labels, at most {len(smallest)}, got {layer.batch_size}"
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
        labels.append(int(missing.argmax()))  # anew each time: a stale order would repeat one class
        missing[labels[-1]] -= 1
    return torch.tensor(labels, device=gradient.device)


def _scale(local: LocalTraining | None, batch_size: int) -> float:
    """What an update is larger by than a gradient, as long as the weights hardly move."""
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
    victim = set_mode(copy.deepcopy(model), observation.training)
    like = next(iter(observation.gradients.values()))
    gray = torch.linspace(0, 1, 17, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)
    images = gray.expand(-1, *observation.image_shape).contiguous()
    logits_of(victim, images)  # an error of its own where the model does not take these images
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
