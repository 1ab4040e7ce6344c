"""The report as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterable

from gia.harness.report.rows import Run, blocks, effect, other_metrics, outcome, remarks, standing, summary

SIGNS = (
    "Effects of trends and pairs are positive in the claimed direction. Effects of the kinds affected and equivalence "
    "are a level minus the first, effects of universal claims the smallest margin by which they hold."
)


def markdown(run: Run) -> str:
    """The verdicts as one table, what a reader must know about the run, baselines, and the pictures of each row.

    >>> print(markdown(Run("small", {"torch": "2.14.1"}, [], not_covered=[])))
    # Verdicts at small scale
    <BLANKLINE>
    0 verdicts in 0 families: 0 supported, 0 refuted, 0 inconclusive. Measured at small scale, which is not the \
paper's experiment: its numbers are shown next to ours.
    <BLANKLINE>
    torch 2.14.1
    <BLANKLINE>
    - Every row of the register has a test.
    <BLANKLINE>
    """
    parts = [
        f"# Verdicts at {run.scale} scale",
        f"{summary(run.rows)}. Measured at {run.scale} scale, which is not the paper's experiment: its numbers are "
        "shown next to ours.",
        " · ".join(f"{name} {text}" for name, text in run.environment.items()),
    ]
    if run.rows:
        header = ("claim", "verdict", "effect [interval]", "margin", "blocks", "the paper", f"at {run.scale} scale")
        table = [table_line(header), table_line(["---"] * len(header))]
        for row in run.rows:
            mark = "**" if row["disagrees"] else ""
            cells = (
                f"`{row['id']}` {row['statement']}",
                f"{mark}{outcome(row)}{mark}",
                effect(row, margin=False) or "-",
                "-" if row["margin"] is None else f"{row['margin']:.3g} {row['unit']}",
                blocks(row),
                f"{row['paper']} ({row['source']})",
                "; ".join((row["measured"], *standing(row), *other_metrics(row))),
            )
            table.append(table_line(cells))
        parts += ["\n".join(table), SIGNS]
    if run.without_verdict:
        parts.append("\n".join(f"- **no verdict** on `{name}`: {why}" for name, why in run.without_verdict.items()))
    parts += [f"- {text}" for text in remarks(run)]
    if run.baselines:
        parts.append("## Baselines\n\n" + "\n".join(f"- {text}" for text in run.baselines))
    if with_pictures := [row for row in run.rows if row["pictures"]]:
        parts.append("## Pictures")
        for row in with_pictures:
            parts += [f"`{row['id']}`", "\n".join(f"![{row['id']}]({path})" for path in row["pictures"])]
    return "\n\n".join(parts) + "\n"


def table_line(texts: Iterable[str]) -> str:
    """One line of a table; what would break it is escaped.

    >>> table_line(["a | b", "c"])
    '| a \\\\| b | c |'
    """
    return "| " + " | ".join(" ".join(text.replace("|", "\\|").split()) for text in texts) + " |"
