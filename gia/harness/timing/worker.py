"""One side of base against head: times blocks of steps in a process of its own, on the `gia` of one checkout.

Run as a script, `python -P timing_worker.py ROOT WORKLOADS`, and driven by lines of JSON. It imports nothing of `gia`
but what ROOT holds, so that an older commit can be timed; WORKLOADS is a file with `WORKLOADS`, name -> set-up, which
returns steps (`gia.harness.timing.bursts.Steps`).

    parent                          worker
                                    {"names": [...]}
    {"workload": "core / small"}    (sets up)
    {"calls": 3}                    {"seconds": 0.31}       processor time of this process
    {"workload": "..."}             (ends the one before)
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class _Ended(Exception):
    """The steps of a workload end, since the parent asks for another."""


def main(root: str, file: str) -> None:
    """Answer until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a victim or an attack prints is no answer
    sys.path.insert(0, root)
    import gia
    from gia.numerics import reproducible

    if not Path(str(gia.__file__)).is_relative_to(Path(root).resolve()):
        raise ImportError(f"gia: expected that of {root}, got {gia.__file__}")
    workloads = _loaded(file)

    def say(**answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    def asked() -> dict[str, Any]:
        line = sys.stdin.readline()
        return dict(json.loads(line)) if line else {}

    say(names=list(workloads))
    request = asked()
    gc.disable()
    with reproducible(threads=1):
        while request:
            left, start = 0, 0.0

            def between() -> None:
                nonlocal left, start, request
                if left:
                    left -= 1
                    if left:
                        return
                    say(seconds=time.process_time() - start)
                request = asked()
                if "calls" not in request:
                    raise _Ended
                left, start = request["calls"], time.process_time()

            try:
                workloads[request["workload"]]()(between)
            except _Ended:
                gc.collect()


def _loaded(file: str) -> dict[str, Any]:
    specification = importlib.util.spec_from_file_location("timed_workloads", file)
    if specification is None or specification.loader is None:
        raise ImportError(f"workloads: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return dict(module.WORKLOADS)


if __name__ == "__main__":
    main(*sys.argv[1:])
