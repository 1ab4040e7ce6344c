"""Several runs on one folder: each block is computed by one of them, and the work of one that dies is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gia.harness.blocks import reservations
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Level as AnyLevel
from gia.harness.blocks.reservations import Reservations
from gia.harness.blocks.results import BlockResult
from gia.harness.blocks.store import Store
from tests.harness.planted import Level, Result

REPOSITORY = Path(__file__).parents[3]
BLOCKS = draw_blocks("toy", {}, 12)


def noted(level: AnyLevel, block: object, *, cache: Path | None) -> Result:
    """A number from the block's generator; each call leaves a line. A file `stop` holds whoever comes to block 3."""
    assert cache is not None
    project = cache.parents[1]
    with (project / "computed.txt").open("a", encoding="utf-8") as file:
        file.write(f"{block.index} {os.getpid()}\n")  # type: ignore[attr-defined]
    if block.index == 3 and (project / "stop").exists():  # type: ignore[attr-defined]
        (project / "stop").rename(project / "reached")
        time.sleep(600)
    time.sleep(0.05)
    noise = block.generator("noise")  # type: ignore[attr-defined]
    return Result(values={"psnr": float(noise.initial_seed() % 1000) / 7})


def experiment() -> Experiment:
    """One level."""
    return Experiment("toy", {1: Level()})


RUN = """
import sys
from pathlib import Path
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.store import Store
from tests.harness.blocks.test_reservations import BLOCKS, experiment, noted

store = Store(Path(sys.argv[1]) / "blocks", notice=print)
print("ready", flush=True)
sys.stdin.readline()
run_blocks(experiment(), BLOCKS, store, noted, workers=0)
"""


def begun(stack: ExitStack, folder: Path) -> subprocess.Popen[str]:
    """A run in another process, which waits for a line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run: subprocess.Popen[str] = stack.enter_context(
        subprocess.Popen([sys.executable, "-c", RUN, str(folder)], cwd=REPOSITORY, **pipes)  # type: ignore[call-overload]
    )
    stack.callback(run.kill)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    return run


def go(*runs: subprocess.Popen[str]) -> None:
    """Let runs begin."""
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()


def computed(folder: Path) -> list[int]:
    """The indices of the blocks that were computed, whoever did."""
    return [int(line.split()[0]) for line in (folder / "computed.txt").read_text(encoding="utf-8").splitlines()]


def without_time(results: list[BlockResult]) -> list[BlockResult]:
    """What must be equal bit for bit."""
    return [replace(result, seconds=0.0, cached=False) for result in results]


@pytest.mark.parametrize("killed", [False, True], ids=["both live", "one is killed"])
def test_two_runs_on_one_folder_compute_each_block_once(tmp_path: Path, killed: bool) -> None:
    """Two machines would do the same night's work twice; its block would be lost after a crash of one."""
    if killed:
        (tmp_path / "stop").touch()
    with ExitStack() as stack:
        runs = [begun(stack, tmp_path) for _ in range(2)]
        go(*runs)
        if killed:
            deadline = time.monotonic() + 120
            while not (tmp_path / "reached").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            stopped = next(
                int(line.split()[1])
                for line in (tmp_path / "computed.txt").read_text(encoding="utf-8").splitlines()
                if line.startswith("3 ")
            )
            os.kill(stopped, signal.SIGKILL)
        codes = sorted(run.wait(120) for run in runs)
    assert codes == ([-signal.SIGKILL, 0] if killed else [0, 0])
    assert sorted(computed(tmp_path)) == sorted([*range(12), *([3] if killed else [])])
    assert [path.name for path in (tmp_path / "blocks" / "reserved").glob("[!.]*")] == []
    assert not list((tmp_path / "blocks").rglob("*.partial"))

    joined = run_blocks(experiment(), BLOCKS, Store(tmp_path / "blocks"), noted, workers=0)
    assert all(result.cached for result in joined)
    (tmp_path / "alone").mkdir()
    alone = run_blocks(experiment(), BLOCKS, Store(tmp_path / "alone" / "blocks"), noted, workers=0)
    assert without_time(joined) == without_time(alone)


def test_a_run_waits_for_a_block_of_another_one_and_says_so(tmp_path: Path) -> None:
    """A run would stand still without a reason, or compute what is about to be stored."""
    notices: list[str] = []
    one, other = Store(tmp_path / "blocks"), Store(tmp_path / "blocks", notice=notices.append)
    key = one.key(experiment(), BLOCKS[0], noted)
    assert one.reserve(key)

    class Impatient(Exception):
        pass

    looks = iter(range(3))

    def report(*done: int) -> None:
        if next(looks, None) is None:
            raise Impatient

    with pytest.raises(Impatient):
        run_blocks(experiment(), BLOCKS[:2], other, noted, workers=0, progress=report)
    assert computed(tmp_path) == [1]
    assert [line.partition(" on ")[0] for line in notices] == [f"process {os.getpid()}"]
    assert notices[0].endswith("computes 1 of these blocks in the same store; this run waits for them")
    one.release(key)
    assert len(run_blocks(experiment(), BLOCKS[:2], other, noted, workers=0)) == 2


def test_a_block_that_fails_is_given_back(tmp_path: Path) -> None:
    """The same run could never try again, and another one would wait for it."""
    (tmp_path / "blocks" / "nets").mkdir(parents=True)
    (tmp_path / "computed.txt").mkdir()  # cannot be written to
    store = Store(tmp_path / "blocks")
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            run_blocks(experiment(), BLOCKS[:1], store, noted, workers=0)
    assert store.owner(store.key(experiment(), BLOCKS[0], noted)) == ""


def of_another_machine(path: Path) -> None:
    """As if its owner ran elsewhere, where nobody can see whether it lives."""
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**said, "host": "elsewhere"}), encoding="utf-8")


def test_an_owner_on_another_machine_that_is_silent_for_long_loses_its_reservation_to_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed node would hold its blocks for ever; or two runs that see the death would both compute them."""
    dead, one, other = Reservations(tmp_path), Reservations(tmp_path), Reservations(tmp_path)
    assert dead.take("block")
    of_another_machine(tmp_path / "block.0")
    assert not one.take("block") and not other.take("block")  # noqa: PT018
    monkeypatch.setattr(reservations, "EXPIRY", 0.2)
    time.sleep(0.3)
    assert [one.take("block"), other.take("block")] == [True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block.0", "block.1"]
    one.release("block")
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_another_machine_that_lives_keeps_its_reservation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that takes an hour would be computed by every run that waits for it."""
    monkeypatch.setattr(reservations, "BEAT", 0.05)
    monkeypatch.setattr(reservations, "EXPIRY", 0.5)
    owner, other = Reservations(tmp_path), Reservations(tmp_path)
    assert owner.take("block")
    of_another_machine(tmp_path / "block.0")
    for _ in range(10):
        assert not other.take("block")
        time.sleep(0.1)
    owner.close()
    assert other.take("block")


def test_a_file_that_is_not_written_yet_belongs_to_somebody(tmp_path: Path) -> None:
    """Between the creation of a file and its first line another run would take it for abandoned."""
    (tmp_path / "block.0").touch()
    assert not Reservations(tmp_path).take("block")
    assert Reservations(tmp_path).owner("block") == "another run"
