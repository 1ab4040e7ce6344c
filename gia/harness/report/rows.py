"""Rows of verdicts as JSON, as a table on the terminal and as Markdown. Nothing here measures or decides."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gia.harness.decide.register import Claim
    from gia.harness.decide.verdicts import Verdict

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a report is made of.

    Attributes:
        scale, environment: at which scale and on what (name -> text, in the order to be shown).
        rows: one per verdict, as `row` makes them.
        without_verdict: claim id -> why its test gave none ("its test failed", "not run").
        not_covered: ids of the register that no test is about; None where the run cannot know, being partial.
        notices: lines that a reader must see, such as damaged files.
        baselines: one line per comparison with a stored baseline.
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
    """One verdict beside what the register says of it, as plain JSON; `facts` such as torch and commit are added."""
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
    """Whether the outcome is the one that the register states."""
    return bool(row["outcome"] == row["expected"])


def outcome(row: Row) -> str:
    """The outcome in words: "supported", "refuted (expected)", "inconclusive (expected: supported)"."""
    if not as_expected(row):
        return f"{row['outcome']} (expected: {row['expected']})"
    return "supported" if row["outcome"] == "supported" else f"{row['outcome']} (expected)"


def line(row: Row) -> str:
    """One verdict in one line, for a log."""
    return f"{row['id']}: {outcome(row)}{_effect(row)}; {_blocks(row)}; {row['seconds']:.1f} s"


def to_json(rows: Sequence[Row]) -> str:
    """The list of rows; a number that is not finite raises ValueError."""
    return json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def terminal(run: Run, width: int = 100) -> str:
    """The verdict table as text: per row the verdict, then the paper's words and numbers beside ours."""
    longest = max((len(row["id"]) for row in run.rows), default=0)
    lines = []
    for row in run.rows:
        mark = "ok " if as_expected(row) else "NOT"
        lines.append(f"{mark} {row['id']:<{longest}}  {outcome(row)}{_effect(row)}; {_blocks(row)}")
        told = [f"paper: {row['paper']}  [{row['source']}]", f"here, {run.scale}: {row['measured']}", *_shown(row)]
        for text in told:
            lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="        ")
    lines += [f"NOT {name}: no verdict, {why}" for name, why in run.without_verdict.items()]
    for text in (*_coverage(run), *_looks(run), *(f"baseline {text}" for text in run.baselines), *run.notices):
        lines += textwrap.wrap(text, width, subsequent_indent="    ") if text else [""]
    return "\n".join(lines)


def markdown(run: Run) -> str:
    """The same as a Markdown document with the pictures of each row."""
    outcomes = [row["outcome"] for row in run.rows]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in ("supported", "refuted", "inconclusive"))
    unexpected = sum(not as_expected(row) for row in run.rows)
    parts = [
        f"# Verdicts at {run.scale} scale",
        f"{len(run.rows)} verdicts: {counts}; {unexpected} not as expected. "
        f"Measured at {run.scale} scale, which is not the paper's experiment: its numbers stand beside ours.",
        " · ".join(f"{name} {text}" for name, text in run.environment.items()),
    ]
    if run.rows:
        header = ("claim", "verdict", "effect [interval]", "margin", "blocks", "the paper", f"at {run.scale} scale")
        table = [_cells(header), _cells(["---"] * len(header))]
        for row in run.rows:
            mark = "" if as_expected(row) else "**"
            table.append(
                _cells(
                    (
                        f"`{row['id']}` {row['statement']}",
                        f"{mark}{outcome(row)}{mark}",
                        _effect(row).removeprefix(": ").split(" (margin")[0] or "-",
                        "-" if row["margin"] is None else f"{row['margin']:.3g} {row['unit']}",
                        _blocks(row),
                        f"{row['paper']} ({row['source']})",
                        "; ".join((row["measured"], *_shown(row))),
                    )
                )
            )
        parts.append("\n".join(table))
    if run.without_verdict:
        parts.append("\n".join(f"- **no verdict** on `{name}`: {why}" for name, why in run.without_verdict.items()))
    parts += [f"- {text}" for text in (*_coverage(run), *_looks(run), *run.notices)]
    if run.baselines:
        parts.append("## Baselines\n\n" + "\n".join(f"- {text}" for text in run.baselines))
    if shown := [row for row in run.rows if row["pictures"]]:
        parts.append("## Pictures")
        for row in shown:
            parts += [f"`{row['id']}`", "\n".join(f"![{row['id']}]({path})" for path in row["pictures"])]
    return "\n\n".join(parts) + "\n"


def _effect(row: Row) -> str:
    if row["effect"] is None:
        return ""
    interval = "" if row["interval"] is None else " [{:+.3g}, {:+.3g}]".format(*row["interval"])
    margin = "" if row["margin"] is None else f" (margin {row['margin']:.3g})"
    return f": {row['effect']:+.3g}{interval} {row['unit']}{margin}"


def _blocks(row: Row) -> str:
    what = "examples" if row["kind"] in ("universal", "exact") else "blocks"
    text = f"{row['blocks']} {what}"
    if row["void"]:
        text += f", {row['void']} void"
    if row["cached"]:
        text += f", {row['cached']} cached"
    if row["look"] > 1:
        text += ", second look"
    return text


def _shown(row: Row) -> list[str]:
    """The metrics that do not decide, level by level, and why blocks are void.

    Of a pair with further levels beside it, the deciding metric too: the verdict's line has but the two.
    """
    lines = []
    for table in row["tables"]:
        beside = row["kind"] in ("paired", "affected") and len(table["levels"]) > 2
        medians = {name: values for name, values in table["medians"].items() if beside or name != row["metric"]}
        numbers = (f"{name} {_per_level(values)}" for name, values in medians.items())
        if medians:
            lines.append(f"shown, {table['experiment']} at {'/'.join(table['levels'])}: {', '.join(numbers)}")
        lines += [f"void block {index}: {reason}" for index, reason in table["void"].items()]
    return lines


def _per_level(values: Sequence[float | None]) -> str:
    if all(value is None for value in values):
        return "n/a"
    return "/".join("n/a" if value is None else f"{value:.3g}" for value in values)


def _looks(run: Run) -> list[str]:
    """What second looks added to the cost."""
    added = {row["id"]: sum(table["second_look_seconds"] for table in row["tables"]) for row in run.rows}
    told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in added.items() if seconds)
    return [f"second looks added, in seconds of computing: {told}"] if told else []


def _coverage(run: Run) -> list[str]:
    """Rows of the register that no test is about, by attack type or subject."""
    if run.not_covered is None:
        return ["This run selected a part of the claims; what is not covered shows in a full run."]
    if not run.not_covered:
        return ["Every row of the register has a test."]
    groups: dict[str, list[str]] = {}
    for name in run.not_covered:
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, []).append(rest)
    listed = (prefix if rest == [""] else f"{prefix}.{{{','.join(rest)}}}" for prefix, rest in groups.items())
    return [f"not covered (no test yet): {len(run.not_covered)} rows: " + " ".join(listed)]


def _cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(text.replace("|", "\\|").split()) for text in texts) + " |"
