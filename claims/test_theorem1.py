"""Theorem 1: its bound as printed, repaired and corrected, and whether errors grow as Remark 1 reads it (Sec. III)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from claims.changes import batches_of
from claims.factors import cell_of, table
from claims.scales import Scale
from gia.harness.decide import verdicts
from gia.harness.decide.register import Claim
from gia.harness.decide.statistics import slopes
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.claims import Claims
from gia.theory import theorem1

Strategies = dict[str, st.SearchStrategy[Any]]

CONSTANTS: Strategies = {"mu": st.floats(0.01, 10), "ratio": st.floats(1, 100)}  # L = ratio * mu
RUN: Strategies = {"iterations": st.integers(1, 30), "kappa": st.floats(0, 10)}
BATCH: Strategies = {"batch_size": st.integers(1, 3), "image_shape": st.tuples(*(st.integers(1, 2),) * 3)}
DRAWN: Strategies = {
    "kind": st.sampled_from(["quadratic", "softened", "rounds"]),
    "seed": st.integers(0, 2**32 - 1),
}

#: A counterexample: mu = 1, L = 10, eta = sqrt(2/11) on curvature 10; ten steps grow the error 1.4e5-fold.
DIVERGES = {"mu": 1.0, "ratio": 10.0, "curvature": 1.0, "share": 1.0, "iterations": 10, "kappa": 0.0}
ONE_PIXEL = {"batch_size": 1, "image_shape": (1, 1, 1)}

#: From the weakest on: a claim about two factors is as good as the worse of them.
OUTCOMES = ("refuted", "inconclusive", "supported")


@pytest.mark.claim("thm1.scaling")
def test_the_printed_bound_grows_with_the_root_of_the_batch_and_with_the_sides(claims: Claims) -> None:
    """After many steps the printed bound grows by sqrt(2) when B doubles and by 2 when H and W do."""
    claims.exact("thm1.scaling", theorem1.scaling_error, CONSTANTS | BATCH | {"kappa": st.floats(0.01, 10)})


@pytest.mark.claim("thm1.corrected")
def test_the_corrected_bound_holds_and_is_attained(claims: Claims) -> None:
    """It holds for every 0 < eta <= 2/(mu+L), quadratic or not, and the worst case reaches .999 of it."""
    ranges: Strategies = {"share": st.floats(1e-6, 1), "size": st.integers(1, 6)}
    claims.universal("thm1.corrected", theorem1.corrected_margin, CONSTANTS | RUN | DRAWN | ranges)


@pytest.mark.claim("thm1.printed_repaired")
def test_the_printed_bound_holds_on_a_narrower_range(claims: Claims) -> None:
    """It holds where 1/(mu+L) <= eta <= 2/(mu+L) and 2BCHW(mu+L) >= 1, for the mean of the rounds."""

    def margin(**drawn: Any) -> float:
        found = theorem1.repaired_margin(**drawn)
        assume(found is not None)
        assert found is not None
        return found

    ranges: Strategies = {"ratio": CONSTANTS["ratio"], "excess": st.floats(1, 1000), "share": st.floats(0.5, 1)}
    claims.universal("thm1.printed_repaired", margin, RUN | DRAWN | BATCH | ranges)


@pytest.mark.claim("thm1.printed")
def test_the_printed_bound_is_false_on_the_printed_range(claims: Claims) -> None:
    """For some 0 < eta <= sqrt(2/(mu+L)) descent diverges, for others it is slower than the bound says."""
    ranges: Strategies = {"curvature": st.floats(0, 1), "share": st.floats(1e-6, 1)}
    strategies = CONSTANTS | RUN | BATCH | ranges
    claims.universal("thm1.printed", theorem1.printed_margin, strategies, examples=[DIVERGES | ONE_PIXEL])


@pytest.mark.claim("thm1.empirical")
def test_the_measured_error_grows_with_the_batch_and_with_the_resolution(claims: Claims, scale: Scale) -> None:
    """The RMSE per pixel rises with the entries B*C*H*W, along B and along H and W; the verdict is the weaker one's.

    An error counts at most as much as that of the best placebo, which an attacker has without the gradient. A dead
    attack's error per pixel is constant, while its norm grows with slope 1/2 all the same: the norm's slope is shown
    together with the placebo's. The levels of B are those of `op.batch_size`, read from the store. Each factor has
    separate looks.
    """
    claim, row = claims.claim("thm1.empirical"), scale.ROWS["thm1.empirical"]
    sizes = [float(size) for size in cell_of(scale, "op", "batch_size").levels]

    def along_batch(blocks: int) -> Table:
        return table(claims, scale, "op", "batch_size", batches_of, blocks)

    def along_sides(blocks: int) -> Table:
        return claims.table(claim.id, row.protocol, levels=tuple(row.levels), change=row.change, blocks=blocks)

    seen = {
        "B": looked(claims, claim, along_batch, np.log(sizes).tolist()),
        "HW": looked(claims, claim, along_sides, (2 * np.log([float(pixels) for pixels in row.levels])).tolist()),
    }
    verdict = min((found for found, _ in seen.values()), key=lambda v: (OUTCOMES.index(v.outcome), v.effect or 0.0))
    measured = "; ".join(f"along {name}: {found.measured}" for name, (found, _) in seen.items())
    claims.record(replace(verdict, measured=measured), tables=[table for _, table in seen.values()])


def looked(claims: Claims, claim: Claim, table_of: Callable[[int], Table], x: Sequence[float]) -> tuple[Verdict, Table]:
    """The trend over x, with further looks at this factor where they are needed; and its table."""
    tries = claims.tries(claim.id)
    return claims.look(table_of, lambda table, look: grown(claim, table, x, look, tries))


def grown(claim: Claim, table: Table, x: Sequence[float], look: Look, tries: int = 1) -> Verdict:
    """The trend of log RMSE over x, the log of the number of entries; its line also has the slopes of the norms."""
    if not table.valid:
        return verdicts.trend(claim, x, np.empty((0, len(x))), void=table.void, look=look, tries=tries)
    guessed = np.array([[r.details[level]["placebo"]["rmse"] for level in table.levels] for r in table.valid])
    # What is below the rounding of a pixel in float32 is exact, and has no logarithm.
    rmse = np.maximum(np.minimum(table.values("rmse"), guessed), np.finfo(np.float32).eps)
    verdict = verdicts.trend(claim, x, np.log(rmse), void=table.void, look=look, tries=tries)
    error, guessed_error = (float(np.median(slopes(x, np.log(values)))) for values in (rmse, guessed))
    medians = "/".join(f"{median:.3f}" for median in np.median(rmse, axis=0))
    shown = f"RMSE {medians}, slope {error:.3f}; its norm {error + 0.5:.3f}, the placebo's {guessed_error + 0.5:.3f}"
    return replace(verdict, measured=f"{shown} ({verdict.outcome})")
