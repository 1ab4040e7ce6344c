"""The claims of one test session: experiments are run, decided, recorded, and held against the register."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gia.harness import pictures
from gia.harness.blocks import draw_blocks
from gia.harness.decide import verdicts
from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import Verdict
from gia.harness.executor import Progress, run_blocks
from gia.harness.protocol import Experiment, Protocol
from gia.harness.report import rows as report
from gia.harness.run import Measure, measure
from gia.harness.store import Store, load_pictures
from gia.harness.table import LOOKS, Table, Value
from gia.harness.workers import Pool, spread

Level = TypeVar("Level", str, int, float)
Item = TypeVar("Item")
Result = TypeVar("Result")

#: How many -> their table.
Blocks = Callable[[int], Table]


class UnexpectedOutcomeError(AssertionError):
    """A verdict is not the one that the register states."""


@dataclass
class Context:
    """What a session gives to its claims; the plugin fills it.

    `current` is the running test's claim ids and its list of properties; `announce` prints a line, `progress` makes a
    reporter of blocks for a claim id.
    """

    register: Mapping[str, Claim]
    scale: str
    device: str
    root: str | None
    folder: Path
    store: Store
    workers: int | Pool
    facts: Mapping[str, str]
    announce: Callable[[str], object]
    progress: Callable[[str], Progress | None]
    current: Callable[[], tuple[Sequence[str], list[tuple[str, object]], float]]


class Claims:
    """The fixture `claims`. What decides records one verdict and fails the test if it is not as expected."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.rows: list[report.Row] = []

    @property
    def scale(self) -> str:
        """ "reduced" or "paper"."""
        return self._context.scale

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return self._context.device

    @property
    def fits(self) -> Path:
        """Where victims that blocks trained are kept, for `gia.harness.casting.keeping_fits`."""
        return self._context.store.fits

    @property
    def images(self) -> Path:
        """The run's folder for pictures; what lies there is kept with the report."""
        folder = self._context.folder / "images"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def claim(self, id: str) -> Claim:
        """The register's row. Raises ValueError for an unknown id."""
        if id not in self._context.register:
            near = difflib.get_close_matches(id, self._context.register, n=1)
            raise ValueError(f"id: the register has no claim {id!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return self._context.register[id]

    def table(
        self,
        id: str,
        protocol: Protocol,
        *,
        levels: Sequence[Level],
        change: Callable[[Protocol, Level], Protocol],
        blocks: int = LOOKS[0],
        measure: Measure = measure,
    ) -> Table:
        """Run the blocks of an experiment, or read them from the store: the same arguments give the same table.

        Args:
            id: names the experiment and seeds its blocks; usually the claim's id.
            protocol: what all levels share; what it varies is drawn per block.
            levels: what is compared inside each block; the control of the first decides whether the block is valid.
            change: (protocol, level) -> protocol of that level.
            blocks: how many.
            measure: (protocol, block) -> Measurement, module-level.
        """
        context = self._context
        protocol = replace(protocol, device=context.device, root=context.root)
        experiment = Experiment(id, {level: change(protocol, level) for level in levels})
        drawn = draw_blocks(id, protocol.vary, max(blocks, LOOKS[-1]))[:blocks]  # the space must hold a second look
        results = run_blocks(
            experiment, drawn, context.store, workers=context.workers, measure=measure, progress=context.progress(id)
        )
        return Table(experiment, results)

    def spread(self, id: str, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """A module-level function of each item, over the session's workers; `gia.harness.workers.spread`."""
        told = self._context.progress(id)
        tick = None if told is None else lambda done, every: told(done, every, 0)
        return spread(function, items, workers=self._context.workers, tick=tick)

    def cell(self, id: str, protocol: Protocol, *, x: Callable[[Any], float] = float, **experiment: Any) -> Verdict:
        """A cell of the matrix: a trend, a pair, an effect or none, whichever the register says; `x` is for a trend."""
        kind = self.claim(id).kind
        decide = {"paired": self.paired, "affected": self.affected, "equivalence": self.equivalence}
        if kind == "trend":
            return self.trend(id, protocol, x=x, **experiment)
        if kind not in decide:
            raise ValueError(f"id: {id!r} is of kind {kind!r} in the register, which compares no levels")
        return decide[kind](id, protocol, **experiment)

    def trend(self, id: str, protocol: Protocol, *, x: Callable[[Any], float] = float, **experiment: Any) -> Verdict:
        """A trend over ordered levels; `x` places them, in the register's unit (`math.log2` for "per doubling").

        This and the methods below take what `table` does, and:
            value: the metric that decides, or a function of a level's metrics; the claim's own metric by default. A
                tuple compares several metrics of one level as if they were levels.
            reported: level -> the paper's number, shown in the picture beside ours; `reported_as` says what it is.
        """
        places = [x(level) for level in experiment["levels"]]
        return self._decide(
            id, protocol, "trend", lambda claim, v, **look: verdicts.trend(claim, places, v, **look), **experiment
        )

    def paired(self, id: str, protocol: Protocol | Blocks, **experiment: Any) -> Verdict:
        """The second level against the first, block by block; further levels are shown beside them.

        In place of the protocol may stand a function of the number of blocks that gives their table, such as one that
        is made of two with `Table.beside`.
        """
        return self._decide(
            id, protocol, "paired", lambda claim, v, **look: verdicts.paired(claim, *_two(v), **look), **experiment
        )

    def affected(self, id: str, protocol: Protocol, **experiment: Any) -> Verdict:
        """Whether the second level differs from the first, in either direction; further levels are shown."""
        return self._decide(
            id, protocol, "affected", lambda claim, v, **look: verdicts.affected(claim, *_two(v), **look), **experiment
        )

    def equivalence(self, id: str, protocol: Protocol, *, shown: int = 0, **experiment: Any) -> Verdict:
        """Each level against the first: no effect beyond the margin. The last `shown` levels are not judged."""

        def decide(claim: Claim, values: np.ndarray, **look: Any) -> Verdict:
            return verdicts.equivalence(claim, values[:, : values.shape[1] - shown], **look)

        return self._decide(id, protocol, "equivalence", decide, **experiment)

    def count(
        self, id: str, protocol: Protocol, *, claimed: float | Sequence[float] | None = None, **experiment: Any
    ) -> Verdict:
        """The metric is the claimed number, one for all levels or one each; the register's by default."""

        def decide(claim: Claim, values: np.ndarray, **look: Any) -> Verdict:
            return verdicts.count(claim, values, claimed=claimed, **look)

        return self._decide(id, protocol, "count", decide, **experiment)

    def universal(self, id: str, check: Callable[..., float], strategies: Mapping[str, Any], **search: Any) -> Verdict:
        """`gia.harness.decide.counterexamples.universal` on the register's row, recorded."""
        from gia.harness.decide.counterexamples import universal

        return self.record(universal(self.claim(id), check, strategies, **search))

    def exact(self, id: str, check: Callable[..., float], strategies: Mapping[str, Any], **search: Any) -> Verdict:
        """`gia.harness.decide.counterexamples.exact` on the register's row, recorded."""
        from gia.harness.decide.counterexamples import exact

        return self.record(exact(self.claim(id), check, strategies, **search))

    def record(self, verdict: Verdict, *, tables: Sequence[Table] = (), pictures: Sequence[Path] = ()) -> Verdict:
        """Put a verdict on record, then raise UnexpectedOutcomeError if it is not the expected one.

        `tables` are the blocks behind it (their cached ones are counted), `pictures` files in `images` to show with it.
        Raises ValueError for a second verdict on one claim, or where the running test is not marked with its id.
        """
        claim = self.claim(verdict.id)
        ids, properties, began = self._context.current()
        if claim.id not in ids:
            raise ValueError(f"id: a test with a verdict on {claim.id!r} must be marked claim({claim.id!r})")
        if any(row["id"] == claim.id for row in self.rows):
            raise ValueError(f"id: {claim.id!r} already has a verdict in this run; one row, one test, one verdict")
        row = report.row(
            claim,
            verdict,
            scale=self.scale,
            seconds=time.perf_counter() - began,
            cached=sum(table.cached for table in tables),
            tables=[table.described() for table in tables],
            pictures=[path.relative_to(self._context.folder).as_posix() for path in pictures],
            **self._context.facts,
        )
        self.rows.append(row)
        properties += [(f"claim.{name}", row[name]) for name in _PROPERTIES]
        self.write()
        self._context.announce(report.line(row))
        if not report.as_expected(row):
            raise UnexpectedOutcomeError(
                f"{report.line(row)}\n  claim: {claim.statement}\n"
                f"  measured at {self.scale} scale: {verdict.measured}; {row['why']}\n"
                f"  the register expects {row['expected']!r} because: {row['reason']}\n"
                "  If the measurement is right, move `expected` in a commit that states this evidence."
            )
        return verdict

    def write(self) -> None:
        """Write verdicts.json with what is finished."""
        self._context.folder.mkdir(parents=True, exist_ok=True)
        partial = self._context.folder / "verdicts.json.partial"
        partial.write_text(report.to_json(self.rows), encoding="utf-8")
        partial.replace(self._context.folder / "verdicts.json")

    def _decide(
        self,
        id: str,
        protocol: Protocol | Blocks,
        kind: str,
        decide: Callable[..., Verdict],
        *,
        value: str | Value | tuple[str, ...] | None = None,
        reported: Mapping[Any, float] | None = None,
        reported_as: str = "the paper",
        **experiment: Any,
    ) -> Verdict:
        """One look at eight blocks, and after an inconclusive one a second and last look at sixteen."""
        claim = self.claim(id)
        if claim.kind != kind:
            raise ValueError(f"id: {id!r} is of kind {claim.kind!r} in the register, not {kind!r}")
        for look, count in enumerate(LOOKS, start=1):
            if isinstance(protocol, Protocol):
                table = self.table(id, protocol, blocks=count, **experiment)
            else:
                table = protocol(count)
            verdict = decide(claim, table.values(value or claim.metric), void=table.void, look=look)
            if not verdicts.needs_second_look(verdict):
                break
        shown = self.draw(id, table, value, reported=reported, reported_as=reported_as)
        return self.record(verdict, tables=[table], pictures=shown)

    def draw(
        self,
        id: str,
        table: Table,
        value: str | Value | tuple[str, ...] | None = None,
        *,
        reported: Mapping[Any, float] | None = None,
        reported_as: str = "the paper",
    ) -> list[Path]:
        """The metric over the levels, and the first valid block's images: none of them chosen."""
        claim = self.claim(id)
        value = value or claim.metric
        if not table.valid:
            return []
        paths = [self.images / f"{claim.id}-levels.png"]
        pictures.curves(
            paths[0],
            table.values(value),
            levels=list(value) if isinstance(value, tuple) else table.levels,
            metric=claim.metric,
            title=f"{claim.id}, {self.scale} scale",
            blind=_blind(table, claim.metric),
            reported={str(level): number for level, number in (reported or {}).items()},
            reported_as=reported_as,
        )
        if arrays := load_pictures(table.valid[0]):
            rows: dict[str, np.ndarray] = {}
            for label in table.levels:
                originals = arrays[f"{label}/originals"]
                if not any(np.array_equal(originals, shown) for shown in rows.values()):
                    rows[f"private {label}" if rows else "private"] = originals
                rows[label] = arrays[f"{label}/reconstructions"]
            paths.append(self.images / f"{claim.id}.png")
            pictures.grid(paths[1], rows)
        return paths


_PROPERTIES = ("id", "outcome", "expected", "effect", "unit", "interval", "margin", "blocks", "void", "cached", "scale")


def _two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if values.shape[1] < 2:
        raise ValueError(f"levels: expected at least two, A and B, got {values.shape[1]}")
    return values[:, 0], values[:, 1]


def _blind(table: Table, metric: str) -> float | None:
    seen = [
        detail["blind"][metric]
        for result in table.valid
        for detail in result.details.values()
        if metric in detail.get("blind", {})
    ]
    return float(np.median(seen)) if seen else None
