"""PEFT: what low-rank adapters give away when only they are shared (arXiv 2503.11514, Sec. V, Fig. 12)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

from claims.scales import Scale
from gia.attacks import patch_embedding
from gia.data import load_cached
from gia.federated import share_gradient
from gia.harness.plugin.claims import Claims
from gia.models import build, lora

pytest.importorskip("timm", reason="the victims need the package timm: python -m pip install 'timm>=1.0'")
pytest.importorskip("peft", reason="low-rank adapters need the package peft: python -m pip install 'peft>=0.15'")

#: Row -> where its levels lie, in the register's unit.
PLACES = {
    "peft.resolution": math.log2,
    "peft.resized": math.log2,
    "peft.batch_size": math.log2,
}

ADAPTERS: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from(["cifar10-samples", "faces", "photos", "digits"]),
    "width": st.sampled_from([8, 16, 24]),
    "depth": st.integers(1, 3),
    "fused": st.booleans(),
    "rank": st.integers(1, 24),
    "targets": st.sampled_from(["qkv", "all", ("mlp.fc1",)]),
    "batch_size": st.integers(1, 4),
    "seed": st.integers(0, 2**32 - 1),
}

#: Transformers of at least as many features as patches: 4 patches of 4 pixels, or 16 of 2.
WHOLE: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from(["cifar10-samples", "faces", "photos", "digits"]),
    "patch": st.sampled_from([2, 4]),
    "width": st.sampled_from([16, 24, 48]),
    "depth": st.integers(1, 4),
    "heads": st.sampled_from([1, 2, 4]),
    "activation": st.sampled_from(["relu", "gelu", "silu", "tanh", "sigmoid"]),
    "fused": st.booleans(),
    "seed": st.integers(0, 2**32 - 1),
}


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.claim(id)) for id in PLACES])
def test_adapters_leak_less(claims: Claims, scale: Scale, id: str) -> None:
    """The leak from adapters' gradients over resolutions, sizes of one data set and batch sizes."""
    row = scale.ROWS[id]
    claims.trend(id, row.protocol, levels=tuple(row.levels), change=row.change, x=PLACES[id])


@pytest.mark.claim("peft.model_size")
def test_smaller_models_leak_less(claims: Claims, scale: Scale) -> None:
    """The leak from adapters in networks of three sizes, the smallest first."""
    row = scale.ROWS["peft.model_size"]
    levels = tuple(row.levels)
    claims.trend("peft.model_size", row.protocol, levels=levels, change=row.change, x=levels.index)


def largest_gradient_of_a(
    source: str, width: int, depth: int, fused: bool, rank: int, targets: str, batch_size: int, seed: int
) -> float:
    """Largest absolute entry of the gradients of all A matrices, where every B is zero."""
    g = torch.Generator().manual_seed(seed)
    data = load_cached(source, image_size=8)
    chosen = torch.randperm(len(data.labels), generator=g)[:batch_size]
    sizes: dict[str, Any] = {"patch": 4, "width": width, "depth": depth, "heads": 2, "fused": fused}
    model = build(
        "vit_tiny",
        num_classes=data.num_classes,
        image_size=8,
        channels=data.images.shape[1],
        generator=g,
        dtype=torch.float64,
        **sizes,
    )
    adapted = lora(model, rank=rank, targets=targets, generator=g)
    shared = share_gradient(adapted, data.images[chosen].double(), data.labels[chosen]).gradients
    largest = {which: max(float(v.abs().max()) for k, v in shared.items() if f"lora_{which}" in k) for which in "AB"}
    assert largest["B"] > 0, "expected a gradient of some B, or the row would hold for a network that learns nothing"
    return largest["A"]


@pytest.mark.claim("peft.zero_a")
def test_at_initialization_only_the_b_matrices_have_a_gradient(claims: Claims) -> None:
    """dL/dA = B^T dL/dz x^T, so it is zero while B is."""
    claims.exact("peft.zero_a", largest_gradient_of_a, ADAPTERS)


def error_of_a_single_image(source: str, seed: int, **sizes: Any) -> float:
    """Largest error of a pixel that `patch_embedding` leaves, over what the conditioning of its equations magnifies."""
    g = torch.Generator().manual_seed(seed)
    data = load_cached(source, image_size=8)
    chosen = torch.randperm(len(data.labels), generator=g)[:1]
    image = data.images[chosen].double()
    model = build(
        "vit_tiny",
        num_classes=data.num_classes,
        image_size=8,
        channels=image.shape[1],
        generator=g,
        dtype=torch.float64,
        **sizes,
    )
    observation = share_gradient(model, image, data.labels[chosen])
    condition = float(torch.linalg.cond(observation.gradients["pos_embed"][0, 1:]))  # the class token comes first
    assume(condition < 1e10)  # else a pixel is lost in rounding
    found = patch_embedding(model, observation, generator=g, smoothness=0.0).images
    return float((found - image).abs().max()) / condition


@pytest.mark.claim("peft.embeddings")
def test_trained_embeddings_give_a_single_image_away_exactly(claims: Claims) -> None:
    """The gradient of the patch embedding is that of the position embeddings times the patches."""
    claims.exact("peft.embeddings", error_of_a_single_image, WHOLE)
