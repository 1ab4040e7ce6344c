"""The base that this working tree is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gia.harness.timing.against_base import checked_out


@pytest.fixture(scope="session")
def base(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A checkout of `--base REF`, for as long as the session lasts."""
    with checked_out(request.config.rootpath, request.config.option.gia_base) as tree:
        yield tree
