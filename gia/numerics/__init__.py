"""Computations that can be repeated: arithmetic, seeds, digests, checkpoints, and files that are written whole."""

from gia.numerics.arithmetic import REPEATABLE, environment, fingerprint, reproducible
from gia.numerics.checkpoints import checkpointing
from gia.numerics.digests import digest_of, file_digest, generator_of
from gia.numerics.files import private_folder, replacing

__all__ = [
    "REPEATABLE",
    "checkpointing",
    "digest_of",
    "environment",
    "file_digest",
    "fingerprint",
    "generator_of",
    "private_folder",
    "replacing",
    "reproducible",
]
