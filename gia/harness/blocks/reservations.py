"""Which run computes which block of a store that several runs share: a small file for each block under way.

Only the creation of a file that must not exist yet (O_EXCL) decides who computes, which also holds on NFS. An owner
touches its files while it lives. Another run takes over where it saw no touch for long, by its own clock.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BEAT = 15.0  # seconds between two touches
EXPIRY = 180.0  # seconds without a touch; NFS may show one up to 60 s late


class Reservations:
    """The names that this process has reserved in a folder, and those of others.

    A file is called NAME.NUMBER, and the largest number counts. Whoever takes over from an owner that died creates the
    next number, so that of many runs that see the death one alone goes on.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from gia.harness.blocks.reservations import Reservations
    >>> with tempfile.TemporaryDirectory() as name:
    ...     one, other = Reservations(Path(name)), Reservations(Path(name))
    ...     print(one.take("block"), other.take("block"))
    ...     one.release("block")
    ...     print(other.take("block"))
    ...     other.close()
    True False
    True
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Path] = {}
        self._seen: dict[Path, tuple[object, float]] = {}
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self, name: str) -> bool:
        """Reserve a name, unless another run that lives has it. Whoever gets one looks next whether its work is done.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        latest = max(self._numbers(name), default=None)
        if latest is not None and not self._is_abandoned(self._path(name, latest)):
            return False
        path = self._path(name, 0 if latest is None else latest + 1)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # another run was faster
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(_owner(), file)
        self._held[name] = path
        self._beat()
        return True

    def holds(self, name: str) -> bool:
        """Whether this object has reserved a name."""
        return name in self._held

    def owner(self, name: str) -> str:
        """Who reserved a name, for a message; empty where nobody did."""
        latest = max(self._numbers(name), default=None)
        if latest is None:
            return ""
        said = _read(self._path(name, latest))
        return f"process {said['pid']} on {said['host']}" if said else "another run"

    def release(self, name: str) -> None:
        """Give a name back. What was computed under it must be stored before."""
        path = self._held.pop(name)
        for number in self._numbers(name):
            if number <= int(path.suffix[1:]):  # also those of the owners before, which died
                self._path(name, number).unlink(missing_ok=True)

    def release_all(self) -> None:
        """Give back whatever is still reserved, such as after an error."""
        for name in list(self._held):
            self.release(name)

    def close(self) -> None:
        """Give everything back and end the touches."""
        self.release_all()
        self._ended.set()

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}"

    def _numbers(self, name: str) -> Iterator[int]:
        with os.scandir(self.folder) as found:
            for entry in found:
                stem, _, number = entry.name.rpartition(".")
                if stem == name and number.isdigit():
                    yield int(number)

    def _is_abandoned(self, path: Path) -> bool:
        """Whether the owner of this file died: known at once on one machine, after a while on another one."""
        try:
            state = path.stat()
        except FileNotFoundError:  # given back at this moment
            return False
        if (said := _read(path)) is not None and _is_dead(said):
            return True
        signature, now = (state.st_mtime_ns, state.st_size), time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if signature != before:
            self._seen[path] = signature, now
            return False
        return now - since > EXPIRY

    def _beat(self) -> None:
        """Start the thread that touches what is held."""
        if self._beating is None or not self._beating.is_alive():
            self._ended = threading.Event()
            self._beating = threading.Thread(target=self._touch, args=(self._ended,), daemon=True)
            self._beating.start()

    def _touch(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT):
            for path in list(self._held.values()):
                with suppress(OSError):  # taken over by a run that saw no touch, or a disk that fails for a while
                    os.utime(path)


def _owner() -> dict[str, str | int]:
    """This process: its machine, what its number means there, and when it began."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "numbering": _numbering(), "pid": pid, "began": _began(pid) or ""}


def _read(path: Path) -> dict[str, str | int] | None:
    """What an owner wrote; None where it has not written it yet, or the file is gone."""
    with suppress(OSError, ValueError):
        said = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(said, dict) and said.keys() == _owner().keys():
            return said
    return None


def _is_dead(owner: dict[str, str | int]) -> bool:
    """Whether the owner ran on this machine and runs no more. False where that cannot be known."""
    same_place = (owner["host"], owner["numbering"]) == (socket.gethostname(), _numbering())
    return same_place and bool(owner["began"]) and _began(int(owner["pid"])) != owner["began"]


def _numbering() -> str:
    """What the number of a process refers to: this start of the system, and the container in it. Linux only."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return secrets.token_hex(8)  # fits no other process


def _began(pid: int) -> str | None:
    """When a process began, in the clock of the system; None where it ended or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
