"""Vision Transformers: timm's networks by name, in any size, and DINOv2's weights."""

import pytest
import torch

import gia

timm = pytest.importorskip("timm", reason="Vision Transformers need the package timm")


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # Touvron et al., 2021, Table 1 (5 M, 22 M, 86 M) and Dosovitskiy et al., 2021, Table 1 (307 M), as timm counts.
        ("vit_tiny", 5_717_416),
        ("vit_small", 22_050_664),
        ("vit_base", 86_567_656),
        ("vit_large", 304_326_632),
    ],
)
def test_a_transformer_has_the_published_number_of_parameters(name, count, monkeypatch):
    """If this fails, a victim is another network than its name says."""
    monkeypatch.setattr(gia.models.building, "initialize", lambda net, init, generator: None)
    net = gia.models.build(name, num_classes=1000, image_size=224, generator=seeded())
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_it_is_timm_s_network():
    """If this fails, names or sizes differ from those of timm, whose weights then do not load."""
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    ours = gia.models.build("vit_tiny", num_classes=1000, image_size=224, generator=seeded()).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 224, 224, generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_initial_weights_are_timm_s_in_distribution_and_the_generator_s_in_value():
    """If this fails, an "untrained" victim has another scale, or differs from run to run."""
    sizes = {"num_classes": 10, "image_size": 16, "patch": 4, "depth": 1}
    one, two, other = (gia.models.build("vit_tiny", **sizes, generator=seeded(seed)) for seed in (0, 0, 1))
    theirs = timm.models.vision_transformer.VisionTransformer(
        16, 4, num_classes=10, embed_dim=192, depth=1, num_heads=3
    )
    for (name, value), expected in zip(one.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert value.equal(two.state_dict()[name]), name
        assert float(value.std()) == pytest.approx(float(expected.std()), rel=0.15, abs=1e-8), name
    assert not one.pos_embed.equal(other.pos_embed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 5}, r"patch: expected a divisor of the image's sides \(16, 16\), got 5"),
        ({"patch": 0}, "patch: expected at least 1, got 0"),
        ({"depth": 0}, "depth: expected at least 1, got 0"),
        ({"heads": 5}, "width: expected a multiple of heads=5, got 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, message):
    """If this fails, the error comes from inside timm."""
    with pytest.raises(ValueError, match=message):
        gia.models.build("vit_tiny", num_classes=3, image_size=16, width=32, **settings, generator=seeded())


def test_attacks_run_on_a_transformer_as_on_any_other_network():
    """If this fails, the engine cannot differentiate attention twice."""
    net = gia.models.build(
        "vit_tiny", num_classes=10, image_size=8, patch=4, width=16, depth=1, heads=2, generator=seeded()
    )
    data = gia.data.load("cifar10-samples", image_size=8)
    observation = gia.share_gradient(net, data.images[:1], data.labels[:1], reveal=("labels",))
    found = gia.attacks.inverting_gradients(net, observation, generator=seeded(), steps=5)
    assert found.images.shape == (1, 3, 8, 8)


def dinov2():
    """DINOv2, or a skip that says what is missing."""
    pytest.importorskip("onnx", reason="the weights of dinov2-small need the package onnx")
    try:
        return gia.models.pretrained("dinov2-small")
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_dinov2_gives_the_features_of_the_publisher_s_graph():
    """If this fails, a layer is transposed or position embeddings are resized otherwise than in the file.

    Expected: features 0, 100, 200, 300 of the class token of the first sample by onnxruntime 1.32 on the file's own
    graph (output of backbone.layernorm); over two samples and all features the two differ by at most 1.1e-5.
    """
    with torch.no_grad():
        features = dinov2()(gia.data.load("imagenet-samples", image_size=224).images[:1])
    assert features[0, [0, 100, 200, 300]].tolist() == pytest.approx([-1.8641, 0.1531, -1.7004, 0.7625], abs=1e-4)


def test_a_classifier_on_dinov2_is_drawn_by_the_generator():
    """If this fails, a victim on pretrained weights differs from run to run."""
    one, two = (gia.models.add_classifier(dinov2(), num_classes=3, generator=seeded(1)) for _ in range(2))
    assert one.head.weight.equal(two.head.weight)
    assert one.head.weight.shape == (3, 384)
    with pytest.raises(ValueError, match="trunk: expected a Vision Transformer of timm, got Linear"):
        gia.models.add_classifier(torch.nn.Linear(1, 1), num_classes=3, generator=seeded())
