"""The folder of one run: new for each, with a file that says whose it is, or the user's own, which only one run has."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gia.harness.blocks.entries import JUNIT, MANIFEST, REPORTS
from gia.harness.blocks.folders import LOCK, mark
from gia.numerics import replacing

_MARK = "gia.harness"  # in the manifest; nothing is removed from a folder that lacks it
LATEST = "latest"
#: Files of which a run with a report has one.
_ENDS = ("report.html", "bench.md", "base.md")


class RunFolder:
    """Where the reports of one run go.

    Args:
        runs: the folder of all runs.
        kind: what was run, which stands behind the time in the folder's name: scale, commit, lane.
        facts: more of that, for the manifest.
        given: the user's own folder in place of a new one; reports of an earlier run in it are removed.
    """

    def __init__(self, runs: Path, kind: str, facts: Mapping[str, object], *, given: Path | None = None) -> None:
        self.kind, self._runs, self._facts, self._given = kind, runs, dict(facts), given
        self.started = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S-%f}"
        self.path = runs / f"{self.started}-{self.kind}" if given is None else given
        self._lock, self._begun = -1, False

    @property
    def blocks(self) -> Path:
        """A folder of this run alone for blocks that no other run may use."""
        return self.path / ("blocks" if self._given is None else f"blocks-{self.started}")

    def begin(self) -> None:
        """Make or reset the folder, once.

        Raises:
            OSError: if it cannot be written to.
            ValueError: if it holds reports of something else, or another run is under way in it.
        """
        if self._lock >= 0:
            return
        self.path.mkdir(parents=True, exist_ok=self._given is not None)
        mark(self.path)
        self._hold()
        if self._given is not None:
            self._reset()
        self.write("running")
        self._begun = True

    def write(self, state: str, **facts: object) -> None:
        """Say how far the run is, and what else is known of it."""
        own = {"written_by": _MARK, "kind": self.kind, "started": self.started, "state": state}
        content = {**own, **self._facts, **facts}
        with replacing(self.path / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def end(self, **facts: object) -> None:
        """The last line on a run that began; another one may have its folder then. `latest` leads to its report.

        Of a run that did not begin nothing stays, such as pytest's own file in a new folder.
        """
        if self._given is None and not self._begun:
            with suppress(OSError):
                (self.path / JUNIT).unlink(missing_ok=True)
                self.path.rmdir()
        if self._lock < 0:
            return
        self.write("ended", **facts)
        if self._given is None and any((self.path / name).exists() for name in _ENDS):
            with suppress(OSError):  # a system without symbolic links
                link = self._runs / f".{self.path.name}"
                link.symlink_to(self.path.name, target_is_directory=True)
                os.replace(link, self._runs / LATEST)
        os.close(self._lock)
        self._lock = -1

    def _hold(self) -> None:
        """Hold the folder until this process ends, however it ends."""
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        with suppress(ImportError):  # no such locks on Windows
            import fcntl

            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                self._lock = -1
                raise ValueError(f"{self.path}, where another run is under way") from None

    def _reset(self) -> None:
        """Remove the reports of an earlier run, and nothing else."""
        found = [self.path / name for name in REPORTS if (self.path / name).exists()]
        if found and manifest(self.path) is None:
            raise ValueError(f"{self.path}, which has a {found[0].name} and no {MANIFEST} of an earlier run")
        for path in [*self._named(), *found]:
            path.unlink(missing_ok=True)

    def _named(self) -> list[Path]:
        """The pictures in `images`, and the evidence, that the earlier run's verdicts name."""
        try:
            rows = json.loads((self.path / "verdicts.json").read_text(encoding="utf-8"))
            pictures = {Path(name).name for row in rows for name in row["pictures"]}
            evidence = {Path(f"{row['id'].replace('/', '-')}.json").name for row in rows}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []
        named = [*(("images", name) for name in pictures), *(("evidence", name) for name in evidence)]
        return [self.path.joinpath(*names) for names in sorted(named)]


def manifest(folder: Path) -> dict[str, Any] | None:
    """What a run folder says of itself; None for a folder that no run made."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("written_by") == _MARK else None


def newest(runs: Path, kind: str) -> Path | None:
    """The folder of the last run of a kind; None without one.

    >>> newest(Path("nowhere"), "reduced-ab12cd3") is None
    True
    """
    for folder in sorted(runs.glob(f"*-{kind}"), reverse=True):
        found = manifest(folder)
        if found is not None and found["kind"] == kind:
            return folder
    return None
