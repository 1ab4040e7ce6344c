"""What an attack returns, as it is printed."""

from __future__ import annotations

import torch

from gia import Reconstruction


def test_a_reconstruction_is_printed_on_one_line_without_its_pixels():
    """If it fails, a notebook fills with tensors."""
    everything = Reconstruction(
        images=torch.zeros(20, 3, 8, 8, dtype=torch.float64),
        labels=torch.arange(20),
        exact=torch.arange(20) < 3,
        objective=0.123456,
        gradient_evaluations=7,
        converged=False,
    )
    assert repr(everything) == (
        "Reconstruction(images=(20, 3, 8, 8) float64, labels=[0, 1, 2, 3, 4, 5, 6, 7, ...], exact=3 of 20, "
        "objective=0.1235, gradient_evaluations=7, converged=False)"
    )
    least = Reconstruction(images=torch.zeros(1, 3, 8, 8))
    assert repr(least) == "Reconstruction(images=(1, 3, 8, 8) float32, gradient_evaluations=0)"
