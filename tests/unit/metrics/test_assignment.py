"""Matching against all permutations, alignment, and the score of a failed attack."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import metrics

UNIT = settings.get_profile("unit")


def cheapest(cost):
    """The least total cost (rows to columns, all of the shorter axis assigned) by trying every assignment."""
    cost = cost if len(cost) <= cost.shape[1] else cost.T
    return min(sum(cost[i, j] for i, j in enumerate(order)) for order in permutations(range(cost.shape[1]), len(cost)))


@UNIT
@given(st.permutations(range(6)), st.floats(0, 0.2), st.integers(0, 2**32 - 1))
def test_a_shuffled_batch_is_put_back_in_order(photos, noise_like, order, amount, seed):
    """If this fails, an attack's score depends on the order in which it returns its images."""
    reference = photos(16, count=6, dtype=torch.float32)
    reconstruction = reference + amount * noise_like(reference, seed)
    chosen = metrics.match(reconstruction[list(order)], reference)
    assert [order[index] for index in chosen] == list(range(6))
    aligned = metrics.align(reconstruction[list(order)], reference, blind=torch.zeros_like(reference))
    assert aligned.equal(reconstruction)


@UNIT
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_assignment_is_the_cheapest_of_all(count, originals, seed):
    """If this fails, matching is greedy or wrong when there are more or fewer reconstructions than originals."""
    generator = torch.Generator().manual_seed(seed)
    reconstruction = torch.rand(count, 1, 2, 2, generator=generator, dtype=torch.float64)
    reference = torch.rand(originals, 1, 2, 2, generator=generator, dtype=torch.float64)
    chosen = metrics.match(reconstruction, reference)
    cost = (reconstruction[:, None] - reference[None]).square().mean(dim=(2, 3, 4))
    used = chosen[chosen >= 0]
    assert len(used) == len(used.unique()) == min(count, originals)
    total = sum(cost[index, column] for column, index in enumerate(chosen) if index >= 0)
    assert float(total) == pytest.approx(float(cheapest(cost)), rel=1e-9)


@UNIT
@given(st.permutations(range(5)), st.permutations(range(5)), st.integers(0, 2**32 - 1))
def test_the_pairing_follows_the_images_and_not_their_places(rows, columns, seed):
    """If this fails, a failed attack scores by the order of its images: here all costs differ by parts in a million."""
    generator = torch.Generator().manual_seed(seed)
    reconstruction, reference = (
        0.5 + 1e-4 * torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    rows, columns = torch.tensor(rows), torch.tensor(columns)
    chosen = metrics.match(reconstruction, reference)
    assert rows[metrics.match(reconstruction[rows], reference[columns])].equal(chosen[columns])


def test_even_the_worst_reconstruction_belongs_to_an_original():
    """If this fails, a bad reconstruction is left out, and its original scores as the better blind guess."""
    black, white = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    assert sorted(metrics.match(black, white).tolist()) == [0, 1]
    assert metrics.align(black, white, blind=white).equal(black)


def test_a_greedy_choice_would_be_dearer():
    """If this fails, each original takes its nearest: by hand, .5 is nearer to .4 but the cheap total crosses."""
    reconstruction = torch.tensor([0.5, 0.3]).view(2, 1, 1, 1)
    reference = torch.tensor([0.4, 0.9]).view(2, 1, 1, 1)
    assert metrics.match(reconstruction, reference).tolist() == [1, 0]


def test_originals_without_a_reconstruction_get_minus_one_and_the_blind_guess(photos):
    """If this fails, an attack that returns fewer images is scored only on those."""
    reference = photos(16)
    blind = metrics.blind_guess(reference)
    chosen = metrics.match(reference[[3, 1]], reference)
    assert chosen.tolist() == [-1, 1, -1, 0]
    aligned = metrics.align(reference[[3, 1]], reference, blind=blind)
    assert aligned[[1, 3]].equal(reference[[1, 3]])
    assert aligned[[0, 2]].equal(blind[[0, 2]])
    assert metrics.match(reference[:0], reference).tolist() == [-1, -1, -1, -1]
    assert metrics.align(reference[:0], reference, blind=blind).equal(blind)


def test_surplus_reconstructions_are_left_out(photos, noise_like):
    """If this fails, one good image is given to several originals, or a decoy displaces it."""
    reference = photos(16)
    decoys = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pool = torch.cat((decoys[:2], reference.flip(0), decoys[2:]))
    assert metrics.match(pool, reference).tolist() == [5, 4, 3, 2]


def test_images_beyond_the_range_are_matched_as_they_would_be_shown():
    """If this fails, a raw analytic result loses its original to a gray image: clamped, 9 is white and -9 black."""
    reconstruction = torch.tensor([9.0, 0.5, -9.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    reference = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert metrics.match(reconstruction, reference).tolist() == [0, 2]
    aligned = metrics.align(reconstruction, reference, blind=reference)
    assert aligned[0].unique().tolist() == [9]


def test_lpips_matches_by_looks_where_pixels_are_fooled(photos):
    """If this fails, `by="lpips"` matches by pixels: a gray constant beats a negative in pixels, not in looks."""
    reference = photos(32, count=2)
    shifted = reference.roll(2, dims=3)
    assert metrics.match(shifted.flip(0), reference, by="lpips").tolist() == [1, 0]
    constant = reference[:1].mean(dim=(2, 3), keepdim=True).expand(1, 3, 32, 32)
    pool = torch.cat((constant, 1 - reference[:1]))
    assert metrics.match(pool, reference[:1]).tolist() == [0]
    assert metrics.match(pool, reference[:1], by="lpips").tolist() == [1]


def test_the_blind_guess_is_the_better_of_the_best_constant_and_the_mean_image(photos):
    """If this fails, the control that voids failed attacks requires too little or too much."""
    reference = photos(16)
    constant = metrics.blind_guess(reference)
    assert (constant.amax(dim=(2, 3)) - constant.amin(dim=(2, 3))).abs().max() == 0
    torch.testing.assert_close(constant[..., 0, 0], reference.mean(dim=(2, 3)))
    for shift in (-0.01, 0.01):
        assert (metrics.psnr(constant + shift, reference) < metrics.psnr(constant, reference)).all()
    near = (reference[2] * 0.9).clone()
    guess = metrics.blind_guess(reference, mean_image=near)
    assert guess[2].equal(near)
    assert guess[[0, 1, 3]].equal(constant[[0, 1, 3]])
    assert metrics.blind_guess(reference, mean_image=near[None]).equal(guess)


def test_unfit_arguments_are_refused_by_name(photos):
    """If this fails, a wrong shape is broadcast into a score."""
    reference = photos(16)
    with pytest.raises(ValueError, match=r"by: expected one of \['pixels', 'lpips'\], got 'ssim'"):
        metrics.match(reference, reference, by="ssim")
    with pytest.raises(
        ValueError, match=r"reconstruction: expected images of the shape of those in reference, \(3, 16, 16\), got"
    ):
        metrics.match(reference[:, :1], reference)
    with pytest.raises(ValueError, match=r"blind: expected the shape of reference, \(4, 3, 16, 16\)"):
        metrics.align(reference, reference, blind=reference[:1])
    with pytest.raises(ValueError, match=r"mean_image: expected a Tensor \(3, 16, 16\), got \(4, 3, 16, 16\)"):
        metrics.blind_guess(reference, mean_image=reference)
    with pytest.raises(ValueError, match=r"mean_image: expected values in \[0,1\]"):
        metrics.blind_guess(reference, mean_image=reference[0] + 1)
    with pytest.raises(ValueError, match="reference: expected at least one image"):
        metrics.match(reference, reference[:0])
