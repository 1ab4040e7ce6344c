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
    found = metrics.score(reconstruction, reference, metrics=tuple(metrics.STANDARD))
    assert list(found) == ["psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg", "exact"]
    assert found["psnr"].equal(metrics.psnr(reconstruction, reference))
    assert found["ssim"].equal(metrics.ssim(reconstruction, reference))
    assert found["cw_ssim"].equal(metrics.cw_ssim(reconstruction, reference))
    assert found["lpips"].equal(metrics.lpips(reconstruction, reference, net="alex"))
    assert found["lpips_vgg"].equal(metrics.lpips(reconstruction, reference, net="vgg"))
    assert found["exact"].tolist() == [0, 0, 0, 0]
    assert found["psnr"].max() < 15


def test_the_papers_psnr_has_one_peak_per_channel_on_standardized_images(attacked):
    """If this fails, the paper's PSNR is not inversefed's `psnr(z, z_true, factor=1/std)`, averaged over channels."""
    reconstruction, reference = attacked
    found = metrics.score(reconstruction, reference, metrics=["psnr"], convention="paper", mean=MEAN, std=STD)["psnr"]
    z, target = standardized(reconstruction[[1, 3, 0, 2]]), standardized(reference)
    expected = [
        np.mean([10 * np.log10((1 / s) ** 2 / ((a - b) ** 2).mean()) for s in STD])
        for a, b in zip(z, target, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_the_papers_other_metrics_see_standardized_images_too(attacked):
    """If this fails, CW-SSIM or LPIPS of the paper's convention are computed on images in [0,1] or clamped ones."""
    reconstruction, reference = attacked
    found = metrics.score(reconstruction, reference, convention="paper", mean=MEAN, std=STD)
    z, target = (torch.from_numpy(standardized(i)) for i in (reconstruction[[1, 3, 0, 2]], reference))
    network = perceptual._network("alex", torch.device("cpu"), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(found["lpips"], network(z, target, normalize=True).flatten())
    torch.testing.assert_close(found["cw_ssim"], wavelet_similarity(z, target))
    standard = metrics.score(reconstruction[[1, 3, 0, 2]], reference)
    assert all((found[name] - standard[name]).abs().min() > 1e-4 for name in found)


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
    found = metrics.score(reconstruction, reference, metrics=["psnr"], convention="paper", mean=MEAN, std=STD)["psnr"]
    assert found[0] == metrics.PSNR_CAP
    assert (found[1:] < 40).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "Paper"}, "convention must be 'standard' or 'paper', not 'Paper'"),
        ({"metrics": ("psnr", "mse")}, r"metrics must be among .* not \['mse'\]"),
        ({"metrics": "psnr"}, "metrics must be a sequence of names, not the one name 'psnr'"),
        ({"mean": MEAN, "std": STD}, "mean and std belong to the paper's convention"),
        ({"convention": "paper", "std": STD}, "mean must be given in the paper's convention"),
        ({"convention": "paper", "mean": MEAN}, "std must be given in the paper's convention"),
        ({"convention": "paper", "mean": MEAN[:2], "std": STD}, "mean must be 3 finite numbers"),
        ({"convention": "paper", "mean": MEAN, "std": (0.2, 0.0, 0.2)}, "std must be positive"),
        (
            {"convention": "paper", "mean": MEAN, "std": STD, "metrics": ("ssim",)},
            r"metrics must be among .* \['ssim'\]",
        ),
    ],
)
def test_unfit_arguments_are_refused_by_name(attacked, options, message):
    """If this fails, a report mixes two conventions, or names one and prints the other."""
    with pytest.raises(ValueError, match=message):
        metrics.score(*attacked, **options)
