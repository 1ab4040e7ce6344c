"""The process of one checkout in base against head: it times bursts of steps on that checkout's `gia`.

Run as a script, `python -P worker.py ROOT WORKLOADS`, and driven by lines of JSON. It imports `gia` only from ROOT, so
that an older commit can be timed. The file WORKLOADS defines `WORKLOADS`, name -> set-up, which returns steps
(`gia.harness.timing.bursts.Steps`).

    parent                          worker
                                    {"names": [...]}
    {"workload": "core / small"}    (sets up)
    {"calls": 3}                    {"seconds": 0.31}       processor time of this process
    {"workload": "..."}             (ends the previous one)
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
    """Ends the steps of a workload when the parent asks for another."""


def main(root: str, file: str) -> None:
    """Answer until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a victim or an attack prints is not an answer
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
            remaining, start = 0, 0.0

            def before_step() -> None:
                nonlocal remaining, start, request
                if remaining:
                    remaining -= 1
                    if remaining:
                        return
                    say(seconds=time.process_time() - start)
                request = asked()
                if "calls" not in request:
                    raise _Ended
                remaining, start = request["calls"], time.process_time()

            try:
                workloads[request["workload"]]()(before_step)
            except _Ended:
                gc.collect()


def _loaded(file: str) -> dict[str, Any]:
    specification = importlib.util.spec_from_file_location("timed_workloads", file)
    if specification is None or specification.loader is None:
        raise ImportError(f"workloads: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look up their module
    specification.loader.exec_module(module)
    return dict(module.WORKLOADS)


if __name__ == "__main__":
    main(*sys.argv[1:])
