"""The report on the terminal."""

from __future__ import annotations

import textwrap

from gia.harness.report.rows import Run, blocks, effect, other_metrics, outcome, remarks, standing, summary


def terminal(run: Run, width: int = 100) -> str:
    """The verdicts as text: for each row the verdict, then the paper's numbers and ours.

    >>> print(terminal(Run("small", {}, [], without_verdict={"op.size": "its test failed"}, not_covered=[])))
    NOT op.size: no verdict, its test failed
    Every row of the register has a test.
    """
    longest = max((len(row["id"]) for row in run.rows), default=0)
    lines = []
    for row in run.rows:
        mark = "NOT" if row["disagrees"] else "ok "
        verdict = ": ".join(filter(None, (outcome(row), effect(row))))
        lines.append(f"{mark} {row['id']:<{longest}}  {verdict}; {blocks(row)}")
        paper, here = f"paper: {row['paper']}  [{row['source']}]", f"here, {run.scale}: {row['measured']}"
        for text in (paper, here, *standing(row), *other_metrics(row)):
            lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="        ")
    lines += [f"NOT {name}: no verdict, {why}" for name, why in run.without_verdict.items()]
    lines += [summary(run.rows)] if run.rows else []
    for text in (*remarks(run), *(f"baseline {text}" for text in run.baselines)):
        lines += textwrap.wrap(text, width, subsequent_indent="    ") if text else [""]
    return "\n".join(lines)
