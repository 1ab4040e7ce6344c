"""Verdicts as rows of plain JSON, and the texts that every form of report shares. Nothing here measures or decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gia.harness.decide.record import FIRST
from gia.harness.decide.register import OUTCOMES, Claim
from gia.harness.decide.verdicts import Verdict

Row = dict[str, Any]

#: In place of an outcome: the row calls no attack that a placebo could take the place of.
NOT_APPLICABLE = "not applicable"


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
    digest: str = "",
    tables: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[str] = (),
    history: str = "",
    recorded: Mapping[str, Any] | None = None,
    reach: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Row:
    """A verdict and what the register and the records say about the claim, as plain JSON.

    Args:
        scale: at which it was measured.
        seconds: duration of the test.
        cached: number of blocks that an earlier run computed.
        digest: of the lane, the levels and the drawn settings.
        tables: descriptions of the tables of blocks.
        pictures: paths relative to the report.
        history: which protocol of the row this is, and its earlier outcomes.
        recorded: what the lane's record says of the row; its outcome and commit are kept.
        reach: the stored entry of the row's reach; its shares are kept.
        facts: further values, such as torch and commit.

    >>> claim = Claim("op.size", "Worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
    >>> verdict = Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 8, 0, 1, 0.01, "Page", "psnr 24/22", {})
    >>> line(row(claim, verdict, scale="small", seconds=3.21))
    'op.size: supported: +2 [+1.5, +2.5] dB (margin 0.5); 8 blocks; 3.2 s'
    """
    return {
        "id": claim.id,
        "outcome": verdict.outcome,
        "paper_says": claim.paper_says,
        "recorded": None if recorded is None else {name: recorded.get(name) for name in ("outcome", "commit")},
        "disagrees": "",
        "notice": "",
        "by_construction": claim.by_construction,
        "history": history,
        "reach": None if reach is None else dict(reach["shares"]),
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
        "direction": str(verdict.detail.get("direction", "")),
        "digest": digest,
        "scale": scale,
        "seconds": round(seconds, 3),
        "tables": [dict(table) for table in tables],
        "pictures": list(pictures),
        **facts,
    }


def outcome(row: Row) -> str:
    """The outcome in words, with what the paper says where the two differ and what is known beyond the interval.

    >>> outcome({"outcome": "refuted", "paper_says": "supported", "by_construction": None, "direction": ""})
    'refuted (paper: supported)'
    """
    notes = []
    if row["outcome"] in OUTCOMES and row["paper_says"] not in (row["outcome"], "nothing"):
        notes.append(f"paper: {row['paper_says']}")
    if row["direction"] == "certain":
        notes.append("direction certain, size not")
    if row["by_construction"]:
        notes.append("by construction")
    return f"{row['outcome']} ({', '.join(notes)})" if notes else str(row["outcome"])


def standing(row: Row) -> list[str]:
    """What is shown with a verdict: its record, its reach, its history, and why it holds by construction.

    >>> holds = {"holds": {"count": 18, "share": 0.75, "interval": [0.45, 0.93], "of_live": 0.9}}
    >>> beside = {"disagrees": "", "notice": "", "recorded": {"outcome": "supported", "commit": "ab12"}, "reach": holds}
    >>> standing({**beside, "history": "protocol 2", "by_construction": None, "outcome": "supported", "why": ""})
    ['record: supported (ab12)', 'reach: holds 75 % [45, 93] of all settings, 90 % of live ones', 'history: protocol 2']
    """
    lines = [] if row.get("without") is None else [with_and_without(row)]
    if row["disagrees"] or row["notice"]:
        lines += [text for text in (row["disagrees"], row["notice"]) if text]
    elif row["recorded"] is not None:
        lines.append(f"record: {row['recorded']['outcome']} ({row['recorded']['commit']})")
    if row["reach"] is not None:
        lines.append(f"reach: {reach(row['reach'])}")
    if row["history"]:
        lines.append(f"history: {row['history']}")
    if row["by_construction"]:
        lines.append(f"by construction: {row['by_construction']}")
    if row["outcome"] == "inconclusive" and row["why"]:
        lines.append(f"inconclusive: {row['why']}")
    return lines


def attention(row: Row) -> list[str]:
    """Why a reader should look at a row; a first run, which no record holds against, is no reason.

    >>> attention({"disagrees": "", "notice": "first run: nothing to compare with"})
    []
    """
    return [text for text in (row["disagrees"], row["notice"]) if text and text != FIRST]


def with_and_without(row: Row) -> str:
    """The effect of a row on record, and with the attack or the defenses of the user.

    >>> row = {"kind": "trend", "unit": "dB", "effect": 0.1449, "outcome": "inconclusive"}
    >>> with_and_without({**row, "without": {"outcome": "supported", "effect": 76.2}})
    'without it: +76.2 dB, supported (on record); with it: +0.145 dB, inconclusive'
    """

    def said(verdict: Mapping[str, Any]) -> str:
        number = effect({**row, "effect": verdict["effect"], "interval": None}, margin=False) or "no effect"
        return f"{number}, {verdict['outcome']}"

    return f"without it: {said(row['without'])} (on record); with it: {said(row)}"


def reach(shares: Mapping[str, Mapping[str, Any]]) -> str:
    """The shares of the settings of a space in one line; what no setting shows is left out.

    >>> reach({"dead": {"count": 24, "share": 1.0, "interval": [0.8, 1.0], "of_live": None}, "holds": {"count": 0}})
    'dead 100 % [80, 100] of all settings'
    """
    parts: list[str] = []
    for name, found in shares.items():
        if found["count"]:
            low, high = (100 * end for end in found["interval"])
            text = f"{name} {100 * found['share']:.0f} % [{low:.0f}, {high:.0f}]"
            text += " of all settings" if not parts else ""
            parts.append(text if found["of_live"] is None else f"{text}, {100 * found['of_live']:.0f} % of live ones")
    return "; ".join(parts)


def summary(rows: Sequence[Row]) -> str:
    """How many verdicts of each outcome there are, rows that hold by construction apart, and how many families.

    Rows whose tables share an experiment share blocks, and form a family; every other row is a family by itself.

    >>> a = {"id": "a", "outcome": "supported", "by_construction": None, "tables": [{"experiment": "x"}]}
    >>> b = {"id": "b", "outcome": "refuted", "by_construction": None, "tables": [{"experiment": "x"}]}
    >>> c = {"id": "c", "outcome": "supported", "by_construction": "algebra", "tables": []}
    >>> summary([a, b, c])
    '2 verdicts in 1 family: 1 supported, 1 refuted, 0 inconclusive; and 1 by construction: 1 supported'
    """
    evidence = [row for row in rows if not row["by_construction"]]
    given = [row["outcome"] for row in rows if row["by_construction"]]
    outcomes = [row["outcome"] for row in evidence]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in OUTCOMES)
    named = families(evidence)
    text = f"{_count(evidence, 'verdict', 'verdicts')} in {_count(named, 'family', 'families')}: {counts}"
    if given:
        each = ", ".join(f"{given.count(name)} {name}" for name in OUTCOMES if name in given)
        text += f"; and {len(given)} by construction: {each}"
    return text


def families(rows: Sequence[Row]) -> list[set[str]]:
    """The ids of rows that share blocks, directly or through other rows."""
    found: list[tuple[set[str], set[str]]] = []  # ids, experiments
    for row in rows:
        ids, experiments = {row["id"]}, {table["experiment"] for table in row["tables"]}
        apart = []
        for others, theirs in found:
            if experiments & theirs:
                ids |= others
                experiments |= theirs
            else:
                apart.append((others, theirs))
        found = [*apart, (ids, experiments)]
    return [ids for ids, _ in found]


def line(row: Row) -> str:
    """One verdict in one line, for a log; see `row` for an example."""
    return ": ".join(filter(None, (row["id"], outcome(row), effect(row)))) + f"; {blocks(row)}; {row['seconds']:.1f} s"


def to_json(rows: Sequence[Row]) -> str:
    """The list of rows as JSON. Raises ValueError for a number that is not finite.

    >>> to_json([])
    '[]\\n'
    """
    return json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def verdicts_schema() -> dict[str, Any]:
    """The JSON schema of `verdicts.json`.

    >>> verdicts_schema()["type"]
    'array'
    """
    found: dict[str, Any] = json.loads(Path(__file__).with_name("verdicts.schema.json").read_text(encoding="utf-8"))
    return found


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
        text += f", {('second', 'third')[row['look'] - 2]} look"
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
        if table["void"]:
            lines += [f"void block {index}: {reason}" for index, reason in table["void"].items()]
            lines.append(f'conditional on "the path works"; void of drawn: {_void_shares(table["void_shares"])}')
        if behind := ", ".join(f"{count} {what}" for what, count in table["behind"].items() if count):
            lines.append(f"behind it: {row['blocks']} blocks, each with its own victim; {behind}")
        if any(ends := table["controls"].values()):
            named = ", ".join(f"{count} {name}" for name, count in table["controls"].items())
            lines.append(f"searches of the controls, {sum(ends)} in all: {named}")
    return lines


def remarks(run: Run) -> list[str]:
    """What a reader must know about the whole run: coverage, the cost of further looks, and notices; one line each."""
    added = {row["id"]: sum(sum(table["seconds_per_look"][1:]) for table in row["tables"]) for row in run.rows}
    costs = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in added.items() if seconds)
    looks = [f"further looks added, in seconds of computing: {costs}"] if costs else []
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


def _count(things: Sequence[Any], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def _void_shares(shares: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    each = (
        f"{factor} {', '.join(f'{value} {void}/{drawn}' for value, (void, drawn) in values.items() if void)}"
        for factor, values in shares.items()
    )
    return "; ".join(each) or "nothing is drawn"


def _per_level(values: Sequence[float | None]) -> str:
    if all(value is None for value in values):
        return "n/a"
    return "/".join("n/a" if value is None else f"{value:.3g}" for value in values)
