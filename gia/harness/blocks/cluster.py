"""Blocks on other machines: any `concurrent.futures.Executor`, such as that of a dask cluster, in the place of local
processes.

A worker there computes nothing before it has found that its arithmetic, its source and its data are those of this run.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

from gia.harness.blocks.workers import Job, WorkerError, Workers, begin
from gia.numerics import REPEATABLE

_ANSWER = 10.0  # seconds in which a scheduler must answer


def workers_of(spec: str, workers: int) -> Workers:
    """The workers behind the option `--executor`.

    Args:
        spec: "dask" for processes of this machine, "dask:ADDRESS" for a cluster that runs (its scheduler's address such
            as tcp://host:8786, or the path of its scheduler file), or "package.module:factory" for a function without
            arguments that returns a `concurrent.futures.Executor`.
        workers: how many processes the first kind starts, and how many jobs the last kind has under way.

    Raises:
        ModuleNotFoundError: dask.distributed is not installed.
        ValueError: there is nothing behind `spec`, or no scheduler answers.

    >>> workers = workers_of("concurrent.futures:ProcessPoolExecutor", 2)
    >>> type(workers).__name__
    'Elsewhere'
    >>> workers.close()
    """
    if spec == "dask" or spec.startswith("dask:"):
        return _dask(spec.partition(":")[2], workers)
    module, colon, name = spec.partition(":")
    if not (colon and module and name):
        raise ValueError(f"expected local, dask, dask:ADDRESS or package.module:factory, got {spec!r}")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected package.module:factory, got {spec!r}: {error}") from error
    if not callable(factory):
        raise ValueError(f"expected a function that returns an executor, got {spec!r}: {factory!r}")

    def make() -> Executor:
        executor = factory()
        if not isinstance(executor, Executor):
            raise TypeError(f"expected a concurrent.futures.Executor from {spec!r}, got {executor!r}")
        return executor

    return Elsewhere(make, lambda: workers)


class Elsewhere(Workers):
    """Jobs over an executor whose processes may run on other machines. A worker process has one job at a time.

    Args:
        make: called for an executor when one is first needed, and after it was lost. Its workers import gia.
        room: called before each job: how many may be under way.
        close: called at the end.
    """

    def __init__(
        self, make: Callable[[], Executor], room: Callable[[], int], *, close: Callable[[], object] | None = None
    ) -> None:
        super().__init__()
        self._make, self._count, self._at_end = make, room, close
        self._executor: Executor | None = None
        self._under_way: set[Future[Any]] = set()

    @property
    def room(self) -> int:
        """As many jobs as `room` says, and at least one."""
        return max(1, self._count())

    def close(self) -> None:
        """End the executor, and wait for its processes. A cluster that was there before goes on."""
        if self._executor is not None and not self._under_way:
            self._executor.shutdown()
            self._executor = None
        self._end()
        if self._at_end is not None:
            self._at_end()

    def _submit(self, job: Job) -> Future[Any]:
        if self._executor is None:
            self._executor = self._make()
        content = pickle.dumps((job.origin, job.function, job.arguments))
        future = self._executor.submit(forward, content, dict(job.origin()), list(sys.path), _process())
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _result(self, future: Future[Any]) -> Any:
        result = future.result()
        if isinstance(result, Failed):
            raise WorkerError(f"{result.told}\n{result.trace}".strip())
        return result

    def _kill(self) -> None:
        for future in list(self._under_way):
            future.cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._executor = None


class Failed(NamedTuple):
    """What went wrong in a worker, as text: the error itself might not cross to this machine."""

    told: str
    trace: str


def forward(content: bytes, origin: Mapping[str, Any], paths: Sequence[str], process: tuple[str, int]) -> Any:
    """In a worker: pass a job on to a process that does nothing else, and start that when there is none.

    A worker has further threads, which draw random numbers and would disturb a job that watches the global state.

    Args:
        content, origin, paths: as of `compute`.
        process: where the run began.
    """
    global _child
    if process == _process():  # the flags of arithmetic would change under the run itself
        return Failed("executor: expected one of other processes, got one of threads in this process", "")
    if multiprocessing.current_process().daemon:
        worker = f"worker {socket.gethostname()}, process {os.getpid()}"
        needed = "set DASK_DISTRIBUTED__WORKER__DAEMON=False where it is started"
        return Failed(f"{worker}: expected a worker that may start a process, got a daemonic one; {needed}", "")
    with _ALONE:
        if _child is None:
            _child = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=begin)
            Finalize(None, _child.shutdown, exitpriority=100)  # before its queue is closed, or both wait for ever
        try:
            return _child.submit(compute, content, origin, paths).result()
        except BrokenExecutor:  # the system took that process, so it is as if it had taken this one
            os._exit(1)


#: Arithmetic is set for a whole process, so jobs that a worker begins in several threads run one after the other.
_ALONE = threading.Lock()
_child: ProcessPoolExecutor | None = None


def compute(content: bytes, origin: Mapping[str, Any], paths: Sequence[str]) -> Any:
    """Run a job, if everything that its result depends on is here as it is where the run began.

    Args:
        content: origin, function and arguments of the job, pickled.
        origin: what the result depends on besides the arguments, as it is there.
        paths: where Python finds modules there; those that are not searched here are searched last.
    """
    sys.path += [path for path in paths if path not in sys.path]
    try:
        asked, function, arguments = pickle.loads(content)
        if told := difference(origin, asked()):
            return Failed(told, "")
        return function(*arguments)
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}", traceback.format_exc())


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """One line on what differs between this worker and the run; empty where nothing does.

    >>> print(difference({"arithmetic": "a", "sources": {"gia": "1"}}, {"arithmetic": "a", "sources": {"gia": "1"}}))
    <BLANKLINE>
    """
    worker = f"worker {socket.gethostname()}, process {os.getpid()}"
    if here["arithmetic"] != there["arithmetic"]:
        pinned = " ".join(f"{name}={os.environ.get(name, '')}" for name in REPEATABLE)
        return (
            f"{worker}: expected the arithmetic of this run ({there['arithmetic']}), got {here['arithmetic']} with "
            f"{pinned}; start workers with the torch and the variables of this run"
        )
    for name, expected in there.items():
        if here[name] == expected:
            continue
        keys = sorted(key for key in {*expected, *here[name]} if expected.get(key) != here[name].get(key))
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        return (
            f"{worker}: expected the {name} of this run, got others: {', '.join(keys[:3])}{more}; "
            "start workers again, from the same files"
        )
    return ""


def _dask(address: str, workers: int) -> Workers:
    """A dask cluster: one that runs at this address, or processes of this machine that end with this run."""
    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        needed = "expected to be installed for dask; python -m pip install 'distributed>=2024.8'"
        raise ModuleNotFoundError(f"{error.name}: {needed}", name=error.name) from error
    if address.endswith(".json") and not os.path.exists(address):
        raise ValueError(f"expected the file of a scheduler, got {address}, which does not exist")
    ended = ExitStack()
    try:
        where: dict[str, Any] = {"scheduler_file" if address.endswith(".json") else "address": address}
        if not address:
            # The workers get the variables of this run and none of dask's own, which would be other arithmetic.
            own = {"distributed.nanny.pre-spawn-environ": {}, "distributed.worker.daemon": False}
            ended.enter_context(dask.config.set(own))  # to the end: a worker that is killed is started again by it
            where["address"] = ended.enter_context(
                distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
                )
            )
        client = ended.enter_context(distributed.Client(**where, timeout=_ANSWER, set_as_default=False))
    except BaseException as error:
        ended.close()
        if not isinstance(error, OSError | ValueError):
            raise
        raise ValueError(
            f"expected a dask scheduler, got no answer from {address or 'this machine'}: {error}"
        ) from error
    return Elsewhere(client.get_executor, lambda: sum(client.nthreads().values()), close=ended.close)
