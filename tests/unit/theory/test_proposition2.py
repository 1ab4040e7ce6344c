"""Proposition 2's count against a closed form, an enumeration and the paper's setting."""

from itertools import combinations_with_replacement, product
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.theory import expected_exact_recoveries


def alone(bins_of_images) -> int:
    """How many images are the only ones in their bin."""
    return sum(bins_of_images.count(bin_) == 1 for bin_ in bins_of_images)


@pytest.mark.parametrize(
    ("batch_size", "paper", "independent"), [(8, 63.05, 63.55), (32, 60.14, 62.05), (64, 56.57, 60.09)]
)
def test_sixty_four_images_and_a_thousand_bins_give_the_known_counts(batch_size, paper, independent):
    """If this fails, a formula is wrong. The numbers, out of 64 images, follow by hand from the closed forms
    n k(k-1) / ((n+k-1)(n+k-2)) - n/k and n (1 - 1/k)^(n-1)."""
    batches = 64 // batch_size
    assert batches * expected_exact_recoveries(batch_size, 1000) == pytest.approx(paper, abs=0.005)
    count = expected_exact_recoveries(batch_size, 1000, model="independent")
    assert batches * count == pytest.approx(independent, abs=0.005)


@settings(settings.get_profile("unit"), max_examples=100)
@given(st.integers(2, 40), st.integers(2, 300))
def test_the_paper_s_sum_has_a_closed_form(n, k):
    """If this fails, the double sum drops or repeats an occupancy: without -n/k it is n k(k-1) / ((n+k-1)(n+k-2))."""
    closed = n * k * (k - 1) / ((n + k - 1) * (n + k - 2))
    assert expected_exact_recoveries(n, k) + n / k == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 4), (2, 3), (3, 3), (4, 2), (4, 5), (5, 4)])
def test_small_cases_agree_with_an_enumeration(n, k):
    """If this fails, a formula does not count images alone in a bin: here every occupancy is listed."""
    identical, distinct = list(combinations_with_replacement(range(k), n)), list(product(range(k), repeat=n))
    paper = sum(map(alone, identical)) / len(identical) - n / k
    assert expected_exact_recoveries(n, k) == pytest.approx(paper, rel=1e-12, abs=1e-12)
    independent = sum(map(alone, distinct)) / len(distinct)
    assert expected_exact_recoveries(n, k, model="independent") == pytest.approx(independent, rel=1e-12)


@pytest.mark.timing
def test_the_count_at_the_paper_s_size_takes_less_than_a_second():
    """If this fails, exact integers cost more than a claim may spend on a formula."""
    start = perf_counter()
    expected_exact_recoveries(64, 1000)
    assert perf_counter() - start < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0, "bins": 5}, "^batch_size: expected"),
        ({"batch_size": 2.0, "bins": 5}, "^batch_size: expected"),
        ({"batch_size": 2, "bins": 0}, "^bins: expected"),
        ({"batch_size": 2, "bins": True}, "^bins: expected"),
        (
            {"batch_size": 2, "bins": 5, "model": "poisson"},
            r"^model: expected one of \['paper', 'independent'\], got 'poisson'",
        ),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    """If this fails, a typing error gives a number."""
    with pytest.raises(ValueError, match=message):
        expected_exact_recoveries(**arguments)
