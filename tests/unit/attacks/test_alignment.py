"""Registration of real images that are known to be shifted or exchanged."""

from __future__ import annotations

import itertools

import pytest
import torch

import gia
from gia.attacks.alignment import consensus, shift, shifts


@pytest.fixture(scope="module")
def photos():
    """Twenty CIFAR-10 test images."""
    return gia.data.load("cifar10-samples").images.double()


def moved(images, down, right):
    """Pixel by pixel, with the border repeated."""
    _, _, height, width = images.shape
    result = torch.empty_like(images)
    for i, j in itertools.product(range(height), range(width)):
        result[..., i, j] = images[..., min(max(i - down, 0), height - 1), min(max(j - right, 0), width - 1)]
    return result


def test_an_image_is_moved_down_and_right_and_its_border_repeated(photos):
    """If it fails, axes or signs are exchanged, or the other side of the image wraps around into view."""
    offsets = torch.tensor([[0, 0], [1, 0], [0, 2], [-3, 1]])
    found = shift(photos[:4], offsets)
    for image, one, (down, right) in zip(photos, found, offsets.tolist(), strict=False):
        assert one.equal(moved(image[None], down, right)[0])


def test_every_shift_of_a_photo_is_found(photos):
    """All 25 shifts of all 20 photos, with noise. If it fails, a candidate is averaged where it does not belong."""
    noise = 0.05 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for offset in itertools.product(range(-2, 3), repeat=2):
        offsets = torch.tensor([offset]).expand(len(photos), 2)
        assert shifts(shift(photos, offsets) + noise, photos, radius=2).equal(-offsets)


def test_the_consensus_of_shifted_photos_is_the_photo(photos):
    """Four candidates of which one is shifted by (2, -1). If it fails, the mean is blurred by what it should undo."""
    batch = photos[:3]
    offsets = torch.tensor([[2, -1]]).expand(3, 2)
    candidates = torch.stack([batch, batch, shift(batch, offsets), batch])[None]
    labels = torch.tensor([[0, 1, 2]])
    found, plain = (consensus(candidates, labels, radius=radius) for radius in (2, 0))
    assert found.shape == candidates.shape
    inside = slice(3, -3)
    assert (found - batch)[..., inside, inside].abs().max() < 1e-12
    torch.testing.assert_close(plain, candidates.mean(1, keepdim=True).expand_as(candidates))
    assert (plain - batch)[..., inside, inside].abs().max() > 0.1


def test_images_of_equal_label_are_matched_and_others_never(photos):
    """The second candidate has image b in the other place of label 5, and image a in the place of label 7, where it
    fits better elsewhere. If it fails, different images are averaged, or a class is pulled towards another."""
    a, b, c = photos[:3]
    candidates = torch.stack([torch.stack([a, b, c]), torch.stack([b, c, a])])[None]
    found = consensus(candidates, torch.tensor([[5, 5, 7]]), radius=0)
    torch.testing.assert_close(found[0, 0], torch.stack([(a + c) / 2, b, (a + c) / 2]))
    torch.testing.assert_close(found[0, 1], torch.stack([b, (a + c) / 2, (a + c) / 2]))
    apart = consensus(candidates, torch.tensor([[4, 5, 7]]), radius=0)
    torch.testing.assert_close(apart[0, 0], torch.stack([(a + b) / 2, (b + c) / 2, (a + c) / 2]))


def test_three_images_of_one_label_come_back_in_each_candidate_s_own_order(photos):
    """If it fails, the order is applied where its inverse belongs: two images hide that, a cycle of three does not."""
    a, b, c = photos[:3]
    candidates = torch.stack([torch.stack([a, b, c]), torch.stack([b, c, a])])[None]
    torch.testing.assert_close(consensus(candidates, torch.tensor([[1, 1, 1]]), radius=0), candidates)


def test_observations_never_mix(photos):
    """If it fails, the candidates of one observation are pulled towards another's images."""
    candidates = photos[:16].view(2, 4, 2, 3, 32, 32)
    labels = torch.tensor([[3, 3], [1, 2]])
    together = consensus(candidates, labels, radius=2)
    for one in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(together[one], consensus(candidates[one], labels[one], radius=2))


def test_a_radius_that_leaves_nothing_to_compare_is_an_error(photos):
    """If it fails, every shift of a small image fits equally well, and one of them is taken."""
    with pytest.raises(ValueError, match="radius: expected less than half of 4 x 32 pixels, got 2"):
        shifts(photos[..., :4, :], photos[..., :4, :], radius=2)
