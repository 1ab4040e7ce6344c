"""Private batches by label pattern."""

import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gia import data

PATTERNS = st.one_of(st.sampled_from(["any", "distinct", "equal"]), st.integers(1, 4))


def made(labels):
    """Images of one pixel with these labels."""
    return data.Images(
        images=torch.zeros(len(labels), 1, 1, 1),
        labels=torch.tensor(labels),
        source="made",
        licence="none",
        num_classes=max(labels) + 1,
    )


def generator(seed=0):
    """A new generator."""
    return torch.Generator().manual_seed(seed)


def fits(batch, pattern):
    """Whether the labels of one batch follow the pattern, by its definition."""
    counts = sorted(Counter(batch).values(), reverse=True)
    if pattern == "any":
        return True
    if pattern == "distinct":
        return counts[0] == 1
    if pattern == "equal":
        return len(counts) == 1
    return counts[0] == pattern and all(count == 1 for count in counts[1:])


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=24),
    pattern=PATTERNS,
    batch_size=st.integers(1, 4),
    batches=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_draw_follows_its_pattern_or_is_refused(labels, pattern, batch_size, batches, seed):
    """If this fails, a batch breaks its label pattern or repeats an image, or a possible draw is refused."""
    images, count = made(labels), batch_size * batches
    sizes = Counter(labels).values()
    possible = {
        "any": len(labels) >= count,
        "distinct": sum(min(size, batches) for size in sizes) >= count,
        "equal": sum(size // batch_size for size in sizes) >= batches,
    }
    try:
        drawn = data.sample(images, count, pattern=pattern, batch_size=batch_size, generator=generator(seed))
    except ValueError:
        assert not possible.get(pattern, False)
        return
    assert possible.get(pattern, True)
    assert drawn.dtype == torch.int64
    assert drawn.unique().numel() == count
    for batch in images.labels[drawn].view(batches, batch_size).tolist():
        assert fits(batch, pattern)


@given(batch_size=st.integers(2, 8), equal=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_exactly_k_equal_labels_can_always_be_drawn_from_faces(batch_size, equal, seed):
    """If this fails, same-label levels of a claim cannot be drawn from 40 persons with ten pictures each."""
    if equal > batch_size:
        return
    faces = made([person for person in range(40) for _ in range(10)])
    drawn = data.sample(faces, 2 * batch_size, pattern=equal, batch_size=batch_size, generator=generator(seed))
    for batch in faces.labels[drawn].view(2, batch_size).tolist():
        assert fits(batch, equal)


@pytest.mark.parametrize(
    ("labels", "pattern"),
    [([0] * 6 + [1, 2], "distinct"), ([0] * 4 + [1] * 4 + [2] * 4, 2)],
    ids=["more images of a label than batches", "the leading label among the others"],
)
def test_no_label_occurs_more_often_in_a_batch_than_the_pattern_says(labels, pattern):
    """If this fails, a batch breaks its pattern in cases where a careless draw would do so at least once in three."""
    images, batch_size = made(labels), 2 if pattern == "distinct" else 3
    for seed in range(20):
        drawn = data.sample(images, 2 * batch_size, pattern=pattern, batch_size=batch_size, generator=generator(seed))
        for batch in images.labels[drawn].view(2, batch_size).tolist():
            assert fits(batch, pattern)


def test_a_set_that_only_just_allows_the_pattern_is_not_refused():
    """If this fails, a possible draw is refused: one label leads each batch, every other image is needed."""
    images = made([0, 0, 1, 1, 2, 2, 3, 3])
    drawn = data.sample(images, 6, pattern=2, batch_size=3, generator=generator())
    for batch in images.labels[drawn].view(2, 3).tolist():
        assert fits(batch, 2)


def test_every_image_is_drawn_about_equally_often():
    """If this fails, some images never become private, and a claim rests on fewer than it says."""
    images = made([label for label in range(5) for _ in range(4)])
    for pattern in ("any", "distinct", "equal", 2):
        counts = torch.zeros(20)
        source = generator(1)
        for _ in range(500):
            counts[data.sample(images, 4, pattern=pattern, generator=source)] += 1
        # Each image is in a draw with probability 4/20: 100 of 500, with standard deviation 8.9; five of them.
        assert (counts - 100).abs().max() < 45


def test_the_generator_alone_decides_the_draw():
    """If this fails, a block cannot be repeated, or it changes the random numbers of other code."""
    faces = made([person for person in range(40) for _ in range(10)])
    state = torch.get_rng_state()
    draws = [data.sample(faces, 8, pattern="distinct", generator=generator(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], data.sample(faces, 8, pattern="distinct", generator=generator(6)))
    assert torch.equal(state, torch.get_rng_state())


def test_the_error_of_an_impossible_pattern_says_which_images_there_are():
    """If this fails, a user does not learn why: CIFAR-10's 20 samples have eight classes, two with four images."""
    samples = data.load("cifar10-samples")
    assert data.sample(samples, 8, pattern="distinct", generator=generator()).numel() == 8
    assert data.sample(samples, 4, pattern="equal", generator=generator()).numel() == 4
    inventory = re.escape("got 20 of CIFAR-10 test images 0-19: 2 labels with 4,")
    for count, pattern in ((9, "distinct"), (5, "equal"), (21, "any")):
        with pytest.raises(ValueError, match=inventory):
            data.sample(samples, count, pattern=pattern, generator=generator())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 6, "batch_size": 4}, "count: expected a positive multiple of batch_size = 4, got 6"),
        ({"count": 0}, "count: expected a positive multiple of batch_size = 0, got 0"),
        ({"count": 4, "pattern": "same"}, "pattern: expected one of ['any', 'distinct', 'equal'], got 'same'"),
        ({"count": 4, "pattern": True}, "pattern: expected 'any', 'distinct', 'equal' or an int, got True"),
        ({"count": 4, "pattern": 5}, "pattern: expected 1 .. batch_size = 4, got 5"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    """If this fails, a typo in a pattern draws any batch."""
    with pytest.raises(ValueError, match=re.escape(message)):
        data.sample(made([0] * 8), generator=generator(), **arguments)
