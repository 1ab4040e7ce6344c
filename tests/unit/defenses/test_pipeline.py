"""The pipeline: what its design stage finds and cites, and the client that its other stages make."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gia
from gia.defenses import Pipeline, design_findings, noise
from gia.defenses.design import CHECKS
from gia.federated import LocalTraining, RefusedModel, ValidationReport

ROOT = Path(gia.__file__).parents[1]
LOCAL = LocalTraining(epochs=2, batch_size=3, lr=0.1)
IMAGES, LABELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def built(name: str, **options: Any) -> nn.Module:
    """A small network."""
    return gia.models.build(name, num_classes=3, image_size=8, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(
    ("model", "training", "expected"),
    [
        (built("mlp", width=5), True, ["linear input", "mixed linear input", "few layers"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)), True, ["few layers"]),
        (built("resnet8", activation="sigmoid"), True, ["sigmoid", "few layers"]),
        (built("resnet20", activation="sigmoid"), False, []),
        (built("resnet20", activation="relu"), True, []),
        (built("convnet", activation="sigmoid"), True, ["few layers"]),
        (nn.Flatten(), True, []),
    ],
    ids=["perceptron", "no bias", "sigmoid", "sigmoid in eval mode", "relu", "no normalization", "no layer"],
)
def test_each_shape_is_found_where_it_is_and_nowhere_else(
    model: nn.Module, training: bool, expected: list[str]
) -> None:
    """A user would change a network that does not need it, or keep one that does."""
    assert [finding.check for finding in design_findings(model, training=training)] == expected


def test_embeddings_of_patches_and_positions_are_found_where_both_are_trained() -> None:
    """A user would train the two layers that give single images away, or freeze one without need."""
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 9, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 8}
    net = VisionTransformer(**sizes, num_classes=3)
    (finding,) = design_findings(net)
    assert (finding.check, finding.layer, finding.value) == ("patch embedding", "conv_proj", 5)
    for name in ("encoder.pos_embedding", "conv_proj.weight"):
        net.requires_grad_(True).get_parameter(name).requires_grad_(False)
        assert design_findings(net) == ()


def test_with_the_shape_of_images_layers_are_in_the_order_of_a_forward_pass() -> None:
    """The layer that sees the image would be taken for a later one."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(5, 3), nn.Conv2d(3, 5, 8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.body(images).flatten(1))
            return logits

    assert "linear input" in [finding.check for finding in design_findings(Backwards())]
    (finding,) = design_findings(Backwards(), image_shape=(3, 8, 8))
    assert (finding.check, finding.layer, finding.value) == ("few layers", "body", 2)


def test_findings_state_the_published_outcome_of_a_row_of_the_register() -> None:
    """Advice would rest on a verdict that has changed. The confirming run counts where there was one."""
    register = tomllib.loads((ROOT / "claims" / "claims.toml").read_text(encoding="utf-8"))
    first, confirmed = (
        json.loads((ROOT / "baselines" / f"{lane}.json").read_text(encoding="utf-8"))["rows"]
        for lane in ("claims", "confirm")
    )
    published = {**first, **confirmed}
    ids = {claim["id"] for claim in register["claim"]}
    for row, outcome, _ in CHECKS.values():
        assert row in ids
        assert published[row]["outcome"] == outcome


def test_a_finding_says_where_the_advice_is_not_shown() -> None:
    """A reader would take the paper's word for a measurement."""
    (finding,) = design_findings(built("resnet20", activation="sigmoid"))
    assert str(finding).endswith(
        "(gen_w.sigmoid/2; measured: inconclusive, so this is the paper's advice and not shown)"
    )


def test_a_client_trains_by_the_protocol_and_refuses_what_its_validation_refuses() -> None:
    """A stage of the pipeline would be missing in silence."""
    asked: list[dict[str, Any]] = []

    def validation(received: nn.Module, **options: Any) -> ValidationReport:
        asked.append(options)
        return gia.validate_model(received, **options)

    model = built("mlp", width=80)
    pipeline = Pipeline(protocol=LOCAL, validation=validation)
    answer = pipeline.client(IMAGES, LABELS, agreed=model, training=True, reveal=("local",)).answer(model)
    expected = gia.share_update(model, IMAGES, LABELS, local=LOCAL, training=True)
    assert answer.local == LOCAL
    assert all(torch.equal(g, expected.gradients[name]) for name, g in answer.gradients.items())
    assert asked[0]["expected"] is model
    assert asked[0]["training"] is True
    assert torch.equal(asked[0]["batch"][0], IMAGES)
    with pytest.raises(RefusedModel, match="built as agreed"):
        pipeline.client(IMAGES, LABELS, agreed=model).answer(built("mlp", width=81))


def test_stages_may_be_left_out_and_other_defenses_added() -> None:
    """The three parts are the user's to compose."""
    model = built("mlp", width=80)
    pipeline = Pipeline(design=lambda model: (), protocol=None, validation=None)
    assert pipeline.design(model) == ()
    generator = torch.Generator().manual_seed(1)
    answer = pipeline.client(IMAGES, LABELS, defenses=[noise(std=1.0)], defense_generator=generator).answer(model)
    plain = gia.share_gradient(model, IMAGES, LABELS)
    added = answer.gradients["layers.0.weight"] - plain.gradients["layers.0.weight"]
    assert float(added.std()) == pytest.approx(1, rel=0.05)


def test_a_client_holds_a_whole_batch_of_the_protocol() -> None:
    """Otherwise the gradient of fewer images would be shared than the protocol promises."""
    with pytest.raises(ValueError, match="images: expected at least 3, a batch of the protocol, got 2"):
        Pipeline(protocol=LOCAL).client(IMAGES[:2], LABELS[:2])
