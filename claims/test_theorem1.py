"""Theorem 1: its bound as printed, repaired and corrected, and whether errors grow as Remark 1 reads it (Sec. III)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from claims.protocols import PROTOCOLS
from claims.protocols.changes import batches_of, resized
from claims.protocols.op import BATCH_SIZES
from gia.harness.decide import verdicts
from gia.harness.decide.statistics import slopes
from gia.harness.session import LOOKS
from gia.theory import theorem1

CONSTANTS = {"mu": st.floats(0.01, 10), "ratio": st.floats(1, 100)}  # L = ratio * mu
RUN = {"iterations": st.integers(1, 30), "kappa": st.floats(0, 10)}
BATCH = {"batch_size": st.integers(1, 3), "image_shape": st.tuples(*(st.integers(1, 2),) * 3)}
DRAWN = {"kind": st.sampled_from(["quadratic", "softened", "rounds"]), "seed": st.integers(0, 2**32 - 1)}

#: setup.md's own: mu = 1, L = 10, eta = sqrt(2/11) on curvature 10; ten steps grow the error 1.4e5-fold.
DIVERGES = {"mu": 1.0, "ratio": 10.0, "curvature": 1.0, "share": 1.0, "iterations": 10, "kappa": 0.0}
ONE_PIXEL = {"batch_size": 1, "image_shape": (1, 1, 1)}

#: Sides in pixels: the paper's, and those that two cores can afford.
RESOLUTIONS = {"reduced": (16, 24, 32), "paper": (32, 64, 128, 224)}

#: What changes where the resolution is the factor: two images a block are enough here, and CIFAR has no 224 pixels.
RESIZED = {"reduced": {"images": 2, "pattern_batch": 2}, "paper": {"data": "imagenet"}}

#: From the weakest on: a claim about two factors is as good as the worse of them.
OUTCOMES = ("refuted", "inconclusive", "supported")


@pytest.mark.claim("thm1.scaling")
def test_the_printed_bound_grows_with_the_root_of_the_batch_and_with_the_sides(claims):
    """After many steps the printed bound grows by sqrt(2) when B doubles and by 2 when H and W do."""
    claims.exact("thm1.scaling", theorem1.scaling_error, CONSTANTS | BATCH | {"kappa": st.floats(0.01, 10)})


@pytest.mark.claim("thm1.corrected")
def test_the_corrected_bound_holds_and_is_attained(claims):
    """It holds for every 0 < eta <= 2/(mu+L), quadratic or not, and the worst case reaches .999 of it."""
    ranges = {"share": st.floats(1e-6, 1), "size": st.integers(1, 6)}
    claims.universal("thm1.corrected", theorem1.corrected_margin, CONSTANTS | RUN | DRAWN | ranges)


@pytest.mark.claim("thm1.printed_repaired")
def test_the_printed_bound_holds_on_a_narrower_range(claims):
    """It holds where 1/(mu+L) <= eta <= 2/(mu+L) and 2BCHW(mu+L) >= 1, for the mean of the rounds."""

    def margin(**drawn):
        found = theorem1.repaired_margin(**drawn)
        assume(found is not None)
        return found

    ranges = {"ratio": CONSTANTS["ratio"], "excess": st.floats(1, 1000), "share": st.floats(0.5, 1)}
    claims.universal("thm1.printed_repaired", margin, RUN | DRAWN | BATCH | ranges)


@pytest.mark.claim("thm1.printed")
def test_the_printed_bound_is_false_on_the_printed_range(claims):
    """For some 0 < eta <= sqrt(2/(mu+L)) descent diverges, for others it is slower than the bound says."""
    ranges = {"curvature": st.floats(0, 1), "share": st.floats(1e-6, 1)}
    strategies = CONSTANTS | RUN | BATCH | ranges
    claims.universal("thm1.printed", theorem1.printed_margin, strategies, examples=[DIVERGES | ONE_PIXEL])


@pytest.mark.claim("thm1.empirical")
def test_the_measured_error_grows_with_the_batch_and_with_the_resolution(claims):
    """The RMSE per pixel rises with the entries B*C*H*W, along B and along H and W; the verdict is the weaker one's.

    A dead attack's error per pixel is constant, while its norm grows with slope 1/2 all the same: the norm's slope is
    shown beside the blind guess's. B levels are those of `op.batch_size`, read from the store. Each factor
    has looks of its own.
    """
    scale, claim = claims.scale, claims.claim("thm1.empirical")
    op = PROTOCOLS[scale]["op"]
    sizes, sides = replace(op, **RESIZED[scale]), RESOLUTIONS[scale]

    def along_batch(blocks):
        return claims.table("op.batch_size", op, levels=BATCH_SIZES[scale], change=batches_of, blocks=blocks)

    def along_sides(blocks):
        return claims.table(claim.id, sizes, levels=sides, change=resized, blocks=blocks)

    seen = {
        "B": looked(claim, along_batch, np.log(BATCH_SIZES[scale])),
        "HW": looked(claim, along_sides, 2 * np.log(sides)),
    }
    verdict = min((found for found, _ in seen.values()), key=lambda v: (OUTCOMES.index(v.outcome), v.effect or 0.0))
    measured = "; ".join(f"along {name}: {found.measured}" for name, (found, _) in seen.items())
    claims.record(replace(verdict, measured=measured), tables=[table for _, table in seen.values()])


def looked(claim, table_of, x):
    """The trend over x at eight blocks, and at sixteen after an inconclusive look at this factor; and its table."""
    for look, blocks in enumerate(LOOKS, start=1):
        table = table_of(blocks)
        verdict = grown(claim, table, x, look)
        if not verdicts.needs_second_look(verdict):
            break
    return verdict, table


def grown(claim, table, x, look):
    """The trend of log RMSE over x, the log of the number of entries; its line also has the slopes of the norms."""
    rmse = table.values("rmse")
    verdict = verdicts.trend(claim, x, np.log(rmse), void=table.void, look=look)
    if not table.valid:
        return verdict
    blind = [[result.details[level]["blind"]["rmse"] for level in table.levels] for result in table.valid]
    error, blind_error = (float(np.median(slopes(x, np.log(values)))) for values in (rmse, np.array(blind)))
    medians = "/".join(f"{median:.3f}" for median in np.median(rmse, axis=0))
    shown = f"RMSE {medians}, slope {error:.3f}; its norm {error + 0.5:.3f}, the blind guess's {blind_error + 0.5:.3f}"
    return replace(verdict, measured=f"{shown} ({verdict.outcome})")
