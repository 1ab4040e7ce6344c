"""What rows to come will measure: their tests are asked for it, so that workers have work where a row has none left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gia.harness.blocks.ahead import Ahead, Wanted
from gia.harness.blocks.workers import Workers
from gia.harness.plugin.selection import claim_ids

#: Rows are asked until this many blocks for each worker are known. A row that checks examples by itself takes up to a
#: minute, in which a worker computes several blocks.
_KNOWN = 8


class Coming:
    """Hands the blocks of the tests to come to `Ahead`, as far as no other test stands between.

    Args:
        items: the tests of the session, in order.
        ask: (test, its arguments) -> what it will measure first.
        ahead: `workers.spare`.
    """

    def __init__(
        self,
        items: Sequence[pytest.Item],
        ask: Callable[[pytest.Function, Mapping[str, Any]], list[Wanted]],
        ahead: Ahead,
        workers: Workers,
    ) -> None:
        self._items, self._ask, self._ahead, self._workers = deque(items), ask, ahead, workers
        self._known: dict[object, Any] = {}  # definition of a fixture -> a value of it

    def begin(self, item: pytest.Item) -> None:
        """Before a test: it measures what is left of its blocks by itself, and later ones may be asked for theirs.

        A test that is no row's, such as of a timing, has the machine for itself.

        Raises:
            EditedError: packages or data changed while blocks were computed.
        """
        self._ahead.check()
        self._ahead.leave(item.nodeid)
        while self._items and item in self._items:
            self._items.popleft()
        if not claim_ids(item):
            self._workers.settle()
            return
        self._remember(item)
        while self._items and claim_ids(self._items[0]) and len(self._ahead) < _KNOWN * self._workers.room:
            self._add(self._items.popleft())

    def _add(self, item: pytest.Item) -> None:
        """Ask a test. What it raises is not told here: it will be raised again when the test runs."""
        arguments = self._arguments(item)
        if arguments is None:
            return
        assert isinstance(item, pytest.Function)
        try:
            self._ahead.want(item.nodeid, self._ask(item, arguments))
        except (Exception, pytest.fail.Exception):
            return

    def _remember(self, item: pytest.Item) -> None:
        """Keep the fixtures of a test that runs: those to come are asked before theirs are made."""
        if isinstance(item, pytest.Function):
            definitions = item._fixtureinfo.name2fixturedefs
            self._known |= {
                definitions[name][-1]: value for name, value in item.funcargs.items() if name in definitions
            }

    def _arguments(self, item: pytest.Item) -> dict[str, Any] | None:
        """The arguments of a test to come; None where a fixture of its own is not made yet, or it may be skipped."""
        if (
            not isinstance(item, pytest.Function)
            or item.get_closest_marker("skip")
            or item.get_closest_marker("skipif")
        ):
            return None
        given = item.callspec.params if hasattr(item, "callspec") else {}
        arguments = {}
        for name in item._fixtureinfo.argnames:
            definition = item._fixtureinfo.name2fixturedefs.get(name, (None,))[-1]
            if name in given:
                arguments[name] = given[name]
            elif definition in self._known:
                arguments[name] = self._known[definition]
            else:
                return None
        return arguments
