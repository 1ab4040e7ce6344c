"""Universal and exact claims: Hypothesis searches for a counterexample; the verdict reports the worst example."""

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

from gia.harness.decide.profiles import claim_seed, same_draws
from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import Verdict

#: Distinct valid examples that support needs.
MINIMUM = 200

Check = Callable[..., float]
Example = Mapping[str, Any]
Strategies = Mapping[str, SearchStrategy[Any]]


class ClaimRefuted(AssertionError):
    """A counterexample to a claim. Any other exception of a check is an error of the check.

    Args:
        margin: by how much the claim fails, negative and finite.
        counterexample: the counterexample in words; the search fills it in.

    Raises:
        ValueError: if the margin is not negative and finite.

    >>> str(ClaimRefuted(-0.5, "x=3"))
    'x=3: margin -0.5'
    """

    def __init__(self, margin: float, counterexample: str = "") -> None:
        if not (math.isfinite(margin) and margin < 0):
            raise ValueError(f"margin: expected a negative finite number, got {margin!r}")
        super().__init__(f"{counterexample or 'counterexample'}: margin {margin:.4g}")
        self.margin = margin
        self.counterexample = counterexample


def universal(
    claim: Claim, check: Check, strategies: Strategies, *, examples: Sequence[Example] = (), minimum: int = MINIMUM
) -> Verdict:
    """A statement about every input: one counterexample refutes it, `minimum` distinct valid examples support it.

    The explicit examples come first. Then Hypothesis draws twice `minimum` examples, seeded by crc32 of the claim id,
    without database and deadline; if one refutes, a second run shrinks it. The effect is the smallest margin of what
    was drawn; `detail` names that example and the shrunk counterexample, which may depend on the time that shrinking
    took. Support is no proof: on a unit square the default search
    misses counterexamples that fill a box of 5 % of the area in less than .1 % of cases, of 2 % in 7 % and of 1 % in
    26 % (tests/harness/decide/test_planted.py).

    Args:
        claim: of kind "universal".
        check: takes the values by name and returns the margin by which the statement holds (negative if it fails), or
            raises ClaimRefuted. It may call hypothesis.assume; rejected examples do not count.
        strategies: name -> strategy of picklable values; values with equal pickles count once.
        examples: cases to try first, such as known counterexamples, as keyword arguments of `check`.
        minimum: how many distinct valid examples are needed. Lower it only for a space that has fewer.

    Raises:
        ValueError: if the claim is of another kind, minimum < 1, a margin is not finite, or the check's assumptions
            reject an explicit example.
        TypeError: if a value cannot be pickled.
        Exception: whatever else the check raises; hypothesis.errors.Unsatisfiable if it rejects every example.

    >>> from hypothesis import strategies as st
    >>> claim = Claim("thm.square", "x^2 >= 0.", "universal", "slack", "1", None, None, "Thm. 1", "a bound")
    >>> verdict = universal(claim, lambda x: x * x, {"x": st.integers(-99, 99)}, minimum=20)
    >>> verdict.outcome, verdict.effect
    ('supported', 0.0)
    """
    search, smallest = _run(claim, "universal", check, strategies, examples, minimum)
    return _verdict(claim, search, smallest, minimum, "margin", lambda margin: margin)


def exact(
    claim: Claim, check: Check, strategies: Strategies, *, examples: Sequence[Example] = (), minimum: int = MINIMUM
) -> Verdict:
    """An equality for every input, with the claim's margin as tolerance; without a margin, exactly.

    As `universal`, but `check` returns the error, >= 0, and the verdict's effect is the largest error seen.

    Raises:
        ValueError: as `universal`, and if an error is negative.

    >>> from hypothesis import strategies as st
    >>> claim = Claim("thm.half", "x/2 + x/2 = x.", "exact", "error", "1", 1e-12, None, "Eq. 1", "equal")
    >>> exact(claim, lambda x: abs(x / 2 + x / 2 - x), {"x": st.integers(0, 99)}, minimum=20).outcome
    'supported'
    """
    tolerance = claim.margin or 0.0

    def margin(**example: Any) -> float:
        error = float(check(**example))
        if error < 0:
            raise ValueError(f"check: expected an error >= 0, got {error} for {describe(example)}")
        return tolerance - error

    search, smallest = _run(claim, "exact", margin, strategies, examples, minimum)
    return _verdict(claim, search, smallest, minimum, "error", lambda margin: tolerance - margin)


def describe(example: Example) -> str:
    """An example as text: `name=value, ...`.

    >>> describe({"x": 0.5, "n": 3})
    'x=0.5, n=3'
    """
    return ", ".join(f"{name}={value!r}" for name, value in example.items())


class _Search:
    """Checks examples, counts the valid ones and remembers the worst."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.valid = 0
        self.distinct: set[tuple[bytes, ...]] = set()
        self.worst = (math.inf, "")

    def judge(self, **example: Any) -> float:
        """The margin of one example, negative if it refutes; it counts."""
        key = _key(example)
        margin = self._margin(example)
        self.valid += 1
        self.distinct.add(key)
        if margin < self.worst[0]:
            self.worst = margin, describe(example)
        return margin

    def hunt(self, **example: Any) -> None:
        """Raise refutations, all from this line: Hypothesis shrinks the errors of each line separately.

        Nothing counts, since shrinking ends after five minutes, wherever it is.
        """
        if (margin := self._margin(example)) < 0:
            raise ClaimRefuted(margin, describe(example))

    def _margin(self, example: Example) -> float:
        try:
            margin = float(self.check(**example))
        except ClaimRefuted as refutation:
            margin = refutation.margin
        if not math.isfinite(margin):
            raise ValueError(f"check: expected a finite number, got the margin {margin} for {describe(example)}")
        return margin


class _ByContent(pickle.Pickler):
    """Pickles tensors by their values; torch's own pickles also contain the number of a storage."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, torch.Tensor):
            return str, (f"{obj.dtype} {tuple(obj.shape)} {obj.tolist()}",)
        return NotImplemented


def _key(example: Example) -> tuple[bytes, ...]:
    """The digests of the pickles of an example's values; equal examples have equal keys."""
    keys = []
    try:
        for value in example.values():
            _ByContent(buffer := io.BytesIO()).dump(value)
            keys.append(hashlib.sha256(buffer.getbuffer()).digest())
        return tuple(keys)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(f"strategies: expected values that can be pickled, got {describe(example)}") from error


def _run(
    claim: Claim, kind: str, check: Check, strategies: Strategies, examples: Sequence[Example], minimum: int
) -> tuple[_Search, ClaimRefuted | None]:
    """The finished search and the smallest counterexample: one pass over everything, and one that shrinks."""
    if claim.kind != kind:
        raise ValueError(f"claim {claim.id!r}: kind: expected {kind!r} for this verdict, got {claim.kind!r}")
    if minimum < 1:
        raise ValueError(f"minimum: expected at least 1, got {minimum}")
    if not strategies:
        raise ValueError("strategies: expected at least one, got none")
    search = _Search(check)
    profile = settings(settings.get_profile("claims"), max_examples=2 * minimum)

    def attempt(judge: Callable[..., object], phases: Sequence[Phase], *tried: Example) -> None:
        def test(**example: Any) -> None:
            judge(**example)

        given_test = given(**strategies)(test)
        for example in tried:
            given_test = explicit(**example)(given_test)
        with same_draws():
            seed(claim_seed(claim.id))(settings(profile, phases=phases)(given_test))()

    for example in examples:
        before = search.valid
        attempt(search.judge, [Phase.explicit], example)
        if search.valid == before:
            raise ValueError(f"examples: expected ones that the check's assumptions allow, got {describe(example)}")
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
    smallest: ClaimRefuted | None,
    minimum: int,
    noun: str,
    effect: Callable[[float], float],
) -> Verdict:
    worst, where = search.worst
    tried = len(search.distinct)
    detail: dict[str, Any] = {"worst": {noun: effect(worst), "example": where}, "minimum": minimum}
    measured = f"worst {noun} {effect(worst):.3g} at {where}"
    if smallest is not None:
        outcome, reason = "refuted", f"a counterexample: {smallest.counterexample}"
        detail |= {"counterexample": {noun: effect(smallest.margin), "example": smallest.counterexample}}
        measured = f"fails at {smallest.counterexample} ({noun} {effect(smallest.margin):.3g}); {measured}"
    elif tried < minimum:
        outcome, reason = "inconclusive", f"only {tried} distinct valid examples, and {minimum} are needed"
    else:
        outcome, reason = "supported", f"no counterexample among {tried} distinct valid examples"
    detail["reason"] = reason
    return Verdict(claim.id, outcome, effect(worst), claim.unit, None, tried, 0, 1, None, "", measured, detail)
