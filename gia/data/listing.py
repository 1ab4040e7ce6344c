"""`python -m gia data`: a table of data sets and weights with state and licence, and the commands to install them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path

from gia.data import assets
from gia.data.full import FULL

_COLUMNS = "{:<19} {:<8} {:<17} {}"
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option `--data ROOT`."""
    parser.add_argument("--data", metavar="ROOT", type=Path, help="folder of your own copies of the full data sets")


def run(options: argparse.Namespace) -> int:
    """Print the listing; return 0 if every asset of an installed package is there and intact, else 1."""
    found = states(options.data)
    print(listing(found, details=True))
    return 0 if all(found[name] == "there" for name in assets.ASSETS) else 1


def states(root: Path | None) -> dict[str, str]:
    """Name -> state of each data set and weight file.

    Args:
        root: folder of the full data sets; None if there is none.

    Returns "there" (all files have the expected digest), "missing" or "changed" for the assets of installed packages;
    "there, unchecked", "missing" or "needs --data" for the full data sets.

    >>> from gia.data.listing import states
    >>> states(None)["celeba"]
    'needs --data'
    """
    return {
        **{name: _state(name) for name in assets.ASSETS},
        **{name: _folder_state(root, spec.folder) for name, spec in FULL.items()},
    }


def listing(found: Mapping[str, str], *, details: bool) -> str:
    """The data sets and weights as a table of at most 100 columns, then the commands that install them.

    Args:
        found: name -> state, as `states` returns it.
        details: whether to show the licence of every entry, whether the licence allows copies in committed pictures,
            and every command. Otherwise only the commands of entries that are not there are shown.

    >>> from gia.data.listing import listing, states
    >>> print(listing({"digits": "there"}, details=True))
    name                kind     state             copies  what, and its licence
    digits              images   there             yes     optical digits 8x8; package BSD-3-Clause; UCI
                                                           digits (Alpaydin, Kaynak), CC BY 4.0
    <BLANKLINE>
    copies: whether the licence allows copies, for example in a picture that you publish
    <BLANKLINE>
    To install them:
      digits: python -m pip install scikit-learn
    >>> listing(states(None), details=False).splitlines()[0]
    'name                kind     state             what'
    """
    lines = [_COLUMNS.format("name", "kind", "state", "copies  what, and its licence" if details else "what")]
    commands = []
    for name, state in found.items():
        spec = assets.ASSETS.get(name) or FULL[name]
        kind, copies = (spec.kind, spec.redistributable) if isinstance(spec, assets.Asset) else ("images", False)
        what = f"{'yes' if copies else 'no':<7} {spec.title}; {spec.licence}" if details else spec.title
        lines += _wrapped(_COLUMNS.format(name, kind, state, what), len(_COLUMNS.format("", "", "", 8 * " " * details)))
        if details or not state.startswith("there"):
            changed = state == "changed"
            command = spec.command.replace(" install ", " install --force-reinstall ") if changed else spec.command
            commands += _wrapped(f"  {name}: {command}", 4)
    if details:
        lines += ["", "copies: whether the licence allows copies, for example in a picture that you publish"]
    if commands:
        where = " (ROOT is the folder that --data names)" if set(found) & set(FULL) else ""
        lines += ["", f"To install them{where}:" if details else f"To install what is not there{where}:", *commands]
    return "\n".join(lines)


def _wrapped(line: str, indent: int) -> list[str]:
    return textwrap.wrap(
        line,
        _WIDTH,
        subsequent_indent=" " * indent,
        drop_whitespace=True,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _state(name: str) -> str:
    try:
        assets.files(name)
    except FileNotFoundError:
        return "missing"
    except assets.AssetError:
        return "changed"
    return "there"


def _folder_state(root: Path | None, folder: str) -> str:
    if root is None:
        return "needs --data"
    return "there, unchecked" if (root.expanduser() / folder).is_dir() else "missing"
