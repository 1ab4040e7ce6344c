"""`python -m gia cache`: what stored blocks, trained nets and reports of runs take, and how to delete old ones."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gia.harness.blocks.entries import KINDS, Entry, entries, runs, unmarked
from gia.harness.blocks.folders import clear, is_marked, remove, unused

_DAY = 86400
_WIDTH = 100
_NAME = 38
_COLUMNS = f"{{:<{_NAME}}} {{:>7}} {{:>10}} {{:>9}} {{:>9}} {{:>10}} {{:>10}}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--folder", type=Path, default=Path(".gia"), help="of the project; default: .gia")
    parser.add_argument("--prune", action="store_true", help="show how much would be deleted; with --yes, delete it")
    parser.add_argument("--yes", action="store_true", help="with --prune: delete")
    parser.add_argument(
        "--days", type=int, default=30, metavar="N", help="keep what was used in the last N days; default: 30"
    )
    parser.add_argument(
        "--runs", type=int, default=10, metavar="N", help="keep the reports of the newest N runs; default: 10"
    )


def run(options: argparse.Namespace) -> int:
    """Print the table, and delete what is old if asked to; returns 0, or 2 for options that make no sense."""
    wrong = {
        "--yes: expected together with --prune": options.yes and not options.prune,
        f"--days: expected 0 or more, got {options.days}": options.days < 0,
        f"--runs: expected at least 1, got {options.runs}": options.runs < 1,
    }
    for message, holds in wrong.items():
        if holds:
            print(message, file=sys.stderr)
            return 2
    now = time.time()
    print("\n".join(listing(options.folder, now=now, days=options.days, kept=options.runs)))
    if options.prune:
        freed = _prune(options.folder, now=now, days=options.days, kept=options.runs, really=options.yes)
        print(f"\n{'deleted' if options.yes else 'would be deleted (--prune --yes deletes)'}: {_size(freed)}")
    return 0


def _prune(folder: Path, *, now: float, days: int, kept: int, really: bool) -> int:
    """Delete what is old and not in use; returns its size in bytes."""
    freed = 0
    for store in _stores(folder / "cache"):
        with unused(store) as free:
            old = [entry for entry in entries(store) if free and _is_old(entry, now, days)]
            freed += sum(entry.size for entry in old)
            if really:
                remove([file for entry in old for file in entry.files])
    for report in runs(folder / "runs")[kept:]:
        with _all_unused(folder / "runs" / report.name) as free:
            if free:
                freed += report.size
                if really:
                    remove(list(report.files))
                    clear(folder / "runs" / report.name)
    return freed


@contextmanager
def _all_unused(folder: Path) -> Iterator[bool]:
    """Whether nobody uses a run's folder, nor its blocks, which under CI other runs may use too."""
    blocks = folder / "blocks"
    with unused(folder) as free:
        if is_marked(blocks):
            with unused(blocks) as inner:
                yield free and inner
        else:
            yield free


def listing(folder: Path, *, now: float, days: int, kept: int) -> list[str]:
    """The lines of the table.

    Args:
        folder: the folder .gia of a project.
        now: the time, in seconds since 1970.
        days: entries of the cache that were used within this number of days are kept.
        kept: how many of the newest runs are kept.

    >>> from pathlib import Path
    >>> from gia.harness.blocks.listing import listing
    >>> listing(Path("nowhere"), now=0.0, days=30, kept=10)
    ['nowhere: no cache and no runs']
    """
    lines: list[str] = []
    for store in _stores(folder / "cache"):
        lines += [_shortened(f"{store}{_in_use(store)}"), _header()]
        found = entries(store)
        for kind in KINDS:
            of_kind = [entry for entry in found if entry.kind == kind]
            lines.append(_row(kind, of_kind, [entry for entry in of_kind if _is_old(entry, now, days)], now))
    if reports := runs(folder / "runs"):
        lines += [_shortened(f"{folder / 'runs'}"), _header(), _row("all", reports, reports[kept:], now)]
        lines += [
            _row(entry.name, [entry], [entry] if number >= kept else [], now) for number, entry in enumerate(reports)
        ]
    foreign = [*unmarked(folder / "cache"), *unmarked(folder / "runs")]
    lines += [_shortened(f"{path}: without gia's mark, and left alone") for path in foreign]
    return lines or [f"{folder}: no cache and no runs"]


def _header() -> str:
    return _COLUMNS.format("", "entries", "size", "oldest", "newest", "to delete", "frees")


def _row(name: str, found: Sequence[Entry], old: Sequence[Entry], now: float) -> str:
    ages = sorted((now - entry.used) / _DAY for entry in found)
    oldest, newest = (f"{ages[-1]:.1f} d", f"{ages[0]:.1f} d") if ages else ("", "")
    sizes = [_size(sum(entry.size for entry in each)) for each in (found, old)]
    short = name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."
    return _COLUMNS.format(short, len(found), sizes[0], oldest, newest, len(old), sizes[1])


def _shortened(line: str) -> str:
    return line if len(line) <= _WIDTH else f"...{line[3 - _WIDTH :]}"


def _stores(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and is_marked(path))


def _is_old(entry: Entry, now: float, days: int) -> bool:
    """Files that a killed run left are of no use to anybody, however young."""
    return entry.kind == "temporary" or now - entry.used > days * _DAY


def _in_use(folder: Path) -> str:
    with unused(folder) as free:
        return "" if free else " (in use: nothing is deleted)"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3f} GB"
