"""Makes wavelet_oracle.json: complex-wavelet coefficients and similarities by two outside implementations.

It is not a test and is not imported; the tests read the file. Neither implementation can be installed together with
gia: pytorch-wavelets 1.3.0 needs setuptools < 81, dtcwt 0.14.0 declares numpy < 2. To make the file again, use a
separate environment with numpy < 2, torch and scikit-image:

    python -m pip install "setuptools<81" six PyWavelets dtcwt==0.14.0
    python -m pip install --no-deps pytorch-wavelets==1.3.0
    python tests/unit/metrics/wavelet_oracle.py
"""

import json
from pathlib import Path

import dtcwt
import numpy as np
import skimage.data
import torch
from pytorch_wavelets import DTCWTForward

# (photo, top, left, step) twice and the size; "noise" is numpy's PCG64 uniform noise with seed 0.
CASES = [
    (("astronaut", 20, 180, 1), ("astronaut", 21, 180, 1), (16, 16)),
    (("astronaut", 20, 180, 4), ("coffee", 100, 200, 4), (32, 32)),
    (("chelsea", 50, 100, 4), ("noise", 0, 0, 1), (32, 32)),
    (("chelsea", 50, 100, 2), ("coffee", 100, 200, 2), (33, 47)),
    (("astronaut", 0, 0, 4), ("astronaut", 2, 2, 4), (64, 64)),
    (("coffee", 100, 200, 1), ("chelsea", 50, 100, 1), (224, 224)),
    (("coffee", 100, 200, 8), ("chelsea", 50, 100, 8), (8, 12)),
]
K = 1e-6


def crop(photo, top, left, step, size):
    """Every `step`-th pixel of a photo from (top, left): (3, height, width) in [0, 1]."""
    if photo == "noise":
        return np.random.default_rng(0).random((3, *size))
    pixels = getattr(skimage.data, photo)()[top::step, left::step][: size[0], : size[1]]
    return np.moveaxis(pixels, -1, 0) / 255


def coefficients(image, levels):
    """For each level an array (3, 6, h, w), from dtcwt, after pytorch-wavelets has given the same."""
    transform = dtcwt.Transform2d(biort="near_sym_b", qshift="qshift_b")
    pyramids = [transform.forward(channel, nlevels=levels).highpasses for channel in image]
    first = [np.stack([np.moveaxis(p[level], -1, 0) for p in pyramids]) for level in range(levels)]
    second = DTCWTForward(J=levels, biort="near_sym_b", qshift="qshift_b")(torch.from_numpy(image)[None])[1]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_allclose(one, torch.view_as_complex(two.contiguous())[0].numpy(), rtol=0, atol=1e-13)
    return first


def similarity(x, y, levels):
    """The formula of attack code bases: mean over positions and channels, then over scales."""
    scales = []
    for a, b in zip(coefficients(x, levels), coefficients(y, levels), strict=True):
        product = np.abs((a * b.conj()).sum(1))
        scales.append(((2 * product + K) / ((np.abs(a) ** 2).sum(1) + (np.abs(b) ** 2).sum(1) + K)).mean())
    return float(np.mean(scales))


def main():
    """Write the file."""
    torch.set_default_dtype(torch.float64)
    scores = []
    for one, two, size in CASES:
        levels = min(5, int(np.log2(min(size))))
        value = similarity(crop(*one, size), crop(*two, size), levels)
        scores.append({"one": one, "two": two, "size": size, "levels": levels, "cw_ssim": value})
    small = [band[0] for band in coefficients(crop("coffee", 100, 200, 8, (10, 13)), 3)]
    energies = [
        (np.abs(band) ** 2).sum((0, 2, 3)).tolist() for band in coefficients(crop("chelsea", 50, 100, 1, (224, 224)), 5)
    ]
    oracle = {
        "made_by": f"dtcwt 0.14.0 and pytorch-wavelets 1.3.0 by wavelet_oracle.py, numpy {np.__version__}, float64",
        "orientations": [15, 45, 75, 105, 135, 165],
        "scores": scores,
        "coefficients": {
            "image": ["coffee", 100, 200, 8, [10, 13]],
            "real": [band.real.round(14).tolist() for band in small],
            "imaginary": [band.imag.round(14).tolist() for band in small],
        },
        "energies": {"image": ["chelsea", 50, 100, 1, [224, 224]], "levels": energies},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
