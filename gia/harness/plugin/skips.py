"""Tests that end without a verdict: rows that are only announced, and rows that run no attack of a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import pytest

from gia.harness.blocks.experiment import Experiment
from gia.harness.plugin.confirm import protocol_digest
from gia.harness.plugin.context import Context
from gia.harness.plugin.recording import Recording


class Skips:
    """Ends the running test where its row has no verdict in this run.

    Attributes:
        announced: claim id -> digest of its protocol, where confirm runs are only announced.
    """

    def __init__(self, context: Context, recording: Recording) -> None:
        self._context, self._recording = context, recording
        self.announced: dict[str, str] = {}

    def announce(self, experiments: Sequence[Experiment]) -> NoReturn:
        """Keep the digests of the running test's rows, and end it: in this run nothing is measured."""
        for id in self._context.ids:
            self.announced[id] = protocol_digest(self._context.claim(id), experiments)
        pytest.skip("only announced")

    def without_attack(self) -> None:
        """End a test that runs no protocol's attack, where it says nothing about what takes the place of those."""
        context = self._context
        if context.lane.opening:
            self.announce([])
        if context.wanted is not None:
            pytest.skip("only asked")
        if context.storing:
            pytest.skip("only stored: this row computes more than blocks, which the run without --shard does")
        if context.plan is not None:
            pytest.skip("not planned: this row runs no attack of a protocol")
        if context.substitute is not None:
            pytest.skip("not tried: this row runs no attack of a protocol")
        if context.lane.name == "reach":
            self.without_reach()
        if context.placebos is not None:
            self.not_applicable("this row calls no attack")

    def not_applicable(self, reason: str) -> NoReturn:
        """End a test that the current placebo has nothing to do with."""
        for id in self._context.ids:
            if not self._recording.decided(id):
                self._recording.add_not_applicable(self._context.claim(id), reason)
        pytest.skip(f"not applicable: {reason}")

    def without_reach(self) -> NoReturn:
        """End the test of a row that has no reach."""
        pytest.skip("no reach: this row compares no levels in a space of settings")
