"""The paper's numbers, by the rows of the register whose pictures show them; they decide nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gia.harness.plugin.claims import Reported

_NUMBERS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "baselines" / "reported.json").read_text(encoding="utf-8")
)

_FIG3A, _FIG3B = _NUMBERS["fig3a_ig_resnet18_ssim"], _NUMBERS["fig3b_ig_cifar100_architecture_ssim"]
_FIG7A, _FIG7B = _NUMBERS["fig7a_cinet_ssim"], _NUMBERS["fig7b_cinet_sigmoid_imagenet_resolution_ssim"]
_FIG9 = _NUMBERS["fig9_lti_ssim"]
_FIG11A, _FIG11B = _NUMBERS["fig11a_fishing_imagenet_resnet18_ssim"], _NUMBERS["fig11b_fishing_trained_224_ssim"]


def _by_equal_labels(numbers: dict[str, Any]) -> dict[int, float]:
    """How many images of a batch share a label -> the number; the paper's "0 equal" is 1 here."""
    return {max(1, int(equal)): values[0] for equal, values in numbers.items() if equal.isdigit()}


#: Id of a row -> level -> number. A row that is missing has none.
REPORTED: dict[str, Reported] = {
    "op.batch_size": Reported(
        {int(batch_size): value for batch_size, value in _FIG3A["cifar100_untrained"].items()},
        "the paper's CW-SSIM, CIFAR-100",
    ),
    "op.resolution": Reported(
        {32: _FIG3A["cifar100_untrained"]["1"], 224: _FIG3A["imagenet_untrained"]["1"]},
        "the paper's CW-SSIM, two data sets",
    ),
    "op.same_labels": Reported(
        _by_equal_labels(_NUMBERS["fig5_ig_cifar10_b4_same_labels"]), "the paper's PSNR, CIFAR-10"
    ),
    "op.architecture": Reported(
        {name: _FIG3B[name]["1"] for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
        "the paper's CW-SSIM, CIFAR-100",
    ),
    "gen_w.batch_size": Reported(
        {int(batch_size): value for batch_size, value in _FIG7A["cifar100_sigmoid"].items()},
        "the paper's CW-SSIM, CIFAR-100",
    ),
    "gen_w.resolution": Reported(
        {int(pixels): values["64"] for pixels, values in _FIG7B.items() if pixels.isdigit()},
        "the paper's CW-SSIM at B=64, ImageNet",
    ),
    "gen_inv.batch_size": Reported(
        dict(zip(_FIG9["batch_sizes"], _FIG9["lenet_untrained"], strict=True)), "the paper's CW-SSIM, CIFAR-10"
    ),
    "gen_inv.resolution": Reported(
        {32: _FIG9["lenet_untrained"][0], 64: _FIG9["imagenet64"][0], 128: _FIG9["imagenet128"][0]},
        "the paper's CW-SSIM, two data sets",
    ),
    "gen_inv.same_labels": Reported(
        _by_equal_labels(_NUMBERS["supp_lti_cifar10_b4_same_labels"]), "the paper's PSNR, CIFAR-10"
    ),
    "ana_arch.batch_size": Reported(
        {
            batch_size: _NUMBERS["table4_rtf_exact_of_64_with_1000_bins"][str(batch_size)][0] / 64
            for batch_size in (1, 8, 32, 64)
        },
        "Table IV, CIFAR-10",
    ),
    "ana_param.batch_size": Reported(
        dict(zip(_FIG11A["batch_sizes"], _FIG11A["224_trained"], strict=True)), "the paper's SSIM, ImageNet"
    ),
    "ana_param.resolution": Reported(
        {pixels: _FIG11A[f"{pixels}_trained"][0] for pixels in (64, 128, 224)}, "the paper's SSIM, ImageNet"
    ),
    "ana_param.training_state": Reported(
        {state: _FIG11A[f"64_{state}"][0] for state in ("trained", "untrained")}, "the paper's SSIM, ImageNet"
    ),
    "ana_param.architecture": Reported(
        {name: _FIG11B[name][0] for name in ("resnet18", "resnet34", "resnet50")}, "the paper's SSIM, ImageNet"
    ),
    "prop1.table2": Reported(
        {
            max(1, int(equal)): cosine
            for equal, cosine in _NUMBERS["table2_cosine_single_vs_batch_gradient"]["same_labels"].items()
        },
        "the paper's cosine, CIFAR-10",
    ),
}
