"""Blocks over worker processes: each finished block is stored at once, and a crash reaches the test that asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gia.harness.blocks import Block
from gia.harness.casting import keeping_fits
from gia.harness.controls import Control
from gia.harness.protocol import Experiment
from gia.harness.run import Measure, measure
from gia.harness.workers import Job, Pool
from gia.numerics import reproducible

if TYPE_CHECKING:
    from gia.harness.store import Store

#: Called as (blocks done, blocks in all, of these from the store) now and then while blocks are computed.
Progress = Callable[[int, int, int], object]


@dataclass(frozen=True)
class BlockResult:
    """One block: label of each level -> metric -> value; no levels where the control failed (`valid` is False).

    `seconds` is what the block cost when it was computed, `cached` whether that was in an earlier run;
    `pictures` are the stored files with arrays "LABEL/originals" and "LABEL/reconstructions".
    """

    block: Block
    levels: Mapping[str, Mapping[str, float | None]]
    control: Control | None
    valid: bool
    seconds: float
    gradient_evaluations: int
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cached: bool = False
    pictures: tuple[Path, ...] = ()


Arrays = dict[str, np.ndarray]
Done = tuple[BlockResult, Arrays]


def run_block(experiment: Experiment, block: Block, measure: Measure = measure, fits: Path | None = None) -> Done:
    """Run the control and then all levels of one block, with one thread; the second value is its pictures.

    Victims that are trained for it are kept in the folder `fits`.
    """
    began = time.perf_counter()
    levels: dict[str, Mapping[str, float | None]] = {}
    details: dict[str, Mapping[str, Any]] = {}
    pictures: Arrays = {}
    evaluations = 0
    with reproducible(threads=1), keeping_fits(fits):
        check = experiment.first.control
        control = None if check is None else check(experiment.first, block)
        for label, protocol in experiment.levels.items() if control is None or control.passed else ():
            seen = measure(protocol, block)
            levels[str(label)] = dict(seen.values)
            details[str(label)] = {
                "blind": dict(seen.blind),
                "per_image": {name: list(values) for name, values in seen.per_image.items()},
                "unmatched": seen.unmatched,
                "seconds": seen.seconds,
                **{
                    name: value
                    for name in ("gradient_norm", "objective")
                    if math.isfinite(value := getattr(seen, name))
                },
            }
            evaluations += seen.gradient_evaluations
            if seen.originals is not None and seen.reconstructions is not None:
                pictures[f"{label}/originals"] = seen.originals
                pictures[f"{label}/reconstructions"] = seen.reconstructions
    result = BlockResult(
        block=block,
        levels=levels,
        control=control,
        valid=control is None or control.passed,
        seconds=time.perf_counter() - began,
        gradient_evaluations=evaluations,
        details=details,
    )
    return result, pictures


def run_blocks(
    experiment: Experiment,
    blocks: Sequence[Block],
    store: Store,
    *,
    workers: int | Pool = 2,
    measure: Measure = measure,
    progress: Progress | None = None,
) -> list[BlockResult]:
    """All blocks in order, from the store where it has them, else computed by `workers` processes and stored.

    `workers` is a number (0 computes in this process, for a debugger) or a `Pool` that stays for the next call. Every
    block is stored as it finishes, so an interrupt or a kill loses only those under way. Raises WorkerError with the
    worker's traceback when a block fails, after the others under way are stored.
    """
    keys = [store.key(experiment, block, measure) for block in blocks]
    results = {index: found for index, key in enumerate(keys) if (found := store.load(key, blocks[index])) is not None}
    cached = len(results)

    def report() -> None:
        if progress is not None:
            progress(len(results), len(blocks), cached)

    report()
    missing = [index for index in range(len(blocks)) if index not in results]
    if workers == 0:
        for index in missing:
            results[index] = store.save(keys[index], *run_block(experiment, blocks[index], measure, store.fits))
            report()
    elif missing:
        pool = Pool(workers) if isinstance(workers, int) else workers
        try:
            jobs = {index: _job(experiment, blocks[index], measure, store.fits) for index in missing}
            pool.run(jobs, lambda index, done: results.update({index: store.save(keys[index], *done)}), report)
        finally:
            if pool is not workers:
                pool.close()
    return [results[index] for index in range(len(blocks))]


def _job(experiment: Experiment, block: Block, measure: Measure, fits: Path | None) -> Job:
    name = f"block {block.index} of {experiment.id} (setting {dict(block.setting)})"
    return Job(name, run_block, (experiment, block, measure, fits))
