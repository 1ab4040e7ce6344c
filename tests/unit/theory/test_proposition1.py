"""The quantities of Proposition 1 against cases computed by hand and the gradient of the whole batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import share_gradient
from gia.models import build
from gia.theory import as_rows, cosines, neighbours, sample_gradients


@settings(settings.get_profile("unit"), max_examples=10)
@given(st.integers(1, 5), st.sampled_from(["convnet", "mlp"]), st.integers(0, 2**32 - 1))
def test_the_batch_shares_the_mean_of_its_samples_gradients(count, name, seed):
    """If this fails, a row is not the gradient of its sample, and the cosines of Table II mean something else."""
    g = torch.Generator().manual_seed(seed)
    model = build(name, num_classes=4, image_size=8, width=4, generator=g, dtype=torch.float64)
    images, labels = torch.rand(count, 3, 8, 8, generator=g), torch.randint(4, (count,), generator=g)
    rows = sample_gradients(model, images, labels)
    batch = as_rows([share_gradient(model, images, labels)])[0]
    assert rows.shape == (count, sum(p.numel() for p in model.parameters()))
    torch.testing.assert_close(rows.mean(0), batch, rtol=1e-10, atol=1e-14)


def test_cosines_are_those_of_the_rows():
    """If this fails, lengths or signs enter: (1,0), (3,3) and (0,-2) have the cosines 1, 1/sqrt 2, 0 and -1/sqrt 2."""
    half = 0.5**0.5
    rows = torch.tensor([[1.0, 0.0], [3.0, 3.0], [0.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    by_hand = [[1, half, 0, 0], [half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(cosines(rows), torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(cosines(rows, rows[1:2])[:, 0], torch.tensor(by_hand, dtype=torch.float64)[:, 1])


def test_neighbours_lie_within_epsilon_border_included():
    """If this fails, the border is counted wrongly, or the pool taken for the rows: 0 and 3 among 0, 1, 1 and 3."""
    pool = torch.tensor([[0.0], [1.0], [1.0], [3.0]], dtype=torch.float64)
    for epsilon, by_hand in ((0, [1, 1]), (1, [3, 1]), (2, [3, 3]), (3, [4, 4])):
        assert neighbours(pool[[0, 3]], pool, epsilon=epsilon).tolist() == by_hand


@pytest.mark.parametrize(("gradients", "epsilon", "named"), [((3, 1), 1.0, "gradients"), ((3, 2), -1.0, "epsilon")])
def test_other_shapes_and_a_negative_epsilon_are_refused(gradients, epsilon, named):
    """If this fails, a neighbourhood that means nothing is counted."""
    with pytest.raises(ValueError, match=named):
        neighbours(torch.zeros(gradients), torch.zeros(3, 2), epsilon=epsilon)
