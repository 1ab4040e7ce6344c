"""Noise, clipping, pruning and quantization: what they promise about every tensor."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import gia
from gia.defenses import DEFENSES, clip, noise, prune, quantize
from gia.federated import Observation


def observed(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Observation:
    """A gradient with normal entries of different scales."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {
        f"p{place}": torch.randn(shape, generator=generator, dtype=dtype) * 10.0**-place
        for place, shape in enumerate(shapes)
    }
    return Observation(gradients, image_shape=(1, 2, 2), batch_size=2, labels=torch.tensor([0, 1]))


def seeded(seed: int = 0) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def flat(observation: Observation) -> torch.Tensor:
    """All entries behind one another."""
    return torch.cat([g.double().flatten() for g in observation.gradients.values()])


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_noise_has_the_stated_deviation_in_every_tensor_and_is_independent_of_it(kind: str) -> None:
    """The deviation of 20,000 entries is known to .5 % (Laplace: .8 %); at least six of these are allowed."""
    before = observed((100, 200), (20_000,))
    after = noise(std=0.3, kind=kind)(before, generator=seeded())
    added = {name: (after.gradients[name] - before.gradients[name]).double().flatten() for name in before.gradients}
    for name, values in added.items():
        assert float(values.std()) == pytest.approx(0.3, rel=0.065 if kind == "laplace" else 0.03)
        assert abs(float(values.mean())) < 4 * 0.3 / math.sqrt(20_000)
        correlation = torch.corrcoef(torch.stack([values, before.gradients[name].double().flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(20_000)
    assert abs(float(torch.corrcoef(torch.stack(list(added.values())))[0, 1])) < 4 / math.sqrt(20_000)


def test_laplace_noise_has_the_tails_of_laplace() -> None:
    """The fourth moment over the squared variance is 6 for Laplace and 3 for a normal distribution."""
    before = observed((200_000,))
    for kind, kurtosis in (("gaussian", 3.0), ("laplace", 6.0)):
        added = flat(noise(std=1.0, kind=kind)(before, generator=seeded())) - flat(before)
        assert float((added**4).mean() / (added**2).mean() ** 2) == pytest.approx(kurtosis, rel=0.1)


def test_one_seed_gives_the_same_noise_and_another_seed_another() -> None:
    """A block can be computed again."""
    before = observed((50,))
    first, again, other = (noise(std=1.0)(before, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.gradients["p0"], again.gradients["p0"])
    assert not torch.equal(first.gradients["p0"], other.gradients["p0"])


@pytest.mark.parametrize("defense", [noise(std=1.0), quantize(bits=2)])
def test_a_random_defense_asks_for_a_generator_and_leaves_the_global_state(defense: noise | quantize) -> None:
    """Two runs would differ otherwise."""
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"generator: expected a torch\.Generator, got None"):
        defense(observed((3,)))
    defense(observed((3,)), generator=seeded())
    assert torch.equal(state, torch.get_rng_state())


@given(norm=st.floats(1e-6, 1e3), seed=st.integers(0, 99))
@example(norm=2.5, seed=0)  # between the norm of the gradient, 3.37, and half of it
def test_clipping_bounds_the_norm_over_all_tensors_and_keeps_the_direction(norm: float, seed: int) -> None:
    """The norm is that of all tensors together, as in Abadi et al. (2016)."""
    before = observed((3, 4), (5,), seed=seed, dtype=torch.float64)
    after, length = clip(norm=norm)(before), float(flat(before).norm())
    assert float(flat(after).norm()) == pytest.approx(min(norm, length), rel=1e-12)
    torch.testing.assert_close(flat(after) * max(1.0, length / norm), flat(before), rtol=1e-12, atol=0)


@given(keep=st.floats(1e-3, 1.0), size=st.integers(1, 200), ties=st.booleans())
def test_pruning_keeps_the_stated_share_of_each_tensor_and_the_largest_entries_as_they_are(
    keep: float, size: int, ties: bool
) -> None:
    """Every tensor by itself: one of a small scale is not pruned away by another. Equal entries change no number."""
    before = observed((size,), (7,))
    if ties:
        before = Observation({n: g.sign() for n, g in before.gradients.items()}, image_shape=(1, 2, 2), batch_size=2)
    after = prune(keep=keep)(before)
    for name, original in before.gradients.items():
        kept = after.gradients[name] != 0
        assert int(kept.sum()) == max(1, round(keep * original.numel()))
        assert torch.equal(after.gradients[name][kept], original[kept])
        assert bool(kept.all()) or float(original[kept].abs().min()) >= float(original[~kept].abs().max())


def test_signs_keep_the_mean_absolute_value_of_each_tensor() -> None:
    """Bernstein et al., 2018; the scale is that of Karimireddy et al., 2019."""
    after = quantize(bits=1)(observed((4, 5), (6,)))
    for name, original in observed((4, 5), (6,)).gradients.items():
        torch.testing.assert_close(after.gradients[name], original.sign() * original.abs().mean())


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_quantization_has_as_many_levels_as_its_bits_allow_and_keeps_the_mean(bits: int) -> None:
    """QSGD is unbiased: over 400 draws each entry's mean is within 5 standard errors, at most half a level / 20."""
    before, largest = observed((30,)), float(observed((30,)).gradients["p0"].abs().max())
    level = largest / (2 ** (bits - 1) - 1)
    generator = seeded()
    draws = torch.stack([quantize(bits=bits)(before, generator=generator).gradients["p0"] for _ in range(400)])
    assert torch.allclose(draws / level, (draws / level).round(), atol=1e-3)
    assert len((draws[0] / level).round().unique()) <= 2**bits - 1
    assert float((draws.mean(0) - before.gradients["p0"]).abs().max()) < 5 * (level / 2) / math.sqrt(400)


def test_a_tensor_of_zeros_stays_one() -> None:
    """Nothing is divided by its largest entry or its norm."""
    zero = Observation({"w": torch.zeros(3)}, image_shape=(1, 1, 1), batch_size=1)
    for defense in (clip(norm=1.0), prune(keep=0.5), quantize(bits=1), partial(quantize(bits=4), generator=seeded())):
        assert not defense(zero).gradients["w"].any()


def test_a_defense_changes_the_gradient_and_nothing_else() -> None:
    """What leaks beside the gradient is not the defense's to change."""
    before = observed((4,))
    for defense in (noise(std=1.0), clip(norm=0.1), prune(keep=0.5), quantize(bits=2)):
        after = defense(before, generator=seeded())
        assert not torch.equal(after.gradients["p0"], before.gradients["p0"])
        assert torch.equal(before.gradients["p0"], observed((4,)).gradients["p0"])
        assert (after.batch_size, after.image_shape, after.gradients["p0"].dtype) == (2, (1, 2, 2), torch.float32)
        assert after.labels is not None
        assert after.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noise(std=-1.0), "std: expected a number from 0 on, got -1.0"),
        (lambda: noise(std=math.nan), "std: expected"),
        (lambda: noise(std=1.0, kind="cauchy"), "kind: "),
        (lambda: clip(norm=0.0), "norm: expected a number above 0, got 0.0"),
        (lambda: clip(norm=math.inf), "norm: expected"),
        (lambda: prune(keep=0.0), "keep: expected a number above 0 and at most 1, got 0.0"),
        (lambda: prune(keep=1.1), "keep: expected"),
        (lambda: quantize(bits=0), "bits: expected a whole number from 1 to 16, got 0"),
        (lambda: quantize(bits=True), "bits: expected"),
    ],
)
def test_a_setting_out_of_range_is_named(make: object, message: str) -> None:
    """A share of 1.1 or a norm of 0 would be a typing mistake."""
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_defenses_compose_in_a_client_in_the_order_given() -> None:
    """Clipping after noise bounds what is shared; noise after clipping does not."""
    model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=seeded())
    images, labels = torch.rand(2, 3, 4, 4, generator=seeded()), torch.tensor([0, 1])

    def shared(*defenses: object) -> float:
        return float(flat(gia.federated.Client(images, labels, defenses=defenses).answer(model)).norm())  # type: ignore[arg-type]

    noisy = partial(noise(std=1.0), generator=seeded())
    assert shared(noisy, clip(norm=0.5)) == pytest.approx(0.5, rel=1e-6)
    assert shared(clip(norm=0.5), partial(noise(std=1.0), generator=seeded())) > 1


def test_every_defense_has_a_name_and_a_repr_that_makes_it_again() -> None:
    """A report prints which defense there was."""
    assert sorted(DEFENSES) == ["clip", "dp_sgd", "noise", "prune", "quantize", "soteria"]
    for made in (noise(std=0.1), clip(norm=1.0), prune(keep=0.2), quantize(bits=3)):
        assert eval(repr(made), dict(DEFENSES)) == made
