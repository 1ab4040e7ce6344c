"""What the numbers of a run depend on, besides the code of its claims: the device and the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

_CHANGED = "+changes"


def device_for(asked: str) -> str:
    """The device that "cpu", "cuda" or "auto" comes to. UsageError where there is no CUDA device."""
    if asked == "cpu":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise pytest.UsageError(
            f"--gia-device: expected a CUDA device that torch {torch.__version__} can see, got none; use cpu"
        )
    return "cpu"


def commit_at(root: Path) -> str:
    """The short commit, "+changes" where the working tree differs from it; "unversioned" outside git."""
    command = ["git", "describe", "--always", f"--dirty={_CHANGED}", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"
    return answer.stdout.strip()
