"""Verdicts as rows of plain JSON, and the texts that every form of report shares. Nothing here measures or decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import Verdict

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a report is made from.

    Attributes:
        scale: at which the claims were measured.
        environment: name -> text of what the numbers depend on, in the order to be shown.
        rows: one per verdict, as `row` makes them.
        without_verdict: claim id -> why its test gave none ("its test failed", "not run").
        not_covered: ids of the register that no test decides on; None for a partial run, which cannot know.
        notices: lines that a reader must see, such as damaged files.
        baselines: one line per comparison with a stored baseline.

    >>> coverage(Run("small", {}, [], not_covered=["op.size", "op.depth", "thm"]))
    'not covered (no test yet): 3 rows: op.{size,depth} thm'
    """

    scale: str
    environment: Mapping[str, str]
    rows: Sequence[Row]
    without_verdict: Mapping[str, str] = field(default_factory=dict)
    not_covered: Sequence[str] | None = None
    notices: Sequence[str] = ()
    baselines: Sequence[str] = ()


def row(
    claim: Claim,
    verdict: Verdict,
    *,
    scale: str,
    seconds: float,
    cached: int = 0,
    tables: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[str] = (),
    **facts: str,
) -> Row:
    """A verdict and what the register says about the claim, as plain JSON.

    Args:
        scale: at which it was measured; the claim has an expectation for it.
        seconds: duration of the test.
        cached: number of blocks that an earlier run computed.
        tables: descriptions of the tables of blocks.
        pictures: paths relative to the report.
        facts: further texts, such as torch and commit.

    >>> from gia.harness.decide.register import Expectation
    >>> expected = {"small": Expectation("supported", "measured")}
    >>> claim = Claim("op.size", "Worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB", expected)
    >>> verdict = Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 8, 0, 1, 0.01, "Page", "psnr 24/22", {})
    >>> line(row(claim, verdict, scale="small", seconds=3.21))
    'op.size: supported: +2 [+1.5, +2.5] dB (margin 0.5); 8 blocks; 3.2 s'
    """
    expected = claim.expected[scale]
    return {
        "id": claim.id,
        "outcome": verdict.outcome,
        "expected": expected.outcome,
        "reason": expected.reason,
        "statement": claim.statement,
        "kind": claim.kind,
        "metric": claim.metric,
        "effect": verdict.effect,
        "unit": verdict.unit,
        "interval": None if verdict.interval is None else list(verdict.interval),
        "margin": claim.margin,
        "blocks": verdict.blocks,
        "void": verdict.void,
        "cached": cached,
        "look": verdict.look,
        "p": verdict.p,
        "p_name": verdict.p_name,
        "source": claim.source,
        "paper": claim.paper,
        "measured": verdict.measured,
        "why": str(verdict.detail.get("reason", "")),
        "scale": scale,
        "seconds": round(seconds, 3),
        "tables": [dict(table) for table in tables],
        "pictures": list(pictures),
        **facts,
    }


def as_expected(row: Row) -> bool:
    """Whether the outcome is the one that the register expects; True where nothing is expected (None).

    >>> as_expected({"outcome": "refuted", "expected": "refuted"})
    True
    """
    return row["expected"] is None or bool(row["outcome"] == row["expected"])


def outcome(row: Row) -> str:
    """The outcome in words: "supported", "refuted (expected)" or "inconclusive (expected: supported)".

    >>> outcome({"outcome": "refuted", "expected": "supported"})
    'refuted (expected: supported)'
    """
    if not as_expected(row):
        return f"{row['outcome']} (expected: {row['expected']})"
    plain = row["expected"] is None or row["outcome"] == "supported"
    return str(row["outcome"]) if plain else f"{row['outcome']} (expected)"


def line(row: Row) -> str:
    """One verdict in one line, for a log; see `row` for an example."""
    return ": ".join(filter(None, (row["id"], outcome(row), effect(row)))) + f"; {blocks(row)}; {row['seconds']:.1f} s"


def to_json(rows: Sequence[Row]) -> str:
    """The list of rows as JSON. Raises ValueError for a number that is not finite.

    >>> to_json([])
    '[]\\n'
    """
    return json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def effect(row: Row, *, margin: bool = True) -> str:
    """The effect, its interval, unit and margin; empty if nothing was measured.

    It has a sign, except for the kinds count and exact: see `gia.harness.decide.verdicts.Verdict`.

    >>> effect({"kind": "count", "effect": 60.0, "interval": [59.0, 61.0], "unit": "images", "margin": 2.0})
    '60 [59, 61] images (margin 2)'
    """
    if row["effect"] is None:
        return ""
    number = "{:.3g}" if row["kind"] in ("count", "exact") else "{:+.3g}"
    interval = "" if row["interval"] is None else f" [{number}, {number}]".format(*row["interval"])
    limit = f" (margin {row['margin']:.3g})" if margin and row["margin"] is not None else ""
    return f"{number.format(row['effect'])}{interval} {row['unit']}{limit}"


def blocks(row: Row) -> str:
    """How many blocks or examples stand behind a verdict, how many are void or cached, and which look it is.

    >>> blocks({"kind": "trend", "blocks": 14, "void": 2, "cached": 8, "look": 2})
    '14 blocks, 2 void, 8 cached, second look'
    """
    text = f"{row['blocks']} {'examples' if row['kind'] in ('universal', 'exact') else 'blocks'}"
    if row["void"]:
        text += f", {row['void']} void"
    if row["cached"]:
        text += f", {row['cached']} cached"
    if row["look"] > 1:
        text += ", second look"
    return text


def other_metrics(row: Row) -> list[str]:
    """The metrics that do not decide, level by level, and why blocks are void; one line each.

    A pair with further levels also shows the deciding metric, since the verdict has only the first two levels.
    """
    lines = []
    for table in row["tables"]:
        more_levels = row["kind"] in ("paired", "affected") and len(table["levels"]) > 2
        medians = {name: values for name, values in table["medians"].items() if more_levels or name != row["metric"]}
        numbers = (f"{name} {_per_level(values)}" for name, values in medians.items())
        if medians:
            lines.append(f"shown, {table['experiment']} at {'/'.join(table['levels'])}: {', '.join(numbers)}")
        lines += [f"void block {index}: {reason}" for index, reason in table["void"].items()]
    return lines


def remarks(run: Run) -> list[str]:
    """What a reader must know about the whole run: coverage, the cost of second looks, and notices; one line each."""
    added = {row["id"]: sum(table["second_look_seconds"] for table in row["tables"]) for row in run.rows}
    costs = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in added.items() if seconds)
    looks = [f"second looks added, in seconds of computing: {costs}"] if costs else []
    return [coverage(run), *looks, *run.notices]


def coverage(run: Run) -> str:
    """Which rows of the register no test decides on, grouped by what precedes the dot; see `Run` for an example."""
    if run.not_covered is None:
        return "This run selected a part of the claims; what is not covered shows in a full run."
    if not run.not_covered:
        return "Every row of the register has a test."
    groups: dict[str, list[str]] = {}
    for name in run.not_covered:
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, []).append(rest)
    listed = (prefix if rest == [""] else f"{prefix}.{{{','.join(rest)}}}" for prefix, rest in groups.items())
    return f"not covered (no test yet): {len(run.not_covered)} rows: " + " ".join(listed)


def _per_level(values: Sequence[float | None]) -> str:
    if all(value is None for value in values):
        return "n/a"
    return "/".join("n/a" if value is None else f"{value:.3g}" for value in values)
