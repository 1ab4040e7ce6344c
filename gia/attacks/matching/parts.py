"""Trials, then images, that are evaluated in parts, from the step on at which more memory is needed than there is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gia.attacks.matching.updates import Evaluate, Point

_LOG = logging.getLogger("gia.memory")

#: What torch says where the system refuses memory on the CPU.
_REFUSED = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("expected a 3D tensor"))
    False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSED)


class Parts:
    """An evaluation that asks for fewer trials at a time where all of them do not fit into memory.

    Trials are independent, so a part gives what all trials give, up to the rounding of batched arithmetic. Where the
    smallest part does not fit, the evaluation itself is asked to hold less at once. The logger "gia.memory" gets a
    warning at each split. Raises the error of the evaluation where nothing can be split.

    Args:
        evaluate: of all trials at once.
        together: neighbours that depend on each other and stay in one part.
        of: what is evaluated, in the warning.
        halve: makes `evaluate` hold about half as much from now on, and returns False where it cannot; None never can.

    Attributes:
        at_once: the most trials that are asked for at once; None for all.

    >>> import torch
    >>> from gia.attacks.matching import Point
    >>> def evaluate(variables, trials):
    ...     if len(variables[0]) > 2:
    ...         raise torch.OutOfMemoryError("no room for 3 trials")
    ...     return Point(variables[0].sum(1), [torch.ones_like(variables[0])])
    >>> parts = Parts(evaluate, together=1)
    >>> parts([torch.ones(4, 3)], slice(None)).values, parts.at_once
    (tensor([3., 3., 3., 3.]), 2)
    """

    def __init__(
        self,
        evaluate: Evaluate,
        *,
        together: int,
        of: str = "trials",
        halve: Callable[[], bool] | None = None,
    ) -> None:
        self._evaluate, self._together, self._of, self._halve = evaluate, together, of, halve
        self.at_once: int | None = None

    def __call__(self, variables: Sequence[Tensor], trials: slice) -> Point:
        """Evaluate the chosen trials."""
        count, begin = len(variables[0]), trials.start or 0
        while True:
            size = count if self.at_once is None else min(self.at_once, count)
            found = self._in_parts(variables, trials, begin, size)
            if isinstance(found, Point):
                return found
            if size > self._together:
                self.at_once = max(self._together, size // 2 // self._together * self._together)
                _LOG.warning(
                    f"out of memory: a search of {count} {self._of} evaluates {self.at_once} at a time from now on"
                )
            elif self._halve is None or not self._halve():
                raise found

    def _in_parts(self, variables: Sequence[Tensor], trials: slice, begin: int, size: int) -> Point | Exception:
        """An error where a part does not fit. What the failed part held is free when this returns."""
        count = len(variables[0])
        try:
            if size == count:
                return self._evaluate(variables, trials)
            places = [slice(first, min(first + size, count)) for first in range(0, count, size)]
            points = [
                self._evaluate([each[place] for each in variables], slice(begin + place.start, begin + place.stop))
                for place in places
            ]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)  # its frames hold what did not fit
        return _joined(points)


def _joined(points: Sequence[Point]) -> Point:
    gradients = [torch.cat(parts) for parts in zip(*(point.gradients for point in points), strict=True)]
    data = [point.data for point in points if point.data is not None]
    return Point(torch.cat([point.values for point in points]), gradients, torch.cat(data) if data else None)
