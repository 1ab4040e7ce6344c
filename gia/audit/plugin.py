"""The pytest fixture `audit`, so that a team can gate its own repository; it does nothing until a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from gia.audit import AuditReport

__all__ = ["audit"]


@pytest.fixture
def audit() -> Callable[..., AuditReport]:
    """The function `gia.audit.audit`, with `max_leak=` on top.

    `max_leak` is a number of dB for every attack type that is tried, or a mapping from attack types to numbers. The
    call raises an AssertionError where more leaks, and where a type was not tried or its attack did not work. Without
    what-ifs and validation, unless they are asked for.

        def test_our_clients_leak_nothing_to_a_search(audit):
            assert audit(make_model(), batch_size=8).leak["op"] < 1.0

        def test_nothing_leaks_at_all(audit):
            audit(make_model(), batch_size=32, epochs=5, lr=0.01, steps=300, max_leak={"op": 1.0, "ana_arch": 1.0})
    """

    def audited(
        model: nn.Module, *, max_leak: float | Mapping[str, float] | None = None, **settings: Any
    ) -> AuditReport:
        from gia.audit import audit

        report = audit(model, **{"what_if": False, "validate": False, **settings})
        if max_leak is not None:
            report.check(max_leak)
        return report

    return audited
