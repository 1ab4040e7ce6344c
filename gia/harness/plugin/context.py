"""What a session gives to its claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gia.harness.blocks.ahead import Wanted
from gia.harness.blocks.executor import Progress
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Workers
from gia.harness.decide.register import Claim, Register
from gia.harness.plugin.confirm import Confirm
from gia.harness.plugin.laboratory import Laboratory, Substitution
from gia.harness.plugin.lanes import Lane
from gia.harness.plugin.placebos import Placebos
from gia.harness.plugin.plan import Plan
from gia.harness.plugin.records import Records


@dataclass
class Context:
    """What a session gives to its claims; the plugin fills it.

    Attributes:
        lane: which blocks are drawn, and how often they are looked at.
        records: of earlier runs.
        confirm: which rows may be confirmed; None in another lane.
        store_because: why this run's verdicts go on record; None where they are compared with it.
        storing: whether blocks are only stored, and no row gets a verdict.
        plan: notes what rows cost where nothing is measured; None where rows are measured.
        placebos: what takes the place of each attack; None where the attacks run.
        substitute: level -> the level with the user's attack and defenses, or why they cannot take it; None without.
        announce: prints a line.
        progress: makes a reporter of blocks for a claim id.
        current: the running test's claim ids, its list of properties, and when it began.
        wanted: where this is a list, a test is only asked what it measures first, which is added to it.
    """

    register: Register
    scale: str
    device: str
    root: str | None
    folder: Path
    store: Store
    workers: int | Workers
    facts: Mapping[str, str]
    laboratory: Laboratory
    lane: Lane
    records: Records
    confirm: Confirm | None
    store_because: str | None
    storing: bool
    plan: Plan | None
    placebos: Placebos | None
    substitute: Substitution | None
    announce: Callable[[str], object]
    progress: Callable[[str], Progress | None]
    current: Callable[[], tuple[Sequence[str], list[tuple[str, object]], float]]
    wanted: list[Wanted] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The claims that the running test is marked with."""
        return tuple(self.current()[0])

    @property
    def frozen(self) -> str | None:
        """The commit at which the confirm run of the running test's row was announced."""
        entry = next((self.records.ledger.opened(id) for id in self.ids), None)
        return None if entry is None else entry.commit

    @property
    def images(self) -> Path:
        """The run's folder for pictures."""
        folder = self.folder / "images"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def claim(self, id: str) -> Claim:
        """The register's row. Raises ValueError for an unknown id."""
        return self.register.claim(id)

    def tries(self, id: str) -> int:
        """Which confirm run of a row this is, which widens its intervals; 1 in other lanes."""
        return 1 if self.confirm is None else max(1, self.records.ledger.tries(id))
