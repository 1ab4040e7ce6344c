"""How the report of these claims is arranged: Table I, its parts, and where the paper disagrees with itself."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from claims.table1 import NAMES, load_table1
from gia.harness.report.layout import Figure, Group, Inconsistency, Layout, Matrix, Series

#: Attack type -> the method that stands for it in the register.
METHODS = {
    "op": "Inverting Gradients",
    "gen_z": "GGL",
    "gen_w": "CI-Net",
    "gen_inv": "Learning to Invert",
    "ana_arch": "Robbing the Fed",
    "ana_param": "Fishing",
}
COLUMNS = {
    "batch_size": "batch size",
    "resolution": "resolution",
    "same_labels": "same labels",
    "training_state": "training state",
    "architecture": "architecture",
    "fedavg": "FedAvg",
    "original": "recovers the original",
    "visual_quality": "visual quality",
    "reliance": "extra reliance",
}


def layout(root: Path) -> Layout:
    """The arrangement, from the register and the published numbers below `root`.

    >>> found = layout(Path("."))
    >>> found["matrix"]["cells"]["op"]["fedavg"]["mark"], len(found["inconsistencies"])
    ('yes', 12)
    """
    register = root / "claims" / "claims.toml"
    reported = json.loads((root / "baselines" / "reported.json").read_text(encoding="utf-8"))
    document = tomllib.loads(register.read_text(encoding="utf-8"))
    return Layout(
        title="What shared gradients give away",
        text="The claims of arXiv 2503.11514v2 on gradient inversion attacks, measured again.",
        matrix=_matrix(register),
        groups=_groups(privacy_utility(root / "baselines" / "stored" / "privacy_utility.json")),
        inconsistencies=[_inconsistency(entry, reported) for entry in document["inconsistency"]],
    )


def _matrix(register: Path) -> Matrix:
    cells = load_table1(register)
    return Matrix(
        title="Table I",
        text='"Yes" and "no" are the paper\'s: whether the factor affects the attack. The sign is our verdict on that '
        'entry, so a supported "no" says that the factor has no effect beyond the row\'s margin.',
        rows={id: (NAMES[id], f"{id}: {method}") for id, method in METHODS.items()},
        columns=COLUMNS,
        cells={
            kind: {column: {"mark": cell.paper, "rows": list(cell.claims)} for column, cell in columns.items()}
            for kind, columns in cells.items()
        },
    )


def privacy_utility(path: Path) -> list[Figure]:
    """A plot for each data set of a stored measurement of defenses: medians over seeds. None before it is measured.

    Args:
        path: of a file with "points": "DATA/DEFENSE/SEED" -> "leak" in dB and "accuracy".

    >>> privacy_utility(Path("nowhere.json"))
    []
    """
    if not path.exists():
        return []
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key, point in json.loads(path.read_text(encoding="utf-8"))["points"].items():
        data, _, rest = key.partition("/")
        defense = rest.rpartition("/")[0]
        found.setdefault(data, {}).setdefault(defense, []).append((point["leak"], point["accuracy"]))
    order = list(dict.fromkeys(name for defenses in found.values() for name in defenses))
    figures = []
    for data, defenses in found.items():
        points = {name: tuple(median(each) for each in zip(*seeds, strict=True)) for name, seeds in defenses.items()}
        shown = {str(number): name for number, name in enumerate(order, start=1) if name in points}
        numbers = [f"{label} {name} ({points[name][0]:.2g} dB, {points[name][1]:.2g})" for label, name in shown.items()]
        figures.append(
            Figure(
                title=f"Privacy and utility, {data}",
                text="What leaks in the first round under each defense, and the accuracy of the trained net (medians): "
                f"{', '.join(numbers)}.",
                x="leak in dB above the best placebo",
                y="held-out accuracy",
                log=False,
                series=[
                    Series(
                        name="a defense",
                        points=[(points[name][0], points[name][1]) for name in shown.values()],
                        labels=list(shown),
                        dots=True,
                    )
                ],
            )
        )
    return figures


def roc(kinds: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float]]]) -> list[Figure]:
    """ROC curves of detectors of malicious models: a figure per kind of model, a line per statistic.

    Args:
        kinds: as `gia.pictures.roc` takes them.

    >>> (figure,) = roc({"Fishing": {"zeroed_rows": ([0.1, 0.4, 0.2], [0.3, 0.9], 0.35)}})
    >>> figure["series"][0]["name"]
    'zeroed_rows: 50 % at 33.3 %'
    """
    figures = []
    for title, statistics in kinds.items():
        series = [_curve(name, *measured) for name, measured in statistics.items()]
        found = "; ".join(each["name"] for each in series)
        figures.append(
            Figure(
                title=f"ROC of each check, {title}",
                text="A mark shows a check's limit. Shares of malicious and of honest models above it: " + f"{found}.",
                x="share of honest models above",
                y="share of malicious models above",
                log=False,
                series=series,
            )
        )
    return figures


def _curve(name: str, honest: Sequence[float], malicious: Sequence[float], limit: float) -> Series:
    """The corners of one ROC curve, from the highest cut to the lowest, and its limit, which is marked."""
    cuts = [math.inf, *sorted({*honest, *malicious, limit}, reverse=True), -math.inf]
    shares = [
        (sum(value > cut for value in honest) / len(honest), sum(value > cut for value in malicious) / len(malicious))
        for cut in cuts
    ]
    at = cuts.index(limit)

    def corner(index: int) -> bool:
        before, here, after = shares[index - 1 : index + 2]
        return (here[0] - before[0]) * (after[1] - here[1]) != (here[1] - before[1]) * (after[0] - here[0])

    kept = [index for index in range(len(cuts)) if index in (0, at, len(cuts) - 1) or corner(index)]
    no, yes = shares[at]
    return Series(
        name=f"{name}: {yes:.0%} at {no:.1%}".replace("%", " %"),
        points=[shares[index] for index in kept],
        marked=[kept.index(at)],
    )


def evasion(tries: Sequence[tuple[str, bool, bool]]) -> Figure:
    """How many manipulations of each kind leak, and how many of these pass every check.

    Args:
        tries: kind, whether a check finds it, and whether it leaks more than the honest model.

    >>> figure = evasion([("traps", True, True), ("traps", False, True), ("block", True, True)])
    >>> [each["points"] for each in figure["series"]]
    [[(0, 0), (2, 2)], [(1, 0), (2, 1)]]
    """
    kinds = sorted({kind for kind, _, _ in tries})
    leaking = {kind: [found for each, found, leaks in tries if each == kind and leaks] for kind in kinds}
    points = [(len(leaking[kind]), leaking[kind].count(False)) for kind in kinds]
    most = max(leaks for leaks, _ in points)
    counts = ", ".join(f"{kind} {passed} of {leaks}" for kind, (leaks, passed) in zip(kinds, points, strict=True))
    return Figure(
        title="What leaks and passes every check",
        text=f"Tries that pass, of those that leak more than the honest model: {counts}.",
        x="tries that leak",
        y="of them pass every check",
        log=False,
        series=[
            {"name": "here no check would find anything", "points": [(0, 0), (most, most)], "marked": []},
            {"name": "a kind of manipulation", "points": points, "labels": kinds, "dots": True},
        ],
    )


def _groups(defended: list[Figure]) -> list[Group]:
    attacks = [
        Group(title=f"{NAMES[id]} ({id}): {method}", text="", prefixes=[id], figures=[])
        for id, method in METHODS.items()
    ]
    return [
        *attacks,
        Group(
            title="Comparisons of attack types",
            short="Comparisons",
            text="Rows of Table I that several attack types share.",
            prefixes=["visual_quality", "ana"],
        ),
        Group(
            title="Mechanisms and theory",
            short="Theory",
            text="Theorem 1, Propositions 1 and 2, the linear layer, and why some attacks work.",
            prefixes=[
                *("thm1", "prop1", "prop2", "linear", "sigmoid", "gen_z.noise", "gen_w.sigmoid"),
                *("ana_arch.parameters", "ana_arch.table4", "ana_arch.bins"),
                *("ana_param.isolation", "ana_param.needs_op"),
            ],
            figures=[_counterexample()],
        ),
        Group(
            title="Detection",
            short="Detection",
            text="What a client can see of a manipulated model before it answers, and what gets past its checks.",
            prefixes=["detect"],
        ),
        Group(
            title="Defences",
            short="Defences",
            text="What each defence costs, and what still leaks.",
            prefixes=["defense"],
            figures=defended,
        ),
        Group(
            title="Parameter-efficient fine-tuning",
            short="PEFT",
            text="What the gradients of adapters leak, where only these are shared.",
            prefixes=["peft"],
        ),
    ]


def _counterexample() -> Figure:
    """Theorem 1 as printed: mu = 1, L = 10, eta = sqrt(2/11), f of curvature 10, kappa = 0."""
    mu, smoothness, steps = 1.0, 10.0, range(11)
    eta = (2 / (mu + smoothness)) ** 0.5
    growth, printed = abs(1 - eta * smoothness), 1 - mu / (mu + smoothness)
    return Figure(
        title="Theorem 1 as printed is false",
        text=f"Gradient descent on f(x) = 5x², with the largest step that the theorem allows, eta = sqrt(2/11) = "
        f"{eta:.3f}. Each step multiplies the error by {growth:.2f}. The printed bound promises that ten steps shrink "
        f"it to {printed**10:.3f}; they multiply it by {growth**10:.2g}.",
        x="steps",
        y="error, as a multiple of the first",
        log=True,
        series=[
            {"name": "what happens", "points": [(step, growth**step) for step in steps]},
            {"name": "what the printed bound allows", "points": [(step, printed**step) for step in steps]},
        ],
    )


def _inconsistency(entry: Mapping[str, Any], reported: Any) -> Inconsistency:
    return Inconsistency(
        title=entry["title"],
        paper=entry["paper"],
        rows=entry["rows"],
        numbers={_place(path): _text(_at(reported, path)) for path in entry.get("reported", ())},
        measured=entry["measured"],
    )


def _at(numbers: Any, path: str) -> Any:
    """What stands at a path of keys and positions, joined by dots."""
    for key in path.split("."):
        numbers = numbers[int(key)] if isinstance(numbers, list) else numbers[key]
    return numbers


def _place(path: str) -> str:
    """Where a number is printed, in words.

    >>> _place("fig3b_ig_cifar100_architecture_ssim.resnet34.64"), _place("table3_ig_cifar100_fedavg.weak.1,16")
    ('Fig. 3b, ig cifar100 architecture ssim, resnet34, 64', 'Table 3, ig cifar100 fedavg, weak, 1,16')
    """
    name, *rest = path.split(".")
    first, _, about = name.partition("_")
    where = re.sub(r"^fig(?=\d)", "Fig. ", re.sub(r"^table(?=\d)", "Table ", first)).replace("supp", "Supplement")
    return ", ".join(each.replace("_", " ") for each in (where, about, *rest))


def _text(value: Any) -> str:
    """Numbers in words; those with numbers as names in the order of these."""
    if isinstance(value, dict):
        keys = sorted(value, key=float) if all(key.isdigit() for key in value) else value
        return ", ".join(f"{key}: {_text(value[key])}" for key in keys)
    return " / ".join(map(_text, value)) if isinstance(value, list) else str(value)
