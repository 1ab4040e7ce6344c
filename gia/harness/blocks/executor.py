"""Blocks over worker processes: each finished block is stored at once, and a crash reaches the test that asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Measure
from gia.harness.blocks.results import Arrays, BlockResult, Control
from gia.harness.blocks.store import Store, log_controls
from gia.harness.blocks.unkeyed import Unkeyed, watched
from gia.harness.blocks.workers import Job, Pool, Take, Workers
from gia.numerics import checkpointing, reproducible

Done = TypeVar("Done")

_PAUSE = 0.5  # seconds between two looks at blocks that another run computes

#: Called with label -> what its control said, before anything is attacked.
Log = Callable[[Mapping[str, Control]], object]

#: Called as (blocks done, blocks in all, of these from the store) now and then while blocks are computed.
Progress = Callable[[int, int, int], object]


def run_block(
    experiment: Experiment,
    block: Block,
    measure: Measure,
    cache: Path | None = None,
    *,
    log: Log | None = None,
    checkpoints: Path | None = None,
) -> tuple[BlockResult, Arrays]:
    """Run the controls of all levels of one block, then all levels, on one thread; the second value is its arrays.

    Args:
        experiment, block, measure: what is run; nothing is attacked in a block where a control fails.
        cache: networks that are trained for the block are kept in this folder.
        log: is given what the controls said before anything is attacked.
        checkpoints: where the files of the block's searches begin; they stay until the block is stored.
    """
    began = time.perf_counter()
    arrays: Arrays = {}
    stored = nullcontext() if checkpoints is None else checkpointing(checkpoints, keep=True)
    with reproducible(threads=1), stored:
        controls = _controls(experiment, block, cache)
        if log is not None:
            log(controls)
        valid = all(control.passed for control in controls.values())
        measured = experiment.levels if valid else {}
        results = {str(label): measure(level, block, cache=cache) for label, level in measured.items()}
    for label, result in results.items():
        arrays |= {f"{label}/{name}": array for name, array in result.arrays.items()}
    done = BlockResult(
        block=block,
        levels={label: dict(result.values) for label, result in results.items()},
        controls=controls,
        valid=valid,
        seconds=time.perf_counter() - began,
        counts={label: dict(result.counts) for label, result in results.items()},
        details={label: dict(result.details) for label, result in results.items()},
    )
    return done, arrays


def _controls(experiment: Experiment, block: Block, cache: Path | None) -> dict[str, Control]:
    """What the controls of the levels say, up to the first failure."""
    controls: dict[str, Control] = {}
    for label, level in experiment.levels.items():
        if (check := level.control) is None:
            continue
        seen = check(level, block, cache=cache)
        controls[str(label)] = Control(seen.passed, seen.reason, dict(seen.values))
        if not seen.passed:
            break
    return controls


def run_blocks(
    experiment: Experiment,
    blocks: Sequence[Block],
    store: Store,
    measure: Measure,
    *,
    workers: int | Workers = 2,
    progress: Progress | None = None,
) -> list[BlockResult]:
    """All blocks in order, from the store where it has them, else computed by `workers` processes and stored.

    `workers` is a number (0 computes in this process, for a debugger) or `Workers` that stay for the next call. Every
    block is stored as it finishes, so an interrupt or a kill loses only those under way. What the controls of a block
    said is stored before anything is attacked in it. A block that another run on the same store computes is waited for,
    and computed here if that run dies.
    Raises WorkerError with the worker's traceback when a block fails, after the others under way are stored;
    EditedError when a source file, a package or data that take part change before all blocks are stored.
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
    if not missing:
        return [results[index] for index in range(len(blocks))]
    computed: list[int] = []
    held: set[int] = set()

    def take() -> tuple[int, Job] | None:
        """The next block that no other run computes."""
        for index in list(missing):
            if store.reserve(keys[index]):
                held.add(index)
                missing.remove(index)
                if (found := store.load(keys[index], blocks[index])) is None:
                    computed.append(index)
                    return index, job(experiment, blocks[index], measure, store, keys[index])
                results[index] = found  # stored since
                release(index)
        return None

    def release(index: int) -> None:
        held.remove(index)
        store.release(keys[index])

    def finished(index: int, done: Any) -> None:
        results[index] = saved(store, keys[index], *done)
        release(index)

    store.check_sources(keys[missing[0]])
    store.hold()
    try:
        _compute(take, lambda: [keys[index] for index in missing], store, workers, finished, report)
    finally:  # also after an error, which may come from the change
        for index in held:
            store.release(keys[index])
        store.check_all(experiment, [keys[index] for index in computed])
    return [results[index] for index in range(len(blocks))]


def _compute(
    take: Take,
    elsewhere: Callable[[], Sequence[dict[str, Any]]],
    store: Store,
    workers: int | Workers,
    finished: Callable[[int, Any], object],
    report: Callable[[], object],
) -> None:
    """Run jobs in this process, or in workers, until none is left that another run computes."""
    pool = Pool(workers) if isinstance(workers, int) and workers else workers
    told = False
    try:
        while True:
            if isinstance(pool, Workers):
                pool.run(take, finished, report)
            else:
                while (taken := take()) is not None:
                    finished(taken[0], taken[1].function(*taken[1].arguments))
                    report()
            if not (left := elsewhere()):
                break
            others = [key for key in left if not store.holds(key)]
            if not told and others and (owner := store.owner(others[0])):
                store.tell(f"{owner} computes {len(others)} of these blocks in the same store; this run waits for them")
                told = True
            if isinstance(pool, Workers):
                pool.attend(_PAUSE)
            else:
                time.sleep(_PAUSE)
            report()
    finally:
        if pool is not workers and isinstance(pool, Workers):
            pool.close()


def saved(
    store: Store, key: dict[str, Any], found: tuple[tuple[BlockResult, Arrays], Unkeyed], warnings: Sequence[str]
) -> BlockResult:
    """Store what the job of a block returned."""
    for warning in warnings:
        store.tell(warning)
    result, unkeyed = found
    return store.save(key, *result, unkeyed)


def job(experiment: Experiment, block: Block, measure: Measure, store: Store, key: dict[str, Any]) -> Job:
    """The computation of a block, for workers."""
    name = f"block {block.index} of {experiment.id} (setting {dict(block.setting)})"
    log = partial(log_controls, store.log_of(key))
    run = partial(run_block, log=log, checkpoints=store.checkpoints_of(key))
    arguments = (store.watch_of(key), run, experiment, block, measure, store.nets)
    return Job(name, _heard, (watched, *arguments), partial(_origin, experiment, block, measure))


def _origin(experiment: Experiment, block: Block, measure: Measure) -> dict[str, Any]:
    """The parts of a block's key that another machine may have otherwise."""
    key = Store(Path()).key(experiment, block, measure)
    return {name: key[name] for name in ("arithmetic", "sources", "distributions", "inputs", "devices")}


def _heard(run: Callable[..., Done], *arguments: Any) -> tuple[Done, list[str]]:
    """What a function returns, and what it told the loggers of caches and of memory: a worker has no other way."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("gia.cache", "gia.memory")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        return run(*arguments), told
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
