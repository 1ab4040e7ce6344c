"""Products with large targets, which take another way than small ones."""

from __future__ import annotations

import pytest
import torch

from gia.attacks.matching import gradients
from gia.attacks.matching.gradients import Target


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("rows", "entries"), [(512, 160), (160, 512), (48, 10), (250, 400)])
def test_targets_times_columns_are_matrix_products(rows: int, entries: int, shared: bool) -> None:
    """Whatever multiplies them, one target for all trials or one for each: float64's product, to float32's rounding."""
    generator = torch.Generator().manual_seed(0)
    target = Target(torch.randn(1 if shared else 3, rows, entries, generator=generator))
    columns = torch.randn(3, entries, 5, generator=generator)
    back = torch.randn(3, rows, 5, generator=generator)
    for matrices, right in ((target.matrix, columns), (target.transposed, back)):
        expected = matrices.double() @ right.double()
        found = gradients._each(matrices, right)
        assert found.shape == expected.shape
        assert (found.double() - expected).norm() <= 1e-6 * expected.norm()


def test_only_large_float32_products_on_a_cpu_are_convolutions() -> None:
    """For small ones the detour costs more than it saves; oneDNN knows no float64; other devices have no MKL."""
    large = torch.empty(512, 160)
    assert gradients._by_convolution(large)
    assert not gradients._by_convolution(large.double())
    assert not gradients._by_convolution(large[:32])
    assert not gradients._by_convolution(large[:500])
    assert not gradients._by_convolution(large.to("meta"))
