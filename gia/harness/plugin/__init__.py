"""The pytest plugin of the claims, an entry point: inert until the project has a register.

Without one it only adds its options, which carry its name: no torch, no Hypothesis profile, no header.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from gia.harness.blocks.opened import watch
from gia.harness.plugin.options import add, as_typed, given

REGISTER = "claims/claims.toml"
SHORT = "gia.harness.plugin.short"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a run, where the register lies, and who measures."""
    add(parser, "--gia-")
    parser.addini("claims_register", f"the register of claims, relative to the root (default: {REGISTER})")
    parser.addini("claims_experiment", "the module that measures and draws", default="gia.experiment")
    parser.addini("claims_report", "the module whose function layout(root) arranges the report")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Watch what modules read while they are imported, before the first conftest.py is."""
    if Path(early_config.rootpath, early_config.getini("claims_register") or REGISTER).exists():
        watch()


@pytest.hookimpl(tryfirst=True)  # before pytest's own junitxml looks at its option
def pytest_configure(config: pytest.Config) -> None:
    """Begin the run where there is a register. Raises UsageError for a register that is named and not there."""
    named = config.getini("claims_register")
    register = Path(config.rootpath, named or REGISTER)
    if register.exists():
        import gia.harness.plugin.fixtures as fixtures
        from gia.harness.plugin.hooks import begin

        begin(config, register)
        config.pluginmanager.register(fixtures, "gia-fixtures")
    elif named:
        raise pytest.UsageError(f"claims_register: expected a file, got {register}, which does not exist")
    elif asked := given(config):
        raise pytest.UsageError(f"{asked[0]}: expected a register of claims at {register}, got none")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Name options in an error as the user typed them."""
    try:
        return (yield)
    except pytest.UsageError as error:
        if config.pluginmanager.has_plugin(SHORT):
            error.args = tuple(as_typed(str(text), config.invocation_params.args) for text in error.args)
        raise
