"""What holds for every metric: checks that name the argument, one number per image, nothing touched."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import metrics

UNIT = settings(settings.get_profile("unit"), max_examples=20)


def top_colors(images):
    """Ten "classes": fixed directions in the space of mean colors."""
    directions = torch.sin(torch.arange(10 * images.shape[1], dtype=images.dtype)).view(10, -1)
    return images.mean(dim=(2, 3)) @ directions.T


GRAY = torch.full((3, 32, 32), 0.5, dtype=torch.float64)
METRICS = {
    "psnr": metrics.psnr,
    "exact": metrics.exact,
    "exact_share": metrics.exact_share,
    "recovered_share": metrics.recovered_share,
    "rmse": metrics.rmse,
    "ssim": metrics.ssim,
    "cw_ssim": metrics.cw_ssim,
    "lpips": metrics.lpips,
    "jaccard": lambda x, y: metrics.jaccard(x, y, classifier=top_colors, k=3),
    "rdlv": lambda x, y: metrics.rdlv(x, y, prior=GRAY),
    "score": lambda x, y: metrics.score(x, y, metrics=["psnr"])["psnr"],
    "match": metrics.match,
    "align": lambda x, y: metrics.align(x, y, blind=GRAY.expand(4, 3, 32, 32)),
}
EXPECTED_AT_IDENTITY = {
    "psnr": 100,
    "exact": 1,
    "exact_share": 1,
    "recovered_share": 1,
    "rmse": 0,
    "ssim": 1,
    "cw_ssim": 1,
    "lpips": 0,
    "jaccard": 1,
}
PER_IMAGE = list(EXPECTED_AT_IDENTITY)


UNFIT = {
    "an array": (lambda x, y: (x.numpy(), y), TypeError, "reconstruction: expected a Tensor (B,C,H,W), got ndarray"),
    "one image": (lambda x, y: (x[0], y), ValueError, "reconstruction: expected shape (B,C,H,W)"),
    "bytes": (lambda x, y: ((255 * x).to(torch.uint8), y), TypeError, "reconstruction: expected float32 or float64"),
    "half precision": (lambda x, y: (x.half(), y), TypeError, "reconstruction: expected float32 or float64"),
    "two dtypes": (lambda x, y: (x.float(), y), TypeError, "reconstruction: expected the dtype of reference"),
    "one NaN": (
        lambda x, y: (x.where(x != x[1, 0, 0, 0], torch.nan), y),
        ValueError,
        "reconstruction: expected finite values",
    ),
    "infinity": (lambda x, y: (x * torch.inf, y), ValueError, "reconstruction: expected finite values"),
    "two widths": (lambda x, y: (x[..., :-1], y), ValueError, "reconstruction: expected"),
    "no channels": (lambda x, y: (x, y[:, :0]), ValueError, "reference: expected shape (B,C,H,W) with C, H, W > 0"),
    "no images": (lambda x, y: (x[:0], y[:0]), ValueError, "reference: expected at least one image"),
    "a bright original": (lambda x, y: (x, y * 1.5), ValueError, "reference: expected values in [0,1], got [0"),
    "a dark original": (lambda x, y: (x, y - 1), ValueError, "reference: expected values in [0,1], got [-1"),
    "a NaN original": (
        lambda x, y: (x, y * torch.nan),
        ValueError,
        "reference: expected finite values, got NaN or infinity",
    ),
    "integer originals": (lambda x, y: (x, (255 * y).long()), TypeError, "reference: expected float32 or float64"),
    "no original": (lambda x, y: (x, None), TypeError, "reference: expected a Tensor (B,C,H,W), got NoneType"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("case", UNFIT)
def test_unfit_images_are_refused_by_the_name_of_the_argument(photos, name, case):
    """If this fails, a metric gives a number for images that it was not made for."""
    spoil, error, message = UNFIT[case]
    with pytest.raises(error, match=re.escape(message)):
        METRICS[name](*spoil(photos(32), photos(32)))


@pytest.mark.parametrize("name", PER_IMAGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 224])
def test_identical_images_score_the_best_there_is(photos, name, size, channels, dtype):
    """If this fails, an exact reconstruction is not seen as one at some size, in gray, in color, or in a dtype."""
    reference = photos(size, count=2, channels=channels, dtype=dtype)
    if name == "lpips" and size < 32:
        with pytest.raises(ValueError, match="at least 32 pixels"):
            metrics.lpips(reference, reference)
        return
    scores = METRICS[name](reference.clone(), reference)
    assert scores.shape == (2,)
    assert scores.dtype == (torch.bool if name == "exact" else dtype)
    assert scores.tolist() == [EXPECTED_AT_IDENTITY[name]] * 2


@UNIT
@given(st.sampled_from(PER_IMAGE), st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_a_batch_is_scored_image_by_image(photos, noise_like, name, order, seed):
    """If this fails, an image's score depends on its place in the batch or on its neighbors."""
    reference = photos(32)
    reconstruction = reference + 0.1 * noise_like(reference, seed)
    together = METRICS[name](reconstruction, reference).double()
    shuffled = METRICS[name](reconstruction[list(order)], reference[list(order)]).double()
    torch.testing.assert_close(shuffled, together[list(order)], rtol=1e-9, atol=1e-12)
    alone = METRICS[name](reconstruction[:1], reference[:1]).double()
    torch.testing.assert_close(alone, together[:1], rtol=1e-9, atol=1e-12)


@UNIT
@given(st.permutations(range(5)), st.integers(0, 2**32 - 1))
def test_the_order_of_reconstructions_does_not_count_after_matching(photos, noise_like, order, seed):
    """If this fails, `align` and the metrics together depend on the order in which an attack returns its images."""
    reference = photos(32, count=5, dtype=torch.float32)
    reconstruction = reference + 0.3 * noise_like(reference, seed)
    blind = metrics.blind_guess(reference)
    one = metrics.align(reconstruction, reference, blind=blind)
    two = metrics.align(reconstruction[list(order)], reference, blind=blind)
    assert all(METRICS[name](one, reference).equal(METRICS[name](two, reference)) for name in ("psnr", "ssim"))


@pytest.mark.parametrize("name", METRICS)
def test_nothing_is_touched_and_no_graph_is_kept(photos, noise_like, name):
    """If this fails, scoring changes its arguments, the global generator, the threads, or keeps a graph alive."""
    reference = photos(32)
    reconstruction = (reference + 0.5 * noise_like(reference, 0)).requires_grad_()
    copies = reconstruction.detach().clone(), reference.clone()
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled(), np.random.get_state()[1].tolist()  # noqa: NPY002
    scores = METRICS[name](reconstruction, reference)
    after = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert not scores.requires_grad
    assert reconstruction.detach().equal(copies[0])
    assert reference.equal(copies[1])
    assert before[0].equal(after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(("name", "smallest"), [("psnr", 1), ("ssim", 11), ("cw_ssim", 8), ("lpips", 32)])
def test_each_metric_states_the_smallest_image_that_it_takes(photos, name, smallest):
    """If this fails, a metric reports a number below the size from which it is defined, or refuses too much."""
    enough = photos(64)[:, :, :smallest, : smallest + 5]
    assert METRICS[name](enough, enough).shape == (4,)
    if smallest > 1:
        with pytest.raises(ValueError, match=f"expected at least {smallest} pixels in height and width"):
            METRICS[name](enough[:, :, 1:], enough[:, :, 1:])
