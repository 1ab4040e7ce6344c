"""From a protocol to a verdict: blocks, measurement, statistics, baselines, timings and the pytest plugin.

`Protocol` describes an attack on a victim, `measure` is the only path from a batch to its scores, `draw_blocks` draws
the settings that a claim is tried on, and a `Verdict` is what the table of its blocks says.
"""

from gia.harness.blocks import Block, draw_blocks
from gia.harness.protocol import Experiment, Protocol
from gia.harness.register import Claim, load_register
from gia.harness.run import measure
from gia.harness.verdicts import Verdict

__all__ = ["Block", "Claim", "Experiment", "Protocol", "Verdict", "draw_blocks", "load_register", "measure"]
