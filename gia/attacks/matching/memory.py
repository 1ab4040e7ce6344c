"""The peak memory of a computation, counted by tensors and therefore the same on every device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(computation: Callable[[], object]) -> int:
    """The most bytes that tensors made by `computation` hold at once. Memory inside kernels is not counted.

    >>> import torch
    >>> peak_bytes(lambda: torch.zeros(1000) + 1)
    8000
    """
    counter = _Counter()
    with counter:
        computation()
    return counter.peak


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds each new storage when an operation returns it, and subtracts it when it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(one.untyped_storage()) for one in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for one in _tensors(result):
            storage = one.untyped_storage()
            if id(storage) not in given and id(storage) not in self._known:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            self._held -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._held += size
        self.peak = max(self.peak, self._held)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for one in value for tensor in _tensors(one)] if isinstance(value, (list, tuple)) else []
