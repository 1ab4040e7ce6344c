"""Work over an executor, by default processes of one thread each; a crash in a worker reaches the test that asked."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from gia.harness.blocks.opened import watch
from gia.harness.blocks.sources import closure_of, refuse_edited
from gia.numerics import fingerprint, reproducible

Item = TypeVar("Item")
Result = TypeVar("Result")

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_TICK = 1.0  # seconds between reports of progress while nothing finishes
_PATIENCE = 60  # ticks in a row that a worker may be stopped while nothing finishes


class WorkerError(RuntimeError):
    """A job could not be done; the message names it and holds the worker's traceback. Never a verdict."""


class Job(NamedTuple):
    """A module-level function and its arguments; the name is that of an error.

    `origin` says what the result depends on besides the arguments, such as the source and the arithmetic. It is called
    here and in a worker on another machine, which must agree.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    origin: Callable[[], Mapping[str, Any]]


#: The next job with its index; None where there is none at this moment.
Take = Callable[[], "tuple[int, Job] | None"]


class Spare(Protocol):
    """Jobs for workers that would be idle. Nobody waits for them yet, so one that fails is only given back."""

    def take(self) -> tuple[Any, Job] | None:
        """The next job, and its name in the calls below; None where there is none at this moment."""

    def finished(self, name: Any, result: Any) -> object: ...

    def failed(self, name: Any) -> object: ...


class Workers(ABC):
    """Runs jobs over a `concurrent.futures.Executor`: local processes (`Pool`), or machines of a cluster.

    Attributes:
        spare: gives jobs to workers that would be idle; None for no such jobs.
    """

    def __init__(self) -> None:
        self.spare: Spare | None = None
        self._meanwhile: dict[Future[Any], Any] = {}  # spare jobs under way, and their names

    def run(self, take: Take, finished: Callable[[int, Any], object], tick: Callable[[], object]) -> None:
        """Run jobs until `take` gives none and none runs. A failure is raised after those under way ended.

        Spare jobs go on after that. Where a worker dies while there are some, nobody knows whose job it was: those of
        the run begin again, and there are no spare jobs any more.

        Args:
            take: is asked for a job whenever there is room for one.
            finished: called with index and result as jobs end.
            tick: called now and then.
        """
        running: dict[Future[Any], tuple[int, Job]] = {}
        waiting: list[tuple[int, Job]] = []  # to begin again
        failures: list[WorkerError] = []
        self._begin_run()
        try:
            while True:
                while (
                    not failures
                    and not self._is_full(running)
                    and (taken := waiting.pop() if waiting else take()) is not None
                ):
                    index, job = taken
                    try:
                        running[self._submit(job)] = index, job
                    except BrokenExecutor as broken:
                        failures.append(_failure(job.name, broken))
                if failures:
                    waiting.clear()
                if not running and not waiting and (failures or not self._is_full(running)):
                    break
                self._fill(running)
                done = wait([*running, *self._meanwhile], timeout=_TICK, return_when=FIRST_COMPLETED).done
                self._watch([job.name for _, job in running.values()], idle=not done)
                if self._meanwhile and any(map(_is_broken, done)):
                    self._end()
                    self.spare = None
                    waiting += running.values()
                    running.clear()
                    continue
                self._collect(done)
                for future in done & running.keys():
                    index, job = running.pop(future)
                    try:
                        result = self._result(future)
                    except (Exception, CancelledError) as error:
                        failures.append(_failure(job.name, error))
                    else:
                        finished(index, result)
                tick()
        except BaseException:  # an interrupt above all: nothing may go on computing
            self._end()
            raise
        if failures:
            if isinstance(failures[0].__cause__, BrokenExecutor):
                self._end()
            raise failures[0]

    def attend(self, seconds: float = 0.0) -> None:
        """Take what spare jobs found and begin further ones; wait so long at most for one of them to end."""
        self._fill(())
        if not self._meanwhile:
            time.sleep(seconds)
            return
        done = wait(self._meanwhile, timeout=seconds, return_when=FIRST_COMPLETED).done
        if any(map(_is_broken, done)):
            self._end()
            self.spare = None
        self._collect(done)
        self._fill(())

    def settle(self) -> None:
        """Wait for the spare jobs under way, and begin none."""
        while self._meanwhile:
            self._collect(wait(self._meanwhile, return_when=FIRST_COMPLETED).done)

    @property
    @abstractmethod
    def room(self) -> int:
        """How many jobs may be under way."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""

    @abstractmethod
    def _submit(self, job: Job) -> Future[Any]: ...

    @abstractmethod
    def _kill(self) -> None:
        """End what is under way, after an interrupt or where the executor is broken."""

    def _result(self, future: Future[Any]) -> Any:
        return future.result()

    def _is_full(self, running: Collection[object]) -> bool:
        """Whether there is no room beside these jobs and the spare ones."""
        return len(running) + len(self._meanwhile) >= self.room

    def _fill(self, running: Collection[object]) -> None:
        """Give spare jobs to workers that are idle beside these jobs."""
        while self.spare is not None and not self._is_full(running) and (taken := self.spare.take()) is not None:
            name, job = taken
            try:
                self._meanwhile[self._submit(job)] = name
            except BrokenExecutor:  # the next run starts another one
                self.spare.failed(name)
                return

    def _collect(self, done: Collection[Future[Any]]) -> None:
        """Pass on what these spare jobs found; futures of other jobs are left alone."""
        for future in done & self._meanwhile.keys():
            name = self._meanwhile.pop(future)
            assert self.spare is not None
            try:
                result = self._result(future)
            except (Exception, CancelledError):
                self.spare.failed(name)
            else:
                self.spare.finished(name, result)

    def _abandon(self) -> None:
        """Give back the spare jobs under way."""
        while self._meanwhile:
            _, name = self._meanwhile.popitem()
            assert self.spare is not None
            self.spare.failed(name)

    def _end(self) -> None:
        self._kill()
        self._abandon()

    def _begin_run(self) -> None:
        """Called before the first job of a run."""
        return

    def _watch(self, names: Sequence[str], *, idle: bool) -> None:
        """Look after the workers; `idle` says that none of these jobs ended since the last call."""
        return


class Pool(Workers):
    """Worker processes of one torch thread each, started when first needed and killed by `close`."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        super().__init__()
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._children: set[multiprocessing.process.BaseProcess] = set()
        self._still = 0

    @property
    def room(self) -> int:
        """One job for each worker."""
        return self.workers

    def close(self) -> None:
        """Let the workers go; a later `run` starts new ones. Spare jobs under way are given back."""
        if self._meanwhile:
            self._end()
        self._let_go()

    def _begin_run(self) -> None:
        self._still = 0
        if not all(child.is_alive() for child in self._children):
            self._end()  # the system took an idle worker, and the executor is of no use without it

    def _watch(self, names: Sequence[str], *, idle: bool) -> None:
        self._still = self._still + 1 if idle and self._stopped() else 0
        if self._still > _PATIENCE:
            raise WorkerError(f"{', '.join(names)}: a worker was stopped by a signal and did not go on; run again")

    def _stopped(self) -> bool:
        """Whether a signal such as SIGSTOP holds a worker, where the system tells; nothing is reaped."""
        if not hasattr(os, "waitid"):
            return False
        with suppress(ChildProcessError):
            how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            return any(os.waitid(os.P_PID, child.pid, how) for child in self._children if child.pid is not None)
        return False

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
        self._let_go()

    def _let_go(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._executor, self._children = None, set()

    def _submit(self, job: Job) -> Future[Any]:
        before = set(multiprocessing.active_children())
        with _set_environment(_ONE_THREAD):
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=begin
                )
            future = self._executor.submit(job.function, *job.arguments)
        self._children |= set(multiprocessing.active_children()) - before
        return future


def spread(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | Workers,
    tick: Callable[[int, int], object] | None = None,
) -> list[Result]:
    """`function` of each item, in their order; nothing is stored.

    Each runs with reproducible arithmetic on one thread, in a worker (with 0 workers in this process, for a debugger).

    Args:
        function: module-level; what it takes and returns is pickled.
        workers: as in `gia.harness.blocks.executor.run_blocks`.
        tick: called as (done, all) now and then.

    Raises WorkerError with the worker's traceback where a call fails in one; in this process the error itself.
    EditedError when a source file behind the function was written meanwhile.
    """
    results: dict[int, Result] = {}
    sources = closure_of([function]).modules

    def report() -> None:
        if tick is not None:
            tick(len(results), len(items))

    if workers == 0:
        for index, item in enumerate(items):
            results[index] = _reproducibly(function, item)
            report()
    else:
        pool = Pool(workers) if isinstance(workers, int) else workers
        try:
            name = getattr(function, "__name__", "a function")
            origin = functools.partial(_origin, function)
            jobs = (
                (index, Job(f"{name} of {item!r}", _reproducibly, (function, item), origin))
                for index, item in enumerate(items)
            )
            pool.run(lambda: next(jobs, None), lambda index, result: results.update({index: result}), report)
        finally:
            if pool is not workers:
                pool.close()
    refuse_edited(sources)
    return [results[index] for index in range(len(items))]


def _origin(function: Callable[..., Any]) -> dict[str, Any]:
    """What the result of a function depends on besides its arguments."""
    closure = closure_of([function])
    return {
        "arithmetic": arithmetic(),
        "sources": dict(closure.modules),
        "distributions": dict(closure.distributions),
    }


@functools.cache
def arithmetic() -> str:
    """The fingerprint of arithmetic as it is in a worker."""
    with reproducible(threads=1):
        return fingerprint()


def _reproducibly(function: Callable[[Item], Result], item: Item) -> Result:
    with reproducible(threads=1):
        return function(item)


def begin() -> None:
    """In a new worker: one thread; the parent alone handles Ctrl-C; no worker outlives the parent.

    What modules read is watched from here on: the first job imports them before its function is called.
    """
    watch()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _is_broken(future: Future[Any]) -> bool:
    """Whether a job ended with its executor."""
    return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)


def _failure(name: str, error: BaseException) -> WorkerError:
    trace = str(error.__cause__ or "").strip().strip('"').strip()
    kind = "" if isinstance(error, WorkerError) else f"{type(error).__name__}: "
    told = WorkerError(f"{name} failed in a worker: {kind}{error}" + (f"\n{trace}" if trace else ""))
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
