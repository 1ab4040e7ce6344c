"""One measurement, without pytest: what is attacked, by whom, and the score.

A `Protocol` says what is set, `Round` is what that comes to in one block, `Exchange` what the clients of some images
share and what an attack makes of it, and `measure` the only path from a protocol and a block to a `Measurement`.

The harness is given this module by its option `claims_experiment`, and uses `measure`, `substitution`, `defended`,
`placebo`, `PLACEBOS`, `draw`, `draw_reach`, `cost` and `METRICS`.
"""

from gia.experiment.drawing import draw, draw_reach
from gia.experiment.exchange import Exchange
from gia.experiment.measurement import Control, Measurement
from gia.experiment.measuring import measure, prepared
from gia.experiment.placebos import PLACEBOS, placebo
from gia.experiment.planning import Cost, cost
from gia.experiment.protocol import (
    Attacker,
    Batch,
    Client,
    Fishing,
    Fitting,
    Protocol,
    Victim,
)
from gia.experiment.round import Round
from gia.experiment.scoring import Scoring
from gia.experiment.substitution import defended, substitution
from gia.metrics import METRICS

__all__ = [
    "METRICS",
    "PLACEBOS",
    "Attacker",
    "Batch",
    "Client",
    "Control",
    "Cost",
    "Exchange",
    "Fishing",
    "Fitting",
    "Measurement",
    "Protocol",
    "Round",
    "Scoring",
    "Victim",
    "cost",
    "defended",
    "draw",
    "draw_reach",
    "measure",
    "placebo",
    "prepared",
    "substitution",
]
