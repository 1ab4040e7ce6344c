"""A stored sample for the tests of baselines, and how it is checked and made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gia.harness.baseline.check import Baseline
from gia.harness.baseline.compare import Comparison

HERE = {"fingerprint": "aaaa", "threads": "1", "torch": "2.14.1+cu130"}
ELSEWHERE = {"fingerprint": "bbbb", "threads": "1", "torch": "2.14.1+cu130"}
PSNR = [24.0, 25.5, 23.8, 24.9, 25.1, 24.4]  # mean 24.617, standard deviation 0.662
SAMPLE = {"psnr": PSNR, "lpips": [0.2, 0.21, 0.19, 0.2, 0.22, 0.2], "gradient_evaluations": [100.0] * 6}

Values = Mapping[str, Sequence[float]]


def shifted(by: float, metric: str = "psnr") -> Values:
    """The stored sample with one metric moved."""
    return {**SAMPLE, metric: [value + by for value in SAMPLE[metric]]}


def check(baseline: Baseline, values: Values = SAMPLE, cell: str = "op/b1", **options: Any) -> Comparison:
    """One check with the usual arguments."""
    return baseline.check(cell, values, **{"deciding": "psnr", "protocol": "p1", **options})


def store(path: Path, values: Values = SAMPLE, cell: str = "op/b1", **options: Any) -> Comparison:
    """An entry made the way a user makes it, on the machine HERE."""
    writer = Baseline(path, rebaseline=True, reason="first sample", ci=False, machine=HERE, commit="abc1234")
    return check(writer, values, cell, rerun=lambda: values, **options)
