"""Reach: in which share of the settings of a space a claim's effect holds, and which drawn factor moves it most.

A verdict speaks of the median setting. Reach says how many of all drawn settings show the effect, the reverse, none, or
nothing at all, because the attack is dead there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gia.harness.decide.statistics import binomial_interval

LABELS = ("holds", "reversed", "no effect", "dead", "void")
LIVE = ("holds", "reversed", "no effect")

#: Orders of the settings that are drawn for a p, and the p below which a factor is named.
PERMUTATIONS = 9999
SHOWN_BELOW = 0.01

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Draw:
    """One drawn setting; `effect` is None where the control failed."""

    index: int
    setting: Setting
    label: str
    effect: float | None


def label(kind: str, effect: float | None, margin: float, *, room: bool) -> str:
    """What one drawn setting shows of a claim.

    A trend or a pair holds from the margin on, and is reversed from minus the margin on. A claim that there is an
    effect holds where its size reaches the margin; a claim that there is none holds below it, and is reversed above.

    Args:
        kind: of the claim.
        effect: signed so that a trend or a pair is positive where it is as claimed; None where the control failed.
        margin: of the claim.
        room: whether any level has something to lose.

    >>> [label("trend", effect, 0.5, room=True) for effect in (0.5, -0.5, 0.4)], label("trend", 2.0, 0.5, room=False)
    (['holds', 'reversed', 'no effect'], 'dead')
    >>> label("affected", -0.5, 0.5, room=True), label("equivalence", -0.5, 0.5, room=True)
    ('holds', 'reversed')
    """
    if effect is None:
        return "void"
    if not room:
        return "dead"
    if kind == "equivalence":
        return "holds" if abs(effect) < margin else "reversed"
    size = abs(effect) if kind == "affected" else effect
    return "holds" if size >= margin else "reversed" if size <= -margin else "no effect"


def shares(draws: Sequence[Draw]) -> dict[str, dict[str, Any]]:
    """Label -> its number, its share of all draws with an exact interval, and its share of the live draws.

    >>> drawn = [Draw(index, {}, "holds" if index < 18 else "dead", None) for index in range(24)]
    >>> found = shares(drawn)["holds"]
    >>> found["count"], found["share"], found["of_live"]
    (18, 0.75, 1.0)
    """
    labels = [draw.label for draw in draws]
    live = sum(name in LIVE for name in labels)
    found = {}
    for name in LABELS:
        count = labels.count(name)
        low, high = binomial_interval(np.array([count]), len(draws))
        found[name] = {
            "count": count,
            "share": count / len(draws),
            "interval": [float(low[0]), float(high[0])],
            "of_live": count / live if live and name in LIVE else None,
        }
    return found


def changed(first: Sequence[Draw], again: Sequence[Draw]) -> dict[str, int]:
    """How many settings have another label when they are drawn again with another seed.

    >>> one, other = Draw(0, {}, "holds", 1.0), Draw(0, {}, "dead", 0.0)
    >>> changed([one, one], [one, other])
    {'settings': 2, 'changed': 1}
    """
    pairs = list(zip(first, again, strict=False))
    return {"settings": len(pairs), "changed": sum(a.label != b.label for a, b in pairs)}


def strongest_factor(draws: Sequence[Draw]) -> dict[str, Any] | None:
    """The drawn factor that moves the effect most, with the p of the largest over all factors; None without any.

    How much a factor moves the effect is the F of an analysis of variance over its values. Its p is the share of random
    orders of the settings in which the largest F of any factor is at least as large.

    >>> rows = [Draw(i, {"net": "ab"[i % 2], "width": i % 3}, "holds", 3.0 * (i % 2) + 0.01 * i) for i in range(24)]
    >>> found = strongest_factor(rows)
    >>> found["factor"], found["p"] < 0.01, found["medians"]
    ('net', True, {'a': 0.11, 'b': 3.12})
    """
    measured = [draw for draw in draws if draw.effect is not None]
    effects = np.array([draw.effect for draw in measured], dtype=float)
    columns = {}
    for factor in sorted({name for draw in measured for name in draw.setting}):
        names, codes = np.unique([_text(draw.setting.get(factor)) for draw in measured], return_inverse=True)
        if 1 < len(names) < len(effects):
            columns[factor] = (names, codes)
    if not columns or np.ptp(effects) == 0:
        return None
    observed = {factor: _ratio(effects[None], codes)[0] for factor, (_, codes) in columns.items()}
    factor = max(observed, key=lambda name: observed[name])
    generator = np.random.default_rng(0)
    orders = np.stack([generator.permutation(effects) for _ in range(PERMUTATIONS)])
    largest = np.max([_ratio(orders, codes) for _, codes in columns.values()], axis=0)
    p = (1 + int((largest >= observed[factor] * (1 - 1e-9)).sum())) / (1 + PERMUTATIONS)
    names, codes = columns[factor]
    medians = {str(name): round(float(np.median(effects[codes == code])), 4) for code, name in enumerate(names)}
    return {"factor": factor, "p": p, "medians": medians}


def _ratio(effects: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(orders,) the F of each row of effects (orders, draws) over the groups of `codes`."""
    groups = int(codes.max()) + 1
    member = np.eye(groups)[codes]  # (draws, groups)
    sums, counts = effects @ member, member.sum(axis=0)
    total = ((effects - effects.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    between = (sums**2 / counts).sum(axis=1) - effects.shape[1] * effects.mean(axis=1) ** 2
    within = np.maximum(total - between, 1e-12 * total)
    f: np.ndarray = (between / (groups - 1)) / (within / (effects.shape[1] - groups))
    return f


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
