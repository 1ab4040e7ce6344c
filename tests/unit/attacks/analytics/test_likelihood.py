"""What shared rows say of tokens, apart from rounding."""

import torch

from gia.attacks.analytics.likelihood import view_of

EPS = torch.finfo(torch.float32).eps


def drawn(*sizes):
    """Matrices of normal numbers in float64."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).double() for size in sizes]


def test_rows_that_hold_a_known_token_and_rounding_say_nothing():
    """Twenty rows, multiples of a class token. If it fails, rounding is weighed as if it told of the image."""
    matrix, offsets, known, factors, tokens = drawn((30, 4), (6, 30), (1, 30), (20, 1), (20, 6))
    settings = {"eps": EPS, "spread": 0.0}
    rows = (factors @ known).float().double()
    assert view_of(rows, torch.eye(30).double(), matrix, offsets, known, **settings) is None
    rows = (factors @ known + 1e-3 * tokens @ offsets).float().double()
    assert view_of(rows, torch.eye(30).double(), matrix, offsets, known, **settings) is not None
