"""The standard convention, and the paper's against a copy of its arithmetic in numpy and the lpips package."""

import numpy as np
import pytest
import torch

from gia import metrics
from gia.metrics import perceptual
from gia.metrics.complex_wavelet import wavelet_similarity

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.fixture
def attacked(photos, noise_like):
    """Originals and reconstructions out of order, some of whose values lie outside [0,1]."""
    reference = photos(32)
    return (reference + 0.1 * noise_like(reference, 0))[[2, 0, 3, 1]], reference


def standardized(images):
    """(x - mean) / std by channel, in numpy."""
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    return (images.numpy() - mean) / std


def test_the_standard_convention_gives_each_metric_as_it_is_and_matches_nothing(attacked):
    """If this fails, score changes numbers on their way, or matches once more across what `align` has settled."""
    reconstruction, reference = (images.float() for images in attacked)
    scores = metrics.score(reconstruction, reference, metrics=tuple(metrics.STANDARD))
    assert list(scores) == ["psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg", "exact"]
    assert scores["psnr"].equal(metrics.psnr(reconstruction, reference))
    assert scores["ssim"].equal(metrics.ssim(reconstruction, reference))
    assert scores["cw_ssim"].equal(metrics.cw_ssim(reconstruction, reference))
    assert scores["lpips"].equal(metrics.lpips(reconstruction, reference, net="alex"))
    assert scores["lpips_vgg"].equal(metrics.lpips(reconstruction, reference, net="vgg"))
    assert scores["exact"].tolist() == [0, 0, 0, 0]
    assert scores["psnr"].max() < 15


def test_the_papers_psnr_has_one_peak_per_channel_on_standardized_images(attacked):
    """If this fails, the paper's PSNR is not inversefed's `psnr(z, z_true, factor=1/std)`, averaged over channels."""
    reconstruction, reference = attacked
    scores = metrics.score(reconstruction, reference, metrics=["psnr"], convention="paper", mean=MEAN, std=STD)["psnr"]
    z, target = standardized(reconstruction[[1, 3, 0, 2]]), standardized(reference)
    expected = [
        np.mean([10 * np.log10((1 / s) ** 2 / ((a - b) ** 2).mean()) for s in STD])
        for a, b in zip(z, target, strict=True)
    ]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-10)


def test_the_papers_other_metrics_see_standardized_images_too(attacked):
    """If this fails, CW-SSIM or LPIPS of the paper's convention are computed on images in [0,1] or clamped ones."""
    reconstruction, reference = attacked
    scores = metrics.score(reconstruction, reference, convention="paper", mean=MEAN, std=STD)
    z, target = (torch.from_numpy(standardized(i)) for i in (reconstruction[[1, 3, 0, 2]], reference))
    network = perceptual._network("alex", torch.device("cpu"), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(scores["lpips"], network(z, target, normalize=True).flatten())
    torch.testing.assert_close(scores["cw_ssim"], wavelet_similarity(z, target))
    standard = metrics.score(reconstruction[[1, 3, 0, 2]], reference)
    assert all((scores[name] - standard[name]).abs().min() > 1e-4 for name in scores)


def test_the_papers_convention_matches_over_all_images_at_once(attacked):
    """If this fails, the order of the reconstructions shows in the paper's convention."""
    reconstruction, reference = attacked
    one = metrics.score(reconstruction, reference, convention="paper", mean=MEAN, std=STD)
    two = metrics.score(reconstruction.flip(0), reference, convention="paper", mean=MEAN, std=STD)
    assert all(one[name].allclose(two[name], rtol=1e-9) for name in one)


def test_an_exact_image_does_not_poison_the_papers_mean_either(attacked):
    """If this fails, one exact image makes the whole table infinite, as in the released code."""
    reconstruction, reference = attacked
    reconstruction[1] = reference[0]
    scores = metrics.score(reconstruction, reference, metrics=["psnr"], convention="paper", mean=MEAN, std=STD)["psnr"]
    assert scores[0] == metrics.PSNR_CAP
    assert (scores[1:] < 40).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"convention": "Paper"},
            r"convention: expected one of \['standard', 'paper'\], got 'Paper'; did you mean 'paper'",
        ),
        ({"metrics": ("psnr", "mse")}, r"metrics: expected one of .* got 'mse'.* \(in the standard convention\)"),
        ({"metrics": "psnr"}, "metrics: expected a sequence of names, got the single name 'psnr'"),
        ({"mean": MEAN, "std": STD}, "mean: expected None in the standard convention"),
        (
            {"convention": "paper", "std": STD},
            "mean: expected one number per channel in the paper's convention, got None",
        ),
        (
            {"convention": "paper", "mean": MEAN},
            "std: expected one number per channel in the paper's convention, got None",
        ),
        ({"convention": "paper", "mean": MEAN[:2], "std": STD}, "mean: expected 3 finite numbers"),
        ({"convention": "paper", "mean": MEAN, "std": (0.2, 0.0, 0.2)}, "std: expected positive numbers"),
        (
            {"convention": "paper", "mean": MEAN, "std": STD, "metrics": ("ssim",)},
            r"metrics: expected one of .* got 'ssim'.* \(in the paper convention\)",
        ),
    ],
)
def test_unfit_arguments_are_refused_by_name(attacked, options, message):
    """If this fails, a report mixes two conventions, or names one and prints the other."""
    with pytest.raises(ValueError, match=message):
        metrics.score(*attacked, **options)
