"""Drawing blocks: the random settings that a claim is tried on come from Hypothesis."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from gia.harness.blocks.block import Block, Scalar

#: Every field is stated: Hypothesis takes a missing one from the loaded profile, which is `ci` where CI is set.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "claims": {
        "max_examples": 400,
        "phases": (Phase.generate,),  # a claim adds shrinking where it wants it; nothing is replayed from earlier runs
        "derandomize": False,  # seeded by the claim id instead, which survives edits of the code
        "database": None,  # a run must not depend on what ran before
        "deadline": None,  # speed is not evidence
        "suppress_health_check": tuple(HealthCheck),  # nor are filtered draws: the examples are counted
        "report_multiple_bugs": True,  # a crash beside a counterexample is not hidden by it
        "print_blob": False,  # no database, no blob: the counterexample is in the verdict
        "stateful_step_count": 50,
        "verbosity": Verbosity.normal,
        "backend": "hypothesis",
    },
    "unit": {
        "max_examples": 50,
        "phases": (Phase.explicit, Phase.generate, Phase.shrink),
        "derandomize": True,  # the same examples on every machine
        "database": None,
        "deadline": None,  # the machines are shared
        "suppress_health_check": (HealthCheck.too_slow,),  # for the same reason
        "report_multiple_bugs": True,
        "print_blob": False,
        "stateful_step_count": 50,
        "verbosity": Verbosity.normal,
        "backend": "hypothesis",
    },
}
for _name, _fields in PROFILES.items():
    settings.register_profile(_name, settings(**_fields))

#: Below ten examples Hypothesis (from 6.120 on) neither completes them with simplest values nor mutates earlier ones.
_RUN = 9

#: From 100 on, integers that occur in the source of loaded modules are drawn more often, and which are loaded differs.
_LONGEST = 100


def claim_seed(claim: str) -> int:
    """The seed of every Hypothesis run of a claim: crc32 of its id, the same in every process."""
    return zlib.crc32(claim.encode())


def draw_blocks(claim: str, space: Mapping[str, Sequence[Scalar]], count: int) -> list[Block]:
    """Draw `count` blocks of a claim with settings that all differ.

    The same id, space and version of Hypothesis give the same blocks in every process, and fewer blocks are the
    beginning of more: `draw_blocks(c, s, 8) == draw_blocks(c, s, 16)[:8]`. Hypothesis draws the settings in runs of
    nine, seeded by crc32 of the claim id plus the number of the run; the first example of a run, always the simplest,
    is dropped, and so is a setting that was drawn before. An empty space has one setting, `{}`; its blocks differ by
    their index alone, and so by their victims, images and starts.

    Args:
        claim: id of the claim.
        space: factor to its values, at most 100 each, all different. The order of the factors does not matter.
        count: number of blocks, at least 1.

    Raises:
        TypeError: if a factor is no string or a value no JSON scalar.
        ValueError: if count < 1, if a factor has no values, repeated ones, too many or a non-finite one, or if the
            space has fewer than `count` settings.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    _check_space(space)
    if not space:
        return [Block(claim, index, {}) for index in range(count)]
    size = math.prod(len(values) for values in space.values())
    if size < count:
        raise ValueError(f"space: expected at least {count} settings for the blocks of {claim!r}, got {size}")
    distinct: dict[str, dict[str, Scalar]] = {}
    run = 0
    while len(distinct) < count:
        for setting in _draw(space, claim_seed(claim) + run):
            distinct.setdefault(json.dumps(setting), setting)
        run += 1
    return [Block(claim, index, setting) for index, setting in enumerate(list(distinct.values())[:count])]


def _draw(space: Mapping[str, Sequence[Scalar]], run_seed: int) -> list[dict[str, Scalar]]:
    """The settings of one run of Hypothesis, without its first example."""
    drawn: list[dict[str, Scalar]] = []
    names = sorted(space)

    # Hypothesis makes every example of a run differ from the earlier ones in one of its first choices. The booleans
    # give it as many as a run can need, so that the settings behind them stay independent and uniform, and the simplest
    # setting, whose first example is dropped, can still be drawn.
    @seed(run_seed)
    @settings(settings.get_profile("claims"), max_examples=_RUN)
    @given(st.tuples(*[st.booleans()] * (_RUN - 1)), st.tuples(*(st.sampled_from(list(space[name])) for name in names)))
    def collect(_: tuple[bool, ...], values: tuple[Scalar, ...]) -> None:
        drawn.append(dict(zip(names, values, strict=True)))

    collect()
    return drawn[1:]


def _check_space(space: Mapping[str, Sequence[Scalar]]) -> None:
    for name, values in space.items():
        if not isinstance(name, str):
            raise TypeError(f"space: expected strings as factors, got {name!r}")
        for value in values:
            if value is not None and not isinstance(value, str | int | float | bool):
                raise TypeError(f"space[{name!r}]: expected JSON scalars, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"space[{name!r}]: expected finite numbers, got {value!r}")
        if not 0 < len(values) <= _LONGEST:
            raise ValueError(f"space[{name!r}]: expected 1 to {_LONGEST} values, got {len(values)}")
        if len({json.dumps(value) for value in values}) < len(values):
            raise ValueError(f"space[{name!r}]: expected different values, got {list(values)}")
