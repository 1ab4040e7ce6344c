"""`python -m gia`: the version, the attacks, and the data and weights at hand; sub-commands show or do more.

A sub-command is a module with `add_arguments(parser)` and `run(options) -> exit code`, which `COMMANDS` names. Only the
module of the sub-command that is called is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import gia
from gia.errors import expected_one_of

#: Sub-command -> (its module, its line in the help).
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "attacks": ("gia.attacks.listing", "list the attacks with their type, their needs and their publication"),
        "audit": ("gia.audit.command", "attack your own model and local training, and report what leaks"),
        "cache": (
            "gia.harness.blocks.listing",
            "show what stored blocks, trained nets and reports take; delete old ones",
        ),
        "data": ("gia.data.listing", "list the data sets and weights with state, licence and the command to get them"),
        "report": ("gia.harness.report.command", "make the HTML report of a run again, or compare two runs"),
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command, or print the overview if there is none.

    Args:
        arguments: the words of the command line after `python -m gia`; None takes those of this process.

    Returns the exit code. Raises SystemExit for `--help`, `--version` and a command line that argparse refuses.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m gia",
        description="Without a command: print the version, the attacks, and the data and weights at hand.",
    )
    parser.add_argument("--version", action="version", version=f"gia {gia.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if words[:1] == [name]:
            importlib.import_module(module).add_arguments(command)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        parser.error(expected_one_of("COMMAND", words[0], COMMANDS))
    options = parser.parse_args(words)
    if options.command is None:
        print(_overview())
        return 0
    code: int = importlib.import_module(COMMANDS[options.command][0]).run(options)
    return code


def _overview() -> str:
    import torch

    from gia.attacks import listing as attacks
    from gia.data import listing as data

    return "\n\n".join(
        [
            f"gia {gia.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
            attacks.listing(),
            data.listing(data.states(None), details=False),
            "python -m gia data --data ROOT also looks for the full data sets below ROOT, and names all licences.",
        ]
    )


def _to_a_pipe() -> int:
    """`main`, without a traceback where its reader ends early, such as `head`."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it ends
        return 1
    return code


if __name__ == "__main__":
    raise SystemExit(_to_a_pipe())
