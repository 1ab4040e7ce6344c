"""A sample against its stored one: what agrees, what fails and how it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gia.harness.baseline.compare import (
    BaselineBetter,
    BaselineStale,
    BaselineVanished,
    BaselineWorse,
)
from tests.harness.baseline.stored import (
    ELSEWHERE,
    HERE,
    PSNR,
    QUANTITIES,
    SAMPLE,
    Quantity,
    baseline_of,
    check,
    shifted,
    store,
)


def test_the_same_numbers_on_the_same_machine_agree(file: Path) -> None:
    """A harness that finds fault with an exact repetition would be switched off within a week."""
    comparison = check(baseline_of(file, machine=HERE))
    assert comparison.how == "paired"
    assert comparison.means["psnr"] == (np.mean(PSNR), np.mean(PSNR))
    assert str(comparison).startswith("op/b1: psnr 24.62 -> 24.62 dB (paired); gradient_evaluations 100 -> 100; lpips")


@pytest.mark.parametrize("by", [-2e-5, 2e-5])
def test_on_the_same_machine_the_comparison_is_tight(file: Path, by: float) -> None:
    """One seed that moves by 2e-5 dB where arithmetic is equal bit for bit means that the code changed."""
    values = {**SAMPLE, "psnr": [PSNR[0] + by, *PSNR[1:]]}
    with pytest.raises(BaselineBetter if by > 0 else BaselineWorse, match="seed 0 24 -> "):
        check(baseline_of(file, machine=HERE), values)


def test_on_the_same_machine_every_metric_is_compared(file: Path) -> None:
    """A change of lpips at an equal psnr is a change of lpips; lower is better there."""
    with pytest.raises(BaselineWorse, match=r"lpips 0\.203333 -> 0\.303333"):
        check(baseline_of(file, machine=HERE), shifted(0.1, "lpips"))
    with pytest.raises(BaselineBetter, match="lpips"):
        check(baseline_of(file, machine=HERE), shifted(-0.1, "lpips"))


def test_an_improvement_fails_and_says_update_the_baseline(file: Path) -> None:
    """A stored number that is too low lets the next regression pass unseen."""
    with pytest.raises(
        BaselineBetter, match=r"update the baseline: pytest --gia-rebaseline --gia-reason .* 24\.6167 -> 27\.6167"
    ):
        check(baseline_of(file, machine=HERE), shifted(3.0))


@pytest.mark.parametrize("machine", [ELSEWHERE, {**HERE, "torch": "2.13.0"}], ids=["machine", "torch"])
def test_another_machine_or_torch_minor_is_held_to_half_the_loss_to_be_caught(
    file: Path, machine: dict[str, str]
) -> None:
    """At 1e-5 dB another instruction set fails without a change of the code; a wide limit catches nothing."""
    comparison = check(baseline_of(file, machine=machine), shifted(-0.24))
    assert comparison.how == "elsewhere"
    assert str(comparison).startswith("op/b1: psnr 24.62 -> 24.38 dB (elsewhere: median within 0.25)")
    with pytest.raises(BaselineBetter, match=r"another machine or torch: median within 0\.25 dB"):
        check(baseline_of(file, machine=machine), shifted(0.26))
    with pytest.raises(BaselineWorse, match="another machine or torch"):
        check(baseline_of(file, machine=machine), shifted(-0.26))


def test_a_seed_that_diverges_elsewhere_is_not_taken_for_a_loss_of_all(file: Path) -> None:
    """A chaotic search ends elsewhere after one other rounding; six seeds paired say what the code did."""
    values = {**SAMPLE, "psnr": [PSNR[0] - 4, PSNR[1] + 1, *PSNR[2:]]}
    assert check(baseline_of(file, machine=ELSEWHERE), values).how == "elsewhere"
    with pytest.raises(BaselineWorse):
        check(baseline_of(file, machine=ELSEWHERE), {**values, "psnr": [value - 0.5 for value in values["psnr"]]})


def test_a_patch_release_of_torch_stays_a_paired_comparison(file: Path) -> None:
    """The contract is the minor version; the fingerprint catches a patch that changes arithmetic."""
    assert check(baseline_of(file, machine={**HERE, "torch": "2.14.9"})).how == "paired"


def test_on_another_machine_other_metrics_are_shown_and_counts_still_agree(file: Path) -> None:
    """Five noisy metrics tested at once multiply false alarms; a count of evaluations has no noise at all."""
    comparison = check(baseline_of(file, machine=ELSEWHERE), shifted(0.5, "lpips"))
    assert comparison.means["lpips"] == pytest.approx((0.20333, 0.70333), abs=1e-5)
    with pytest.raises(BaselineWorse, match="gradient_evaluations 100 -> 101"):
        check(baseline_of(file, machine=ELSEWHERE), shifted(1.0, "gradient_evaluations"))


def test_a_metric_whose_loss_nobody_named_keeps_its_tolerance_on_another_machine(file: Path) -> None:
    """Half a decibel says nothing about a distance, whose own limit has to be measured first."""
    with pytest.raises(BaselineStale):
        check(baseline_of(file, machine=ELSEWHERE), deciding="lpips")  # the entry was stored for another one
    store(file, entry="op/b2", deciding="lpips")
    assert check(baseline_of(file, machine=ELSEWHERE), shifted(5e-6, "lpips"), "op/b2", deciding="lpips").allowed == (
        "median",
        1e-5,
    )
    with pytest.raises(BaselineWorse):
        check(baseline_of(file, machine=ELSEWHERE), shifted(5e-5, "lpips"), "op/b2", deciding="lpips")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"setting": "p2"}, "setting p1"),
        ({"dtype": "float32"}, "dtype float64"),
        ({"deciding": "lpips"}, "deciding psnr"),
    ],
)
def test_an_entry_of_another_setting_is_stale(file: Path, options: dict[str, str], named: str) -> None:
    """Numbers of another setting that happen to agree prove nothing."""
    with pytest.raises(BaselineStale, match=f"stored with {named}"):
        check(baseline_of(file, machine=HERE), **options)


def test_a_tolerance_changed_in_the_code_is_not_taken_over_silently(file: Path) -> None:
    """Widening a tolerance in the source would else turn a red check green without a trace in baselines/."""
    wider = {**QUANTITIES, "psnr": Quantity("dB", tolerance=10.0, platform_spread=1e-6)}
    with pytest.raises(BaselineStale, match=r"psnr tolerance 1e-05, the test has 10"):
        check(baseline_of(file, machine=HERE, quantities=wider), shifted(3.0))


def test_another_number_of_seeds_is_stale(file: Path) -> None:
    """Fewer seeds is thinner evidence under the same name."""
    with pytest.raises(BaselineStale, match="number of seeds 6, the test has 4"):
        check(baseline_of(file, machine=HERE), {metric: values[:4] for metric, values in SAMPLE.items()})


@pytest.mark.parametrize("machine", [HERE, ELSEWHERE], ids=["here", "elsewhere"])
def test_a_metric_may_vanish_on_neither_side(file: Path, machine: dict[str, str]) -> None:
    """A metric that is no longer computed would else never fail again."""
    with pytest.raises(BaselineVanished, match=r"no longer measured: \['lpips'\]"):
        check(
            baseline_of(file, machine=machine), {metric: SAMPLE[metric] for metric in ("psnr", "gradient_evaluations")}
        )
    with pytest.raises(BaselineVanished, match=r"measured but not stored: \['ssim'\]"):
        check(baseline_of(file, machine=machine), {**SAMPLE, "ssim": [0.5] * 6})
