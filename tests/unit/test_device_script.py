"""The script for a GPU, as far as a machine without one can try it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import device


def test_without_a_gpu_the_script_says_so_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of a CPU would pass for those of a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().out.startswith("no CUDA device: ")
    assert not (tmp_path / "out").exists()


def test_the_script_writes_numbers_and_pictures(tmp_path: Path) -> None:
    """The few minutes with a GPU would end in an error of the script."""
    options = ["--device", "cpu", "--attacks", "linear_layer", "inverting_gradients", "--victims", "small"]
    assert device.main([*options, "--trials", "1", "2", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "device.json").read_text(encoding="utf-8"))
    assert found["failed"] == found["left_out"] == []
    assert [(row["attack"], row["difference"]) for row in found["agreement"]] == [
        (name, 0.0) for name in ("linear_layer", "inverting_gradients") for _ in range(2)
    ]
    assert [row["trials"] for row in found["steps"]] == [1, 2]
    assert all(row["step_ms"] > 0 and row["floor_ms"] > 0 for row in found["steps"])
    assert "closure_ms" in found["steps"][0]
    assert {path.name for path in tmp_path.glob("*.png")} == {"agreement.png", "steps.png"}


def test_what_does_not_fit_into_the_time_is_listed(tmp_path: Path) -> None:
    """A GPU that is lent for minutes would be lost with everything that was measured on it."""
    options = ["--device", "cpu", "--attacks", "linear_layer", "--victims", "--trials", "1"]
    assert device.main([*options, "--seconds", "-1", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "device.json").read_text(encoding="utf-8"))
    assert found["left_out"] == ["linear_layer in torch.float32", "linear_layer in torch.float64"]
