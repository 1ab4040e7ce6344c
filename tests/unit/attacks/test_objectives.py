"""Matching terms: the papers' formulas, in NumPy, and what each of them can and cannot see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gia.attacks.objectives import Agreement, Cosine, SquaredDifferences

SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "head.weight": (5, 4)}


def pair(seed, dtype=torch.float64):
    """Two gradients of one small net."""
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=g).to(dtype) for shape in SHAPES.values()] for _ in range(2)]


def agreement(gradients, targets, names=tuple(SHAPES)):
    """Their sums."""
    return Agreement(names, gradients, targets)


def flat(tensors):
    """One NumPy vector."""
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors])


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_they_are_the_formulas_of_the_papers(seed):
    """Geiping et al., 2020, Eq. 4: one cosine over all parameters at once; Zhu et al., 2019, Eq. 4: a sum, not a mean.
    If it fails, weights of priors and published step sizes no longer fit."""
    g, t = pair(seed)
    a, b = flat(g), flat(t)
    assert float(Cosine()(agreement(g, t))) == pytest.approx(
        1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12
    )
    assert float(SquaredDifferences()(agreement(g, t))) == pytest.approx(((a - b) ** 2).sum(), rel=1e-12)
    assert float(SquaredDifferences(scale=1e-4)(agreement(g, t))) == pytest.approx(
        1e-4 * ((a - b) ** 2).sum(), rel=1e-12
    )


@given(seed=st.integers(0, 99), mine=st.floats(-12, 12), theirs=st.floats(-12, 12))
@example(seed=0, mine=-11, theirs=-11)
@example(seed=0, mine=12, theirs=12)
@settings(max_examples=50, deadline=None)
def test_the_cosine_sees_no_scale_in_float32_either(seed, mine, theirs):
    """If it fails, the gradient of a well-trained net (norm 1e-10) underflows and its angle is read wrongly."""
    g, t = pair(seed, torch.float32)
    scaled = agreement([10**mine * x for x in g], [10**theirs * x for x in t])
    assert float(Cosine()(scaled)) == pytest.approx(float(Cosine()(agreement(g, t))), abs=1e-5)


def test_squared_differences_see_the_factor_that_the_cosine_hides():
    """If it fails, a victim's loss that is a sum where the attack's is a mean goes unnoticed by DLG as well."""
    _, t = pair(0)
    doubled = agreement([2 * x for x in t], t)
    assert float(Cosine()(doubled)) == pytest.approx(0, abs=1e-12)
    assert float(SquaredDifferences()(doubled)) == pytest.approx((flat(t) ** 2).sum())


def test_a_perfect_match_is_zero():
    """If it fails, objectives near a match are noise: the differences are taken of sums that cancel."""
    _, t = pair(0, torch.float32)
    assert float(SquaredDifferences()(agreement(t, t))) == 0
    near = [x + 1e-6 for x in t]
    expected = ((flat(near).astype(np.float64) - flat(t)) ** 2).sum()
    assert float(SquaredDifferences()(agreement(near, t))) == pytest.approx(expected, rel=1e-3)
    assert abs(float(Cosine()(agreement(t, t)))) < 1e-6


@pytest.mark.parametrize("which", ["gradient", "target", "both"])
def test_a_gradient_of_zeros_agrees_with_nothing_and_pulls_nowhere(which):
    """If it fails, a dead candidate or an empty target is a NaN, or counts as a match."""
    g, t = pair(0)
    g = [torch.zeros_like(x) if which != "target" else x for x in g]
    t = [torch.zeros_like(x) if which != "gradient" else x for x in t]
    leaves = [x.clone().requires_grad_() for x in g]
    value = Cosine()(agreement(leaves, t))
    assert value.item() == 1
    pulls = torch.autograd.grad(value, leaves)
    assert all(bool(pull.isfinite().all()) for pull in pulls)
    if which != "gradient":
        assert not any(bool(pull.any()) for pull in pulls)


@pytest.mark.parametrize("objective", [Cosine(), SquaredDifferences(3.0), Cosine(weights={"conv.bias": 2.0})], ids=repr)
def test_the_derivative_mixes_gradient_and_target_parameter_by_parameter(objective):
    """a*g + b*target with scalars per parameter. If it fails, a closed-form engine built on this would be wrong."""
    g, t = pair(1)
    leaves = [x.clone().requires_grad_() for x in g]
    for pull, one, other in zip(torch.autograd.grad(objective(agreement(leaves, t)), leaves), g, t, strict=True):
        basis = np.stack([one.numpy().ravel(), other.numpy().ravel()], 1)
        rest = np.linalg.lstsq(basis, pull.numpy().ravel(), rcond=None)
        np.testing.assert_allclose(basis @ rest[0], pull.numpy().ravel(), atol=1e-12)


def test_weights_and_layers_choose_what_counts():
    """If it fails, a factor acts on one of the three sums only, or a prefix picks other layers."""
    g, t = pair(2)
    a, b = flat(g[:2]), flat(t[:2])
    angle = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert float(Cosine(layers=["conv"])(agreement(g, t))) == pytest.approx(angle)
    assert float(Cosine(weights={"head.weight": 0.0})(agreement(g, t))) == pytest.approx(angle)
    a, b = flat([g[0] * 2, *g[1:]]), flat([t[0] * 2, *t[1:]])
    assert float(Cosine(weights={"conv.weight": 4.0})(agreement(g, t))) == pytest.approx(
        1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    )
    assert float(SquaredDifferences(layers=("head",))(agreement(g, t))) == pytest.approx(((g[2] - t[2]) ** 2).sum())
    assert float(
        SquaredDifferences(weights={"conv.bias": 5.0}, layers=("conv.bias",))(agreement(g, t))
    ) == pytest.approx(5 * float(((g[1] - t[1]) ** 2).sum()))


def test_names_that_no_parameter_has_are_errors():
    """If it fails, a mistyped layer means that nothing is matched, or everything."""
    both = agreement(*pair(0))
    with pytest.raises(ValueError, match="layers: expected prefixes of shared parameters"):
        Cosine(layers=["body"])(both)
    with pytest.raises(ValueError, match=r"weights: expected one of .*, got 'head.bias'"):
        SquaredDifferences(weights={"head.bias": 2.0})(both)
    with pytest.raises(TypeError, match=r"layers: expected a collection of prefixes such as \('conv',\), got a string"):
        Cosine(layers="conv")(both)


def test_trials_are_a_leading_axis():
    """If it fails, an engine that sums several trials at once gets one value for all of them."""
    (g, t), (h, s) = pair(0), pair(1)
    together = agreement(g, t)
    alone = [Cosine()(agreement(*each)) for each in ((g, t), (h, s))]
    for name in ("inner", "squared", "target_squared"):
        sums = torch.stack([getattr(agreement(g, t), name), getattr(agreement(h, s), name)])
        together.__dict__[name] = sums
    assert Cosine()(together).tolist() == pytest.approx([float(value) for value in alone])
