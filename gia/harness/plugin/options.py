"""The options of a run, by name: each is `--gia-NAME`, and `--NAME` where `gia.harness.plugin.short` is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gia.harness.plugin.lanes import DRAWS, LANES

#: The value of `--executor` by default: processes of this machine.
LOCAL = "local"

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "scale": {"metavar": "NAME", "help": "one of the register's scales (default: its first)"},
    "device": {"choices": ("cpu", "cuda", "auto"), "default": "cpu", "help": "where victims and attacks run"},
    "data": {"metavar": "ROOT", "help": "folder with the user's own data sets, for torchvision"},
    "workers": {"type": int, "default": 2, "metavar": "N", "help": "worker processes; 0 computes in this one"},
    "executor": {
        "default": LOCAL,
        "metavar": "WHERE",
        "help": "what computes: local processes, dask[:ADDRESS], or package.module:factory of an Executor",
    },
    "shard": {
        "metavar": "I/N",
        "help": "only compute and store the blocks of every N-th row, from the I-th on; a run without it has verdicts",
    },
    "run-dir": {"metavar": "DIR", "help": "where reports go (default: a new folder .gia/runs/<time>-<scale>-<commit>)"},
    "plan": {
        "action": "store_true",
        "default": False,
        "help": "print blocks, steps, hours and memory of each row, from measured steps; attack nothing, read no data",
    },
    "junit": {"action": "store_true", "default": False, "help": "write junit.xml next to the reports"},
    "attack": {
        "metavar": "NAME",
        "help": "an attack (name, or package.module:name) in the place of the protocols' own",
    },
    "attack-settings": {"metavar": "JSON", "help": "settings of that attack, an object"},
    "defense": {
        "action": "append",
        "metavar": "NAME=VALUE",
        "help": "a defense (such as clip=1.0, or package.module:name) that the clients of every row put last",
    },
    "rebaseline": {
        "action": "store_true",
        "default": False,
        "help": "move the stored baselines that fail; needs a reason and pinned arithmetic",
    },
    "drop": {
        "action": "append",
        "metavar": "FILE/ENTRY",
        "help": "remove this stored baseline, which no test checks any more; needs a reason",
    },
    "elsewhere": {
        "action": "store_true",
        "default": False,
        "help": "another machine or torch than that of the stored baselines is expected: allow its drift",
    },
    "lane": {"choices": LANES, "default": LANES[0], "help": "which blocks are drawn, and how often is looked"},
    "placebo": {
        "metavar": "NAME",
        "help": "put what an attacker has without the gradient in the place of each attack; all: each of them",
    },
    "open": {"action": "store_true", "default": False, "help": "announce the confirm runs of this lane; run nothing"},
    "draws": {"type": int, "default": DRAWS, "metavar": "N", "help": "settings that the lane reach draws for each row"},
    "stop-early": {
        "action": "store_true",
        "default": False,
        "help": "end a look that is certain to be inconclusive, as its record is; the verdict has no interval then",
    },
    "record": {"action": "store_true", "default": False, "help": "store this run's verdicts; needs a reason"},
    "reason": {"metavar": "TEXT", "help": "why baselines or recorded verdicts move; stored with them"},
    "base": {"metavar": "REF", "help": "time this working tree against that commit, in place of the goals"},
    "repeats": {"type": int, "default": 1, "metavar": "N", "help": "planted slowdowns that the timings must detect"},
}


def add(parser: pytest.Parser, prefix: str) -> None:
    """Add every option under a prefix. Two forms of an option share their value, and so their default."""
    group = parser.getgroup("gia", "claims about gradient inversion")
    for name, settings in OPTIONS.items():
        group.addoption(f"{prefix}{name}", dest=destination(name), **settings)


def destination(name: str) -> str:
    """Where pytest keeps the value of an option."""
    return f"gia_{name.replace('-', '_')}"


def given(config: pytest.Config) -> list[str]:
    """The options that are not as they are by default."""
    return [
        f"--gia-{name}"
        for name, settings in OPTIONS.items()
        if config.getoption(destination(name)) != settings.get("default")
    ]


def foreign(option: Any) -> list[str]:
    """The user's attack and defenses, which take part in this run in every row."""
    return [name for name in (option.gia_attack, *(option.gia_defense or ())) if name is not None]


def as_typed(text: str, typed: Sequence[str]) -> str:
    """A message with the short names of options, except of those whose long name was typed.

    Args:
        typed: the arguments of the command line.

    >>> as_typed("--gia-record: expected --gia-reason", ["claims", "--record"])
    '--record: expected --reason'
    >>> as_typed("--gia-record: expected --gia-reason", ["claims", "--gia-record"])
    '--gia-record: expected --reason'
    """
    long = {argument.partition("=")[0] for argument in typed}

    def named(match: re.Match[str]) -> str:
        return match[0] if match[0] in long else f"--{match[1]}"

    names = "|".join(sorted(OPTIONS, key=len, reverse=True))
    return re.sub(rf"--gia-({names})\b", named, text)
