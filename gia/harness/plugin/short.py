"""The options of `gia.harness.plugin` by short names; only this repository loads it (`-p` in addopts)."""

from __future__ import annotations

import pytest

from gia.harness.plugin.options import add


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--scale` for `--gia-scale`, and so on."""
    add(parser, "--")
