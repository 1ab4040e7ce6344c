"""Confirm runs: announced in the ledger at a frozen commit, run once, and computed again at four times the budget."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gia.harness.blocks.experiment import Experiment
from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import Verdict
from gia.harness.plugin.records import Records
from gia.numerics import digest_of

#: Each attack's budget at which the row is computed again.
BUDGET = 4

BUDGET_DEPENDENT = "budget-dependent"

#: What confirm runs and reach write; nothing else may differ from the frozen commit.
_WRITTEN = ("baselines/confirm*.json", "baselines/reach*.json", "baselines/ledger.json", "claims/ledger.toml")

#: What changes no claim that is announced: sources and words.
_WORDS = {"source", "paper", "paper_says", "by_construction", "reported"}


class Confirm:
    """Which rows may be confirmed in a working tree, and their announcements.

    Raises ValueError where the tree is dirty, or under no version control.
    """

    def __init__(self, root: Path, records: Records) -> None:
        self._root, self._records = root, records
        self.head = _git(root, "rev-parse", "HEAD").strip()
        if dirty := _git(root, "status", "--porcelain", "--", ".", *_others()).splitlines():
            raise ValueError(f"expected a working tree without changes, got {dirty[0]!r} and {len(dirty) - 1} more")
        self._moved: dict[str, list[str]] = {}  # frozen commit -> what changed since

    def obstacle(self, id: str) -> str | None:
        """Why a row is not run: it has its result, was not announced, or the code changed since."""
        entry, record = self._records.ledger.opened(id), self._records.rows("confirm").get(id)
        if entry is None:
            return "not confirmed yet: no run was announced (nox -s confirm -- --open)"
        if record is not None and record["frozen"] == entry.commit:
            return f"confirmed already, at {entry.commit[:7]}"
        if moved := self._since(entry.commit):
            return (
                f"not confirmed yet: announced at {entry.commit[:7]}, and {moved[0]} changed since; run it in a "
                "worktree of that commit with the ledger's changes"
            )
        return None

    def announce(self, digests: Mapping[str, str]) -> list[str]:
        """Enter the rows that have no present result for these protocols, claim id -> digest; returns those ids."""
        announced = []
        for id, digest in digests.items():
            record, entry = self._records.current("confirm", id), self._records.ledger.opened(id)
            done = record is not None and record["protocol"] == digest
            waiting = entry is not None and entry.digest == digest and not self._since(entry.commit)
            if not done and not waiting:
                self._records.enter(
                    "opened", id, digest=digest, commit=self.head, reason="Announced before its first confirm block."
                )
                announced.append(id)
        return announced

    def _since(self, commit: str) -> list[str]:
        if commit not in self._moved:
            self._moved[commit] = _git(self._root, "diff", "--name-only", commit, "--", ".", *_others()).splitlines()
        return self._moved[commit]


def protocol_digest(claim: Claim, experiments: Sequence[Experiment]) -> str:
    """Of what is announced: the register's row except for its words, and every level of what is measured for it."""
    facts = {name: value for name, value in asdict(claim).items() if name not in _WORDS}
    levels = {
        digest_of([experiment.id, [[str(label), level.described()] for label, level in experiment.levels.items()]])
        for experiment in experiments
    }
    return digest_of([facts, sorted(levels)])


def budget_dependent(claim: Claim, verdict: Verdict, again: Verdict) -> bool:
    """Whether a median effect lies on another side of the margin at another budget.

    Args:
        verdict: at the budget of the protocol; every comparison counts where it is supported, else the shown one.
        again: at the other budget, over the first eight of its blocks.

    >>> claim = Claim("op.size", "Worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
    >>> def verdict(effect):
    ...     detail = {"effects": [[effect]] * 8, "shown": 0}
    ...     return Verdict("op.size", "supported", effect, "dB", (0, 9), 8, 0, 1, None, "", "", detail)
    >>> [budget_dependent(claim, verdict(2.0), verdict(effect)) for effect in (0.6, 0.4)]
    [False, True]
    """
    if claim.margin is None or "effects" not in verdict.detail or "effects" not in again.detail:
        return False
    sides = []
    for one in (verdict, again):
        effects = np.atleast_2d(one.detail["effects"])
        if not effects.size:
            return True  # no path works at the other budget
        medians = np.median(effects, axis=0) - np.asarray(verdict.detail.get("claimed", 0.0))
        beyond = (medians > claim.margin).astype(int)
        sides.append(beyond if claim.kind in ("trend", "paired") else beyond - (medians < -claim.margin))
    differ = sides[0] != sides[1]
    return bool(differ.any() if verdict.outcome == "supported" else differ[verdict.detail["shown"]])


def _others() -> list[str]:
    return [f":(exclude,glob){path}" for path in _WRITTEN]


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        raise ValueError(f"expected a working tree under git, got: {why.strip()}") from error
    return done.stdout
