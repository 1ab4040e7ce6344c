"""What a search is: a digest of everything that its result depends on, so that a checkpoint serves no other search."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gia.numerics import fingerprint
from gia.numerics.checkpoints import Checkpoint, active_checkpoints

_PLAIN = (
    *(bool, int, float, complex, str, bytes, slice, Path),
    *(torch.dtype, torch.device, torch.memory_format, type(None), types.EllipsisType),
)

#: Rooms of gia whose source takes part in a search.
_ROOMS = ("attacks", "federated", "models", "numerics")


class Searching:
    """The attack that runs now, for the checkpoints of its searches."""

    def __init__(self, digest: str, generators: Sequence[torch.Generator]) -> None:
        self._digest, self.generators, self._searches = digest, list(generators), 0

    def checkpoint(self, start: Sequence[Tensor], steps: int) -> Checkpoint | None:
        """The checkpoint of the attack's next search, which has this start and this number of steps."""
        checkpoints = active_checkpoints()
        if checkpoints is None:
            return None
        self._searches += 1
        return checkpoints.of(digest_of_values(self._digest, self._searches, list(start), steps))


def searching() -> Searching | None:
    """The attack that runs under `checkpointing`; None outside of one, and where its settings have no digest."""
    return _searching.get() if active_checkpoints() is not None else None


@contextmanager
def identified(
    attack: Callable[..., Any],
    model: nn.Module,
    observations: object,
    generators: Sequence[torch.Generator],
    settings: Mapping[str, Any],
) -> Iterator[None]:
    """Let the searches in this block have checkpoints, if they are asked for (`gia.attacks.checkpointing`)."""
    if active_checkpoints() is None:
        yield
        return
    counted = {name: value for name, value in settings.items() if name != "callback"}
    try:
        digest = digest_of_values(
            _sources(), _arithmetic(torch.get_num_threads()), attack, model, observations, list(generators), counted
        )
    except (TypeError, ValueError, RuntimeError) as error:  # a setting of the user's may be of any kind
        logging.getLogger("gia").warning(f"{attack.__name__}: no checkpoints, since a setting has no digest: {error}")
        now = None
    else:
        now = Searching(digest, generators)
    token = _searching.set(now)
    try:
        yield
    finally:
        _searching.reset(token)


def digest_of_values(*values: object) -> str:
    """Sixteen hex digits of the content of tensors, modules, generators, functions and plain values.

    Equal content gives equal digits in every process. A function counts by its name, its code, its defaults and the
    values that it has from outside; what it calls does not count. A module counts by its class, its mode, its
    parameters, buffers, children, forward hooks and own attributes.

    Raises TypeError for a value of a kind that has no rule.

    >>> import torch
    >>> from gia.attacks.identity import digest_of_values
    >>> digest_of_values(torch.ones(2), {"lr": 0.1}) == digest_of_values(torch.ones(2), {"lr": 0.1})
    True
    >>> digest_of_values(torch.ones(2)) == digest_of_values(torch.ones(2).double())
    False
    """
    digest = hashlib.sha256()
    _Feeder(digest.update).feed(values)
    return digest.hexdigest()[:16]


_searching: ContextVar[Searching | None] = ContextVar("gia_searching", default=None)


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((Path(__file__).parents[1] / room).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _arithmetic(threads: int) -> str:
    return fingerprint()


class _Feeder:
    """Feeds values to a digest. An object that was fed before, such as itself in a circle, counts by its number."""

    def __init__(self, update: Callable[[bytes], object]) -> None:
        self._update = update
        self._seen: dict[int, tuple[int, object]] = {}  # holds the objects, so that no id is used twice

    def feed(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._say(type(value).__name__, repr(value))
            return
        if isinstance(value, enum.Enum):
            self._say("enum", type(value).__qualname__, value.name)
            return
        if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType | np.ufunc):
            self._say(getattr(value, "__module__", ""), getattr(value, "__qualname__", getattr(value, "__name__", "")))
            return
        if id(value) in self._seen:
            self._say("again", str(self._seen[id(value)][0]))
            return
        self._seen[id(value)] = (len(self._seen), value)
        self._say(type(value).__module__, type(value).__qualname__)
        self._feed_content(value)

    def _feed_content(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._feed_tensor(value)
        elif isinstance(value, np.ndarray):
            self._say(str(value.dtype), str(value.shape))
            self._update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, torch.Generator):
            self._say(str(value.device))
            self._feed_tensor(value.get_state())
        elif isinstance(value, nn.Module):
            own = {name: each for name, each in vars(value).items() if not name.startswith("_")}
            hooks = [list(vars(value)[name].values()) for name in ("_forward_hooks", "_forward_pre_hooks")]
            self._feed_all([own, value._parameters, value._buffers, value._modules, hooks])
        elif isinstance(value, Mapping):
            self._feed_all([part for item in value.items() for part in item])
        elif isinstance(value, AbstractSet):
            self._say(*sorted(digest_of_values(each) for each in value))
        elif isinstance(value, Sequence | range):
            self._feed_all(value)
        elif isinstance(value, functools.partial):
            self._feed_all([value.func, value.args, value.keywords])
        elif isinstance(value, types.FunctionType):
            self._say(value.__module__, value.__qualname__)
            closure = [_cell(cell) for cell in value.__closure__ or ()]
            self._feed_all([value.__code__, value.__defaults__, value.__kwdefaults__, closure])
        elif isinstance(value, types.MethodType):
            self._feed_all([value.__func__, value.__self__])
        elif isinstance(value, types.CodeType):
            self._update(value.co_code)
            self._feed_all([value.co_consts, value.co_names])
        elif dataclasses.is_dataclass(value):
            self._feed_all([getattr(value, each.name) for each in dataclasses.fields(value)])
        elif hasattr(value, "__dict__"):
            self._feed_all([vars(value)])
        else:
            raise TypeError(f"values: expected plain values, tensors and modules, got {value!r}")

    def _feed_all(self, values: Any) -> None:
        self._say(str(len(values)))
        for each in values:
            self.feed(each)

    def _feed_tensor(self, value: Tensor) -> None:
        self._say(str(value.dtype), str(tuple(value.shape)), str(value.device), str(value.requires_grad))
        self._update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def _say(self, *words: str) -> None:
        self._update("\0".join([*words, "\n"]).encode())


def _cell(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None
