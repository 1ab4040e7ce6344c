"""Low-rank adapters: what they compute, what is shared of them, and the traps in which nothing or too little is."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import gia
from gia.models import lora

pytest.importorskip("peft", reason="low-rank adapters need the package peft")
pytest.importorskip("timm", reason="Vision Transformers need the package timm")

PREFIX = "base_model.model."


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def vit(**settings):
    """A small Vision Transformer for images of 8x8 pixels."""
    sizes = {"num_classes": 10, "image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2}
    return gia.models.build("vit_tiny", **{**sizes, **settings}, generator=seeded())


def shared(model, count=1):
    """What is shared of the first CIFAR-10 samples."""
    data = gia.data.load("cifar10-samples", image_size=8)
    images = data.images[:count].to(next(model.parameters()).dtype)
    return gia.share_gradient(model, images, data.labels[:count], reveal=("labels",))


def opened(model, seed=1):
    """A copy whose B matrices are not zero, as after training."""
    model, generator = copy.deepcopy(model), seeded(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_an_adapted_layer_computes_w_x_plus_alpha_over_rank_times_b_a_x():
    """Hu et al., 2022, Sec. 4.1. If this fails, the strength of the adapters is not what the settings say."""
    net = gia.models.build("mlp", num_classes=3, image_size=4, hidden=(8,), generator=seeded(), dtype=torch.float64)
    adapted = opened(lora(net, rank=2, alpha=6.0, targets="all", generator=seeded(2)))
    layer, adapters = net.get_submodule("layers.0"), dict(adapted.named_parameters())
    a, b = (adapters[f"{PREFIX}layers.0.lora_{which}.default.weight"] for which in "AB")
    inputs = torch.rand(5, 48, generator=seeded(), dtype=torch.float64)
    expected = layer(inputs) + (6.0 / 2) * inputs @ a.T @ b.T
    torch.testing.assert_close(adapted.get_submodule(f"{PREFIX}layers.0")(inputs), expected)


def test_at_first_the_model_is_unchanged_and_only_the_b_matrices_have_a_gradient():
    """If this fails, adapters start from another function, or zero gradients count as evidence."""
    net = vit(dtype=torch.float64)
    adapted = lora(net, rank=4, generator=seeded())
    images = torch.rand(2, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    assert adapted(images).equal(net(images))
    found = shared(adapted, 2)
    assert set(found.gradients) == {
        f"{PREFIX}blocks.{block}.attn.qkv.lora_{which}.default.weight" for block in (0, 1) for which in "AB"
    }
    assert found.trainable == tuple(found.gradients)
    for name, gradient in found.gradients.items():
        assert bool(gradient.any()) == (".lora_B." in name)
    assert all(bool(gradient.any()) for gradient in shared(opened(adapted)).gradients.values())


@pytest.mark.parametrize(
    ("targets", "settings", "expected"),
    [
        ("qkv", {}, {"attn.qkv"}),
        ("qkv", {"fused": False}, {"attn.qkv.query", "attn.qkv.key", "attn.qkv.value"}),
        ("qv", {"fused": False}, {"attn.qkv.query", "attn.qkv.value"}),
        ("q", {"fused": False}, {"attn.qkv.query"}),
        ("all", {}, {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}),
        (("mlp.fc1",), {}, {"mlp.fc1"}),
    ],
)
def test_targets_name_the_layers_that_are_adapted(targets, settings, expected):
    """If this fails, other layers are shared than those that a row of the register speaks of."""
    names = shared(lora(vit(depth=1, **settings), rank=1, targets=targets, generator=seeded())).gradients
    assert {name.removeprefix(f"{PREFIX}blocks.0.").partition(".lora_")[0] for name in names} == expected


def test_separate_projections_compute_what_the_fused_one_does():
    """If this fails, "q only" is measured on another network than "qkv"."""
    fused, separate = vit(), vit(fused=False)
    weights = {}
    for name, value in fused.state_dict().items():
        before, found, kind = name.partition("attn.qkv.")
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True) if found else ()
        weights |= {f"{before}{found}{part}.{kind}": own for part, own in parts} if found else {name: value}
    separate.load_state_dict(weights)
    images = torch.rand(2, 3, 8, 8, generator=seeded())
    torch.testing.assert_close(separate(images), fused(images))


def test_nothing_is_drawn_from_the_global_random_state_and_the_model_is_not_changed():
    """If this fails, adapters differ from run to run, or the trunk is adapted in place."""
    net, state = vit(), torch.get_rng_state()
    names = [name for name, _ in net.named_parameters()]
    one, two = (lora(net, rank=2, generator=seeded(3)) for _ in range(2))
    assert torch.get_rng_state().equal(state)
    assert [name for name, _ in net.named_parameters()] == names
    assert all(parameter.requires_grad for parameter in net.parameters())
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        assert first.equal(second), name
    other = dict(lora(net, rank=2, generator=seeded(4)).named_parameters())
    assert not all(parameter.equal(other[name]) for name, parameter in one.named_parameters())


def test_the_classifier_is_shared_where_it_is_trained():
    """If this fails, `head=True` trains nothing more, or the frozen trunk too."""
    names = shared(lora(vit(depth=1), rank=1, head=True, generator=seeded())).gradients
    assert [name.removeprefix(PREFIX) for name in names][-2:] == ["head.weight", "head.bias"]
    assert len(names) == 4


def test_a_standardized_trunk_counts_as_standardized_when_it_is_adapted():
    """If this fails, attacks on adapted models search in the wrong range."""
    adapted = lora(gia.models.standardize(vit(), mean=0.5, std=0.25), rank=1, generator=seeded())
    assert [value.tolist() for value in gia.models.standardization(adapted)] == [[0.5], [0.25]]
    with pytest.raises(ValueError, match="net: expected one that does not standardize its input yet"):
        gia.models.standardize(adapted, mean=0.5, std=0.25)


def torchvision_vit():
    """torchvision's smallest form of a Vision Transformer."""
    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    return torchvision.models.VisionTransformer(**sizes, num_classes=10)


def test_a_classifier_of_zeros_is_refused():
    """torchvision's Vision Transformers begin so. If this fails, all gradients are zero and nobody says why."""
    with pytest.raises(ValueError, match="model: expected a classifier with initial weights, got zeros in '"):
        lora(torchvision_vit(), rank=1, targets=("mlp.0",), generator=seeded())


def test_a_layer_that_is_never_called_is_refused_as_a_target_and_left_out_of_all():
    """torch's attention reads the weight of its out_proj. If this fails, an adapter is shared that does nothing."""
    net = torchvision_vit()
    nn.init.ones_(net.heads.head.weight)
    with pytest.raises(ValueError, match=r"targets: expected layers that the network calls, got '.*out_proj'"):
        lora(net, rank=1, targets=("out_proj",), generator=seeded())
    adapted = lora(net, rank=1, targets="all", generator=seeded())
    assert not any("out_proj.lora" in name for name, _ in adapted.named_parameters())


def test_sharing_a_model_whose_loss_uses_no_trained_parameter_says_so():
    """peft itself adapts what is never called. If this fails, a client sees autograd's own error."""
    from peft import LoraConfig, get_peft_model

    net = torchvision_vit()
    nn.init.ones_(net.heads.head.weight)
    adapted = get_peft_model(net, LoraConfig(r=1, target_modules=["out_proj"]))
    with pytest.raises(ValueError, match="model: expected a loss that depends on a parameter with requires_grad"):
        shared(adapted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: expected a whole number of at least 1, got 0"),
        ({"rank": 1, "alpha": 0}, "alpha: expected a positive finite number, got 0.0"),
        ({"rank": 1, "targets": "qvk"}, "targets: expected one of .*, got 'qvk'"),
        ({"rank": 1, "targets": ("fc9",)}, "targets: expected linear layers of the model, .*, got .*which fits none"),
        ({"rank": 1, "targets": "q"}, "targets: expected linear layers of the model"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    """If this fails, a mistyped setting adapts nothing and passes for a defence."""
    with pytest.raises(ValueError, match=message):
        lora(vit(depth=1), **settings, generator=seeded())
