"""Universal and exact claims: Hypothesis searches for a counterexample, and the worst example seen is reported."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import Phase, given, seed, settings
from hypothesis import example as explicit
from hypothesis.strategies import SearchStrategy

from gia.harness.blocks import claim_seed
from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import Verdict

Check = Callable[..., float]
Example = Mapping[str, Any]


class ClaimRefuted(AssertionError):
    """A counterexample to a claim; any other exception is an error of the check.

    Args:
        margin: By how much the claim fails there: negative and finite.
        counterexample: The counterexample in words; the search fills it in.

    Raises:
        ValueError: if the margin is not negative and finite.
    """

    def __init__(self, margin: float, counterexample: str = "") -> None:
        if not (math.isfinite(margin) and margin < 0):
            raise ValueError(f"margin of a counterexample must be negative and finite, but is {margin!r}")
        super().__init__(f"{counterexample or 'counterexample'}: margin {margin:.4g}")
        self.margin = margin
        self.counterexample = counterexample


def universal(
    claim: Claim,
    check: Check,
    strategies: Mapping[str, SearchStrategy[Any]],
    *,
    examples: Sequence[Example] = (),
    minimum: int = 200,
) -> Verdict:
    """A statement about every input: one counterexample refutes, `minimum` distinct valid examples support.

    The explicit examples come first, then Hypothesis draws twice `minimum` examples, seeded by crc32 of the claim id,
    with no database and no deadline; a second run shrinks what the first found. The effect is the worst margin over all
    that was tried; the detail names the worst example and the smallest counterexample. Support is no proof: measured
    on a unit square, the default search misses counterexamples that fill a box of 5 % of it in less than .1 % of cases,
    of 2 % in 7 % and of 1 % in 26 % (tests/harness/test_planted.py).

    Args:
        claim: Of kind "universal".
        check: Takes the values by name and returns the margin by which the statement holds (>= 0 is fine), or raises
            ClaimRefuted. It may call hypothesis.assume; a rejected example does not count.
        strategies: Name to strategy; the values must be picklable, which tells distinct ones apart.
        examples: Found counterexamples and other cases to try first, as keyword arguments of `check`.
        minimum: Lower it only for a space that is smaller than that.

    Raises:
        ValueError: if the claim is of another kind, minimum < 1, a margin is not finite, or an explicit example is
            rejected by the check's own assumptions.
        TypeError: if a value cannot be pickled.
        Exception: whatever else the check raises; hypothesis.errors.Unsatisfiable if it rejects every example.
    """
    search, found = _run(claim, "universal", check, strategies, examples, minimum)
    return _verdict(claim, search, found, minimum, "margin", lambda margin: margin)


def exact(
    claim: Claim,
    check: Check,
    strategies: Mapping[str, SearchStrategy[Any]],
    *,
    examples: Sequence[Example] = (),
    minimum: int = 200,
) -> Verdict:
    """An equality for every input, up to the claim's margin as tolerance (none: exactly).

    As `universal`, but `check` returns the error, >= 0, and the verdict's effect is the largest error seen.

    Raises:
        ValueError: as `universal`, and if an error is negative.
    """
    tolerance = claim.margin or 0.0

    def margin(**example: Any) -> float:
        error = float(check(**example))
        if error < 0:
            raise ValueError(f"check must return an error >= 0, but gave {error} for {describe(example)}")
        return tolerance - error

    search, found = _run(claim, "exact", margin, strategies, examples, minimum)
    return _verdict(claim, search, found, minimum, "error", lambda margin: tolerance - margin)


def describe(example: Example) -> str:
    """An example as text: `name=value, ...`."""
    return ", ".join(f"{name}={value!r}" for name, value in example.items())


class _Search:
    """Judges examples, counts the valid ones and remembers the worst."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.valid = 0
        self.distinct: set[tuple[bytes, ...]] = set()
        self.worst = (math.inf, "")

    def judge(self, **example: Any) -> float:
        """The margin of one example, negative if it refutes."""
        key = _key(example)
        try:
            margin = float(self.check(**example))
        except ClaimRefuted as refutation:
            margin = refutation.margin
        if not math.isfinite(margin):
            raise ValueError(f"check must return a finite number, but the margin is {margin} for {describe(example)}")
        self.valid += 1
        self.distinct.add(key)
        if margin < self.worst[0]:
            self.worst = margin, describe(example)
        return margin

    def hunt(self, **example: Any) -> None:
        """Judges, and raises every refutation from this one line: Hypothesis tells bugs apart by it when it shrinks."""
        if (margin := self.judge(**example)) < 0:
            raise ClaimRefuted(margin, describe(example))


class _ByContent(pickle.Pickler):
    """Pickles tensors by what they hold; torch puts the number of a storage in."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, torch.Tensor):
            return str, (f"{obj.dtype} {tuple(obj.shape)} {obj.tolist()}",)
        return NotImplemented


def _key(example: Example) -> tuple[bytes, ...]:
    """What tells an example from another: the pickles of its values, by digest."""
    keys = []
    try:
        for value in example.values():
            _ByContent(buffer := io.BytesIO()).dump(value)
            keys.append(hashlib.sha256(buffer.getbuffer()).digest())
        return tuple(keys)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(f"strategies must draw values that can be pickled, but drew {describe(example)}") from error


def _run(
    claim: Claim,
    kind: str,
    check: Check,
    strategies: Mapping[str, SearchStrategy[Any]],
    examples: Sequence[Example],
    minimum: int,
) -> tuple[_Search, ClaimRefuted | None]:
    """The finished search and the smallest counterexample: a pass over everything, and one to shrink what it found."""
    if claim.kind != kind:
        raise ValueError(f"claim {claim.id!r}: kind must be {kind!r} for this verdict, but is {claim.kind!r}")
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1, but is {minimum}")
    if not strategies:
        raise ValueError("strategies must name at least one value to draw, but is empty")
    search = _Search(check)
    profile = settings(settings.get_profile("claims"), max_examples=2 * minimum)

    def attempt(judge: Callable[..., object], phases: Sequence[Phase], *tried: Example) -> None:
        def test(**example: Any) -> None:
            judge(**example)

        given_test = given(**strategies)(test)
        for example in tried:
            given_test = explicit(**example)(given_test)
        seed(claim_seed(claim.id))(settings(profile, phases=phases)(given_test))()

    for example in examples:
        before = search.valid
        attempt(search.judge, [Phase.explicit], example)
        if search.valid == before:
            raise ValueError(f"examples must satisfy the check's assumptions, but it rejects {describe(example)}")
    attempt(search.judge, [Phase.generate])
    if search.worst[0] >= 0:
        return search, None
    try:
        attempt(search.hunt, [Phase.generate, Phase.shrink])
    except ClaimRefuted as smallest:
        return search, smallest
    return search, ClaimRefuted(*search.worst)  # only an explicit example refutes


def _verdict(
    claim: Claim,
    search: _Search,
    found: ClaimRefuted | None,
    minimum: int,
    noun: str,
    effect: Callable[[float], float],
) -> Verdict:
    worst, where = search.worst
    tried = len(search.distinct)
    detail: dict[str, Any] = {"worst": {noun: effect(worst), "example": where}, "minimum": minimum}
    measured = f"worst {noun} {effect(worst):.3g} at {where}"
    if found is not None:
        outcome, reason = "refuted", f"a counterexample: {found.counterexample}"
        detail |= {"counterexample": {noun: effect(found.margin), "example": found.counterexample}}
        measured = f"fails at {found.counterexample} ({noun} {effect(found.margin):.3g}); {measured}"
    elif tried < minimum:
        outcome, reason = "inconclusive", f"only {tried} distinct valid examples, and {minimum} are needed"
    else:
        outcome, reason = "supported", f"no counterexample among {tried} distinct valid examples"
    detail["reason"] = reason
    return Verdict(claim.id, outcome, effect(worst), claim.unit, None, tried, 0, 1, None, "", measured, detail)
