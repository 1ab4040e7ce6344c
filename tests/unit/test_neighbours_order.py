"""The order that the row on Proposition 1 puts a net's states in."""

from __future__ import annotations

import numpy as np

from claims.test_gradient_similarity import by_neighbours


def test_states_are_ordered_by_their_neighbours_and_equal_counts_say_nothing() -> None:
    """If ties were broken by the order of training, a row of equal counts would support the claim by itself."""
    psnr = np.array([[30.0, 20.0, 10.0], [30.0, 20.0, 10.0], [30.0, 20.0, 10.0], [30.0, 20.0, 10.0]])
    counts = np.array([[1, 2, 3], [3, 2, 1], [4, 4, 4], [5, 1, 5]])
    expected = np.array([[30, 20, 10], [10, 20, 30], [20, 20, 20], [20, 20, 20]])
    assert np.array_equal(by_neighbours(psnr, counts), expected)
    assert np.array_equal(by_neighbours(np.add(psnr, [0, 5, 0]), counts)[3], [25, 20, 20])
