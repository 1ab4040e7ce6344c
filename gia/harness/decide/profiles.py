"""How Hypothesis draws the examples of universal and exact claims, and those of this repository's tests."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.internal.conjecture import providers

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


@contextmanager
def same_draws() -> Iterator[None]:
    """Let Hypothesis draw the same examples whatever the project's modules contain, inside a `with` block.

    One draw in twenty is otherwise a constant, and half of these come from the source of the project's modules that
    happen to be loaded: then an edit of any module, or a run of other rows beside it, gives a claim other examples.
    Hypothesis has no setting for it, and its internals may change; `tests/harness/decide/test_profiles.py` holds that
    this works with the release that is installed.
    """
    none = type(providers._local_constants)()
    try:
        with mock.patch.object(providers, "_get_local_constants", return_value=none):
            providers.CONSTANTS_CACHE.cache.clear()
            yield
    finally:
        providers.CONSTANTS_CACHE.cache.clear()
