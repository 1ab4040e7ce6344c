"""A stored sample for the tests of baselines, and how it is checked and made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gia.harness.baseline.check import Baseline, Baselines
from gia.harness.baseline.compare import Comparison

HERE = {"fingerprint": "aaaa", "threads": "1", "torch": "2.14.1+cu130"}
ELSEWHERE = {"fingerprint": "bbbb", "threads": "1", "torch": "2.14.1+cu130"}
PSNR = [24.0, 25.5, 23.8, 24.9, 25.1, 24.4]  # mean 24.617, standard deviation 0.662
SAMPLE = {"psnr": PSNR, "lpips": [0.2, 0.21, 0.19, 0.2, 0.22, 0.2], "gradient_evaluations": [100.0] * 6}

Values = Mapping[str, Sequence[float]]


def shifted(by: float, metric: str = "psnr") -> Values:
    """The stored sample with one metric moved."""
    return {**SAMPLE, metric: [value + by for value in SAMPLE[metric]]}


class Quantity(NamedTuple):
    """What is known of a metric."""

    unit: str
    higher_is_better: bool = True
    tolerance: float = 1e-5
    platform_spread: float = 0.0


QUANTITIES = {
    "psnr": Quantity("dB", platform_spread=1e-6),
    "ssim": Quantity("1"),
    "lpips": Quantity("1", higher_is_better=False),
}


def not_measured(level: Any, block: Any) -> Any:
    """The measure of tests that bring their values along."""
    raise AssertionError(f"{level} is measured on {block}")


def opened(folder: Path, **options: Any) -> Baselines:
    """The baselines of a folder, with the usual quantities."""
    return Baselines(folder, **{"measure": not_measured, "quantities": QUANTITIES, **options})


def baseline_of(path: Path, **options: Any) -> Baseline:
    """The baseline of one file."""
    return opened(path.parent, **options).open(path.stem)


def check(baseline: Baseline, values: Values = SAMPLE, entry: str = "op/b1", **options: Any) -> Comparison:
    """One check with the usual arguments."""
    return baseline.check(entry, values, **{"deciding": "psnr", "setting": "p1", **options})


def store(path: Path, values: Values = SAMPLE, entry: str = "op/b1", **options: Any) -> Comparison:
    """An entry made the way a user makes it, on the machine HERE."""
    writer = baseline_of(path, rebaseline=True, reason="first sample", ci=False, machine=HERE, commit="abc1234")
    return check(writer, values, entry, rerun=lambda: values, **options)
