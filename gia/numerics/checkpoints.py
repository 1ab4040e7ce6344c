"""Checkpoints: the state of a long computation on disk, from which it goes on after its process was killed."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gia.numerics.files import private_folder, replacing

_LOG = logging.getLogger("gia.cache")

_BEGIN = b"gia checkpoint 1\n"
_SUFFIX = ".checkpoint"


@dataclass
class Checkpoints:
    """Where the computations of a `checkpointing` block store their states.

    Attributes:
        path: the common beginning of the files' names.
        every: seconds between two states of one computation.
    """

    path: Path
    every: float
    _used: list[Path] = field(default_factory=list, repr=False)
    _unfinished: bool = field(default=False, repr=False)

    def of(self, digest: str) -> Checkpoint:
        """The checkpoint of one computation.

        Args:
            digest: of everything that the computation's result depends on, in hex digits.
        """
        path = self.path.with_name(f"{self.path.name}-{digest}{_SUFFIX}")
        self._used.append(path)
        return Checkpoint(path, self.every, digest, self._keep)

    def _keep(self) -> None:
        self._unfinished = True

    def end(self) -> None:
        """Delete the files, since the block has its results."""
        if not self._unfinished:
            for path in self._used:
                with suppress(OSError):  # such as a folder that could never be written to
                    path.unlink(missing_ok=True)


class Checkpoint:
    """The stored state of one computation: plain values and tensors, in dicts, lists and tuples.

    Attributes:
        stored: whether there is a file.
        keep: called without arguments where the computation ends early, so that the files stay after the block.
    """

    def __init__(self, path: Path, every: float, digest: str, keep: Callable[[], object]) -> None:
        self._path, self._every, self._digest = path, every, digest
        self.keep = keep
        self._last = time.monotonic()
        self.stored = self._warned = False

    def load(self) -> dict[str, Any] | None:
        """The state that was stored last, with its tensors on the CPU, or None if there is none that can be used.

        A file that is damaged, or belongs to another computation, is not used: the logger "gia.cache" gets a warning,
        and the next state replaces the file.
        """
        try:
            state = _read(self._path, self._digest)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.refuse(str(error))
            return None
        self.stored = True
        with suppress(OSError):
            os.utime(self._path)  # the cache forgets what was not used for long
        return state

    def refuse(self, reason: str) -> None:
        """Say that the stored state is not used."""
        self.stored = False
        _LOG.warning(f"checkpoint {self._path.name} is not used ({reason}); its search starts again")

    def due(self) -> bool:
        """Whether the last state, or the start of the computation, is `every` seconds old."""
        return time.monotonic() - self._last >= self._every

    def save(self, state: Mapping[str, Any]) -> None:
        """Store the state, whole or not at all. A disk that takes no file ends no computation: it is a warning."""
        content = io.BytesIO()
        torch.save(dict(state), content)
        payload = content.getbuffer()
        head = _BEGIN + self._digest.encode() + b"\n" + hashlib.sha256(payload).hexdigest().encode() + b"\n"
        try:
            private_folder(self._path.parent)
            with replacing(self._path, private=True) as partial, partial.open("wb") as file:
                file.write(head)
                file.write(payload)
            self.stored = True
        except OSError as error:
            if not self._warned:
                _LOG.warning(f"checkpoint {self._path.name} could not be written: {error}")
            self._warned = True
        self._last = time.monotonic()


@contextmanager
def checkpointing(path: str | os.PathLike[str], *, every: float = 60.0, keep: bool = False) -> Iterator[None]:
    """Store the state of each search that runs in this block, so that a killed run goes on from there.

    Run the same program again after it was killed. Each search in the block that has a file goes on from its stored
    step and gives the same bits as one that was never interrupted, and a search that had already ended gives its result
    without a step. A search that ends within `every` seconds writes nothing. The files are deleted when the block ends;
    after an exception, and after an interrupt from the keyboard that a search answered with its best point, they stay.

    A file belongs to one search. Its name holds a digest of the attack, its settings, the model, the observations, the
    states of the generators, the source of gia and the arithmetic of this machine, so another search never uses it. Not
    in the digest are progress callbacks, and code outside of gia that the settings call: delete the files after you
    edit such code. Random numbers come back if they are drawn from the attack's generators.

    Args:
        path: the beginning of the files' names: `night` gives `night-<digest>.checkpoint`. Its folder is made when
            it is first needed. Only the user may read the files.
        every: seconds between two states of a search, >= 0; 0 stores each step.
        keep: leave the files when the block ends, for a caller that deletes them once it has stored the results.

    Raises:
        ValueError: `every` is negative, or no number.

    >>> import tempfile, torch, gia
    >>> from pathlib import Path
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> shared = gia.share_gradient(model, torch.rand(1, 3, 4, 4), torch.tensor([2]), reveal=("labels",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with gia.attacks.checkpointing(Path(folder) / "night", every=60.0):
    ...         found = gia.attacks.inverting_gradients(model, shared, generator=seed, steps=3)
    ...     list(Path(folder).iterdir())
    []
    """
    if not every >= 0:
        raise ValueError(f"every: expected a number of seconds >= 0, got {every}")
    checkpoints = Checkpoints(Path(path), every)
    token = _active.set(checkpoints)
    try:
        yield
    finally:
        _active.reset(token)
    if not keep:
        checkpoints.end()


def active_checkpoints() -> Checkpoints | None:
    """Those of the innermost `checkpointing` block; None outside of one.

    >>> from gia.numerics.checkpoints import active_checkpoints
    >>> active_checkpoints() is None
    True
    """
    return _active.get()


def checkpoints_of(path: Path) -> list[Path]:
    """The files of the checkpoints whose names begin with this path.

    >>> from pathlib import Path
    >>> from gia.numerics.checkpoints import checkpoints_of
    >>> checkpoints_of(Path("nowhere/night"))
    []
    """
    begin = f"{path.name}-"
    return sorted(file for file in path.parent.glob(f"*{_SUFFIX}") if file.name.startswith(begin))


_active: ContextVar[Checkpoints | None] = ContextVar("gia_checkpoints", default=None)


def _read(path: Path, digest: str) -> dict[str, Any]:
    """Raises FileNotFoundError, and ValueError for anything but a whole checkpoint of this digest."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(str(error)) from error
    head, _, rest = content.removeprefix(_BEGIN).partition(b"\n")
    checksum, _, payload = rest.partition(b"\n")
    if not content.startswith(_BEGIN) or hashlib.sha256(payload).hexdigest().encode() != checksum:
        raise ValueError("it is damaged: its checksum does not fit its content")
    if head != digest.encode():
        raise ValueError("it belongs to another search")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a payload that somebody wrote by hand
        raise ValueError(f"it cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__} and no state")
    return state
