"""A program with blocks whose numbers come from everywhere, for the tests of what is in no key: run it in a process."""

from __future__ import annotations

import importlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from gia.harness.blocks.cluster import workers_of
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Workers
from tests.harness.planted import Level

#: File -> content, in the folder of a project. Each changes the number of a block, in a way that no import shows.
FILES = {
    "at_import.json": "1",
    "in_function.csv": "1",
    "inside/of_helper.txt": "1",
    "named.py": "NUMBER = 1\n",
    "named_at_import.py": "NUMBER = 1\n",
    "run.py": "NUMBER = 1\n",
    "in_memory.py": "NUMBER = 1\n",
    "measure_of_all.py": """
import importlib
import runpy
from pathlib import Path

import helper
from tests.harness.planted import Result

HERE = Path(__file__).parent
AT_IMPORT = int((HERE / "at_import.json").read_text())
NAMED = importlib.import_module("named_at_import")

def measure(level, block, *, cache):
    found = AT_IMPORT + helper.NUMBER + NAMED.NUMBER
    found += int((HERE / "in_function.csv").read_text())
    found += importlib.import_module("named").NUMBER + importlib.import_module("in_memory").NUMBER
    found += runpy.run_path(str(HERE / "run.py"))["NUMBER"]
    try:
        found += int((HERE / "optional.json").read_text())
    except FileNotFoundError:
        pass
    for name in ("own.txt", "log.txt"):
        with (HERE / name).open("w" if name == "own.txt" else "a") as file:
            file.write(f"{block.index}")
    (HERE / "own.txt").read_text()
    calls = HERE / "calls.txt"
    calls.write_text(f"{int(calls.read_text()) + 1 if calls.exists() else 1}")
    (cache / "net.txt").write_text(f"{block.index}")
    (cache / "net.txt").read_text()
    return Result(values={"psnr": float(found)})
""",
    "helper.py": """
from pathlib import Path
NUMBER = int(Path(__file__).with_name("inside").joinpath("of_helper.txt").read_text())
""",
}

#: What is edited -> its new content, of another number.
EDITS = {
    name: content.replace("1", "2") for name, content in FILES.items() if not name.startswith(("measure", "helper"))
}
EDITS["optional.json"] = "1"


def workers_for(name: str) -> int | Workers:
    """Where blocks are computed: "here", in a "pool", or on a "cluster"."""
    if name == "cluster":
        return workers_of(f"{ProcessPoolExecutor.__module__}:{ProcessPoolExecutor.__name__}", 1)
    return {"here": 0, "unwatched": 0, "pool": 1}[name]


def main(folder: Path, where: str) -> None:
    """Write out how many blocks came from the store, the numbers of all, and what the user was told.

    `where` is as in `workers_for`, or "unwatched", where the measure is imported before anybody watches.
    """
    sys.path.insert(0, str(folder))
    if where == "unwatched":
        importlib.import_module("measure_of_all")
    told: list[str] = []
    store = Store(folder / "cache", root=folder, notice=told.append)
    importlib.import_module("in_memory")  # what imports it is not the measure
    measure = importlib.import_module("measure_of_all").measure
    workers = workers_for(where)
    done = run_blocks(Experiment("toy", {1: Level()}), draw_blocks("toy", {}, 2), store, measure, workers=workers)
    if isinstance(workers, Workers):
        workers.close()
    store.close()
    numbers = [result.levels["1"]["psnr"] for result in done]
    json.dump({"cached": sum(result.cached for result in done), "numbers": numbers, "told": told}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
