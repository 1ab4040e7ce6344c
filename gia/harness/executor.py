"""Blocks over worker processes: each finished block is stored at once, and a crash reaches the test that asked."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gia.harness.blocks import Block
from gia.harness.casting import keeping_fits
from gia.harness.controls import Control
from gia.harness.protocol import Experiment
from gia.harness.run import Measure, measure
from gia.numerics import reproducible

if TYPE_CHECKING:
    from gia.harness.store import Store

#: Called as (blocks done, blocks in all, of these from the store) now and then while blocks are computed.
Progress = Callable[[int, int, int], object]

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_TICK = 1.0  # seconds between reports of progress while nothing finishes


class BlockError(RuntimeError):
    """A block could not be computed; the message names it and holds the worker's traceback. Never a verdict."""


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
Task = tuple[Experiment, Block, Measure, Path | None]
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
    block is stored as it finishes, so an interrupt or a kill loses only those under way. Raises BlockError with the
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
            tasks = {index: (experiment, blocks[index], measure, store.fits) for index in missing}
            pool.run(tasks, lambda index, done: results.update({index: store.save(keys[index], *done)}), report)
        finally:
            if pool is not workers:
                pool.close()
    return [results[index] for index in range(len(blocks))]


class Pool:
    """Worker processes of one torch thread each, started when first needed and killed by `close`."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._children: set[multiprocessing.process.BaseProcess] = set()

    def run(
        self, tasks: Mapping[int, Task], finished: Callable[[int, Done], object], tick: Callable[[], object]
    ) -> None:
        """Call `finished` with index and result as tasks end. A failure is raised after those under way ended."""
        waiting = list(tasks)[::-1]
        running: dict[Future[Done], int] = {}
        failures: list[BlockError] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    index = waiting.pop()
                    running[self._submit(tasks[index])] = index
                for future in wait(running, timeout=_TICK, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    if (error := future.exception()) is None:
                        finished(index, future.result())
                    else:
                        waiting.clear()
                        failures.append(_failure(tasks[index], error))
                tick()
        except BaseException:  # an interrupt above all: nothing may go on computing
            self._kill()
            raise
        if failures:
            if isinstance(failures[0].__cause__, BrokenProcessPool):
                self._kill()
            raise failures[0]

    def close(self) -> None:
        """Let the workers go; a later `run` starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._executor, self._children = None, set()

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
        self.close()

    def _submit(self, task: Task) -> Future[Done]:
        before = set(multiprocessing.active_children())
        with _set_environment(_ONE_THREAD):
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
                )
            future = self._executor.submit(run_block, *task)
        self._children |= set(multiprocessing.active_children()) - before
        return future


def _begin() -> None:
    """In a new worker: one thread; the parent alone handles Ctrl-C; no worker outlives the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _failure(task: Task, error: BaseException) -> BlockError:
    experiment, block, *_ = task
    trace = str(error.__cause__ or "").strip().strip('"').strip()
    told = BlockError(
        f"block {block.index} of {experiment.id} (setting {dict(block.setting)}) failed in a worker: "
        f"{type(error).__name__}: {error}" + (f"\n{trace}" if trace else "")
    )
    told.__cause__ = error
    return told


@contextmanager
def _set_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
