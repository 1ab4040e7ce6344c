"""How Hypothesis draws the examples of universal and exact claims, and those of this repository's tests."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, settings

#: Every field is stated: Hypothesis takes a missing one from the loaded profile, which is `ci` where CI is set.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "claims": {
        "max_examples": 400,
        "phases": (Phase.generate,),  # a claim adds shrinking where it wants it; nothing is replayed from earlier runs
        "derandomize": False,  # seeded by the claim id instead, which survives edits of the code
        "database": None,  # a run must not depend on what ran before
        "deadline": None,  # speed is not evidence
        "suppress_health_check": tuple(HealthCheck),  # nor are filtered draws: the examples are counted
        "report_multiple_bugs": True,  # a crash beside a counterexample is not hidden by it
        "print_blob": False,  # no database, no blob: the counterexample is in the verdict
        "stateful_step_count": 50,
        "verbosity": Verbosity.normal,
        "backend": "hypothesis",
    },
    "unit": {
        "max_examples": 50,
        "phases": (Phase.explicit, Phase.generate, Phase.shrink),
        "derandomize": True,  # the same examples on every machine
        "database": None,
        "deadline": None,  # the machines are shared
        "suppress_health_check": (HealthCheck.too_slow,),  # for the same reason
        "report_multiple_bugs": True,
        "print_blob": False,
        "stateful_step_count": 50,
        "verbosity": Verbosity.normal,
        "backend": "hypothesis",
    },
}
for _name, _fields in PROFILES.items():
    settings.register_profile(_name, settings(**_fields))


def claim_seed(claim: str) -> int:
    """The seed of every Hypothesis run of a claim: crc32 of its id, the same in every process.

    >>> from gia.harness.decide.profiles import claim_seed
    >>> claim_seed("op.batch_size")
    1383713327
    """
    return zlib.crc32(claim.encode())
