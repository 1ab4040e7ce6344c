"""Blocks over worker processes: each finished block is stored at once, and a crash reaches the test that asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Measure
from gia.harness.blocks.results import Arrays, BlockResult, Control
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Job, Pool
from gia.numerics import reproducible

#: Called as (blocks done, blocks in all, of these from the store) now and then while blocks are computed.
Progress = Callable[[int, int, int], object]


def run_block(
    experiment: Experiment, block: Block, measure: Measure, cache: Path | None = None
) -> tuple[BlockResult, Arrays]:
    """Run the control and then all levels of one block, on one thread; the second value is its arrays.

    Networks that are trained for it are kept in the folder `cache`.
    """
    began = time.perf_counter()
    arrays: Arrays = {}
    with reproducible(threads=1):
        check = experiment.first.control
        seen = None if check is None else check(experiment.first, block, cache=cache)
        control = None if seen is None else Control(seen.passed, seen.reason, dict(seen.values))
        valid = control is None or control.passed
        results = {
            str(label): measure(level, block, cache=cache) for label, level in experiment.levels.items() if valid
        }
    for label, result in results.items():
        arrays |= {f"{label}/{name}": array for name, array in result.arrays.items()}
    done = BlockResult(
        block=block,
        levels={label: dict(result.values) for label, result in results.items()},
        control=control,
        valid=valid,
        seconds=time.perf_counter() - began,
        counts={label: dict(result.counts) for label, result in results.items()},
        details={label: dict(result.details) for label, result in results.items()},
    )
    return done, arrays


def run_blocks(
    experiment: Experiment,
    blocks: Sequence[Block],
    store: Store,
    measure: Measure,
    *,
    workers: int | Pool = 2,
    progress: Progress | None = None,
) -> list[BlockResult]:
    """All blocks in order, from the store where it has them, else computed by `workers` processes and stored.

    `workers` is a number (0 computes in this process, for a debugger) or a `Pool` that stays for the next call. Every
    block is stored as it finishes, so an interrupt or a kill loses only those under way. Raises WorkerError with the
    worker's traceback when a block fails, after the others under way are stored.
    """
    keys = [store.key(experiment, block, measure) for block in blocks]
    stored = {index: store.load(key, blocks[index]) for index, key in enumerate(keys)}
    results = {index: result for index, result in stored.items() if result is not None}
    cached = len(results)

    def report() -> None:
        if progress is not None:
            progress(len(results), len(blocks), cached)

    report()
    missing = [index for index in range(len(blocks)) if index not in results]
    if workers == 0:
        for index in missing:
            results[index] = store.save(keys[index], *run_block(experiment, blocks[index], measure, store.nets))
            report()
    elif missing:
        pool = Pool(workers) if isinstance(workers, int) else workers
        try:
            jobs = {index: _job(experiment, blocks[index], measure, store.nets) for index in missing}
            pool.run(jobs, lambda index, done: results.update({index: store.save(keys[index], *done)}), report)
        finally:
            if pool is not workers:
                pool.close()
    return [results[index] for index in range(len(blocks))]


def _job(experiment: Experiment, block: Block, measure: Measure, cache: Path | None) -> Job:
    name = f"block {block.index} of {experiment.id} (setting {dict(block.setting)})"
    return Job(name, run_block, (experiment, block, measure, cache))
