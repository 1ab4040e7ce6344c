"""The quotient of a linear layer's gradients is the weighted average that theory says, checked against autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.theory import conditioning, signals, weighted_average


def test_the_average_has_the_weights_worked_out_by_hand():
    """If this fails, the weights are not s_ni / sum s: signals 3 and 1 give .75 and .25, 2 and -1 give 2 and -1."""
    inputs = torch.tensor([[1.0, 0.0], [5.0, 8.0]], dtype=torch.float64)
    signals = torch.tensor([[3.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    assert weighted_average(inputs, signals).tolist() == [[2.0, 2.0], [-3.0, -8.0]]


@settings(settings.get_profile("unit"))
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_quotient_of_autograd_s_gradients_is_the_average(count, width, neurons, seed):
    """If this fails, the identity behind Fig. 2 is stated wrongly; autograd knows nothing of it."""
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, width, generator=g, dtype=torch.float64)
    weight = torch.randn(neurons, width, generator=g, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(neurons, generator=g, dtype=torch.float64, requires_grad=True)
    outputs = inputs @ weight.T + bias
    gW, gb, signals = torch.autograd.grad(outputs.cosh().log().sum(), (weight, bias, outputs))
    bound = 1e-13 * conditioning(signals)[:, None] * inputs.abs().max()
    assert ((gW / gb[:, None] - weighted_average(inputs, signals)).abs() <= bound).all()


def test_the_weights_of_a_neuron_add_up_to_one():
    """If this fails, the quotient is no average: equal inputs must be returned unchanged."""
    inputs = torch.full((3, 2), 0.25, dtype=torch.float64)
    signals = torch.tensor([[0.1], [-2.0], [5.0]], dtype=torch.float64)
    assert torch.allclose(weighted_average(inputs, signals), inputs[:1], rtol=1e-14)


def test_a_silent_or_cancelling_neuron_has_no_quotient():
    """If this fails, a neuron that no sample reaches seems to give an image."""
    signals = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    assert weighted_average(torch.ones(2, 3), signals).isnan().all()


def test_conditioning_is_one_without_cancellation_and_grows_with_it():
    """If this fails, rounding is allowed where there is none, or blamed where cancellation explains it."""
    signals = torch.tensor([[1.0, 3.0, 1.0], [2.0, -2.0, -1.0]])
    assert conditioning(signals).tolist() == [1.0, 5.0, float("inf")]


def test_signals_are_the_gradient_at_the_layer_s_output():
    """If this fails, the averages are weighted by something else: for logits dL/dy is (softmax - one hot) / N."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0])
    seen = signals(model, model[1], images, labels)
    expected = (model(images).softmax(1) - torch.nn.functional.one_hot(labels, 3)) / 2
    assert torch.allclose(seen, expected, atol=1e-7)
    assert not model[1]._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((6,), (2, 3)), ((0, 3), (0, 4))])
def test_inputs_and_signals_of_different_batches_are_refused(shapes):
    """If this fails, broadcasting invents a batch."""
    with pytest.raises(ValueError, match="inputs, signals: expected shapes"):
        weighted_average(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
