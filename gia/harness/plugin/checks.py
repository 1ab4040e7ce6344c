"""Options of a run that contradict each other, or that this process cannot follow."""

from __future__ import annotations

from typing import Any

import pytest

from gia.harness.baseline.check import unpinned
from gia.harness.ci import under_ci
from gia.harness.plugin.lanes import DRAWS, LANES
from gia.harness.plugin.options import LOCAL, foreign
from gia.harness.plugin.shards import share
from gia.harness.timing.against_base import commit_of


def refuse_contradictions(config: pytest.Config) -> None:
    """Raise UsageError for options of which one rules out another, or whose value is none."""
    option = config.option
    if option.gia_workers < 0:
        raise pytest.UsageError(f"--gia-workers: expected 0 or more, got {option.gia_workers}")
    if option.gia_executor != LOCAL and option.gia_workers < 1:
        raise pytest.UsageError("--gia-executor: expected --gia-workers of at least 1, got 0, which computes here")
    if option.gia_reason is not None and not (option.gia_rebaseline or option.gia_record or option.gia_drop):
        raise pytest.UsageError("--gia-reason: expected together with --gia-rebaseline, --gia-drop or --gia-record")
    for name in ("rebaseline", "drop"):
        distributed = under_xdist(config) or getattr(option, "numprocesses", None)
        if getattr(option, f"gia_{name}") and distributed:
            raise pytest.UsageError(f"--gia-{name}: expected one process, got -n: each would overwrite another's files")
    _check_lane(option)
    _check_shard(option)
    if option.gia_attack_settings is not None and option.gia_attack is None:
        raise pytest.UsageError("--gia-attack-settings: expected together with --gia-attack")
    if option.gia_rebaseline and foreign(option):
        raise pytest.UsageError(
            "--gia-rebaseline: expected without --gia-attack and --gia-defense, since baselines are of the own ones"
        )
    if option.gia_repeats < 1:
        raise pytest.UsageError(f"--gia-repeats: expected at least 1, got {option.gia_repeats}")
    if option.gia_base is not None:
        try:
            commit_of(config.rootpath, option.gia_base)
        except ValueError as error:
            raise pytest.UsageError(f"--gia-base: {str(error).removeprefix('ref: ')}") from error


def _check_lane(option: Any) -> None:
    """Raise UsageError for options of lanes that contradict each other."""
    lane, elsewhere = option.gia_lane, LANES[0]
    wrong = {
        "--gia-record: expected --gia-reason": option.gia_record and not (option.gia_reason or "").strip(),
        "--gia-record: expected outside CI, where its owner sees the verdicts": option.gia_record and under_ci(),
        f"--gia-record: expected in the lane {elsewhere}, on the protocols' own attacks and defenses": option.gia_record
        and (lane != elsewhere or option.gia_placebo or foreign(option)),
        "--gia-record: expected pinned arithmetic, or no other machine can repeat the verdicts: nox -s claims -- ... "
        f"--gia-record --gia-reason TEXT sets {' '.join(unpinned())}": option.gia_record and unpinned(),
        f"--gia-placebo: expected in the lane {elsewhere}, without --gia-attack and --gia-defense": option.gia_placebo
        and (lane != elsewhere or foreign(option)),
        f"--gia-stop-early: expected in the lane {elsewhere}, on the protocols' own attacks and defenses, and without "
        "--gia-record": option.gia_stop_early
        and (lane != elsewhere or option.gia_placebo or foreign(option) or option.gia_record),
        "--gia-lane: expected confirm and reach without --gia-attack and --gia-defense": foreign(option)
        and lane in ("confirm", "reach"),
        "--gia-plan: expected alone, without a lane, a placebo, --gia-record, --gia-open, --gia-shard and "
        "--gia-stop-early": option.gia_plan
        and (
            lane != elsewhere
            or any(getattr(option, f"gia_{name}") for name in ("placebo", "record", "open", "shard", "stop_early"))
        ),
        "--gia-open: expected in the lane confirm": option.gia_open and lane != "confirm",
        f"--gia-draws: expected at least {DRAWS}, in the lane reach": option.gia_draws != DRAWS
        and (lane != "reach" or option.gia_draws < DRAWS),
    }
    for message, holds in wrong.items():
        if holds:
            raise pytest.UsageError(message)


def _check_shard(option: Any) -> None:
    """Raise UsageError for a share that is none, or with options that ask for more than blocks."""
    if option.gia_shard is None:
        return
    try:
        share(option.gia_shard)
    except ValueError as error:
        raise pytest.UsageError(f"--gia-shard: {error}") from error
    for name in ("open", "record", "placebo", "rebaseline", "drop"):
        if getattr(option, f"gia_{name}"):
            raise pytest.UsageError(f"--gia-shard: expected without --gia-{name}, since a shard only stores blocks")
    if under_ci():
        raise pytest.UsageError("--gia-shard: expected outside CI, where runs share no blocks")


def under_xdist(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")
