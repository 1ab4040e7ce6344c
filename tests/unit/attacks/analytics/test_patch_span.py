"""Patches in closed form from a Vision Transformer's gradients, full or of low-rank adapters, and where that ends."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import gia
from gia.attacks import NothingFound, patch_span
from gia.attacks.analytics.tokens import misfit, tokens_of

pytest.importorskip("timm", reason="Vision Transformers need the package timm")
pytest.importorskip("peft", reason="low-rank adapters need the package peft")


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def vit(size=8, width=96, **settings):
    """A Vision Transformer with patches of 4 pixels, in float64."""
    sizes = {"patch": 4, "width": width, "depth": 2, "heads": 2, "num_classes": 10, "image_size": size, **settings}
    return gia.models.build("vit_tiny", **sizes, generator=seeded(), dtype=torch.float64)


def adapted(net, rank, *, opened=True, **settings):
    """The network with adapters, whose B matrices are not zero where they are opened."""
    model, generator = gia.models.lora(net, rank=rank, generator=seeded(), **settings), seeded(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name and opened:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def private(size=8, count=1):
    """CIFAR-10 test images in float64, with their labels."""
    data = gia.data.load("cifar10-samples", image_size=size)
    return data.images[:count].double(), data.labels[:count]


def error(model, size=8, count=1, **settings):
    """Largest difference of a pixel from the first image, and the attack's result."""
    images, labels = private(size, count)
    observation = gia.share_gradient(model, images, labels, reveal=("labels",))
    found = patch_span(model, observation, generator=seeded(), **settings)
    return float((found.images[0] - images[0]).abs().max()), found


@pytest.mark.parametrize("size", [8, 16])
def test_a_full_gradient_gives_a_single_image_away_exactly(size):
    """If it fails, the equations or the order of the patches are wrong."""
    apart, found = error(vit(size), size)
    assert apart < 1e-4
    assert found.exact.tolist() == [True]


def test_adapters_give_it_away_exactly_where_rows_and_width_give_enough_equations():
    """Five tokens and 192 values at 8 px: each row has 91 equations, so 4 rows are enough and 2 are not.

    If it fails, the rows of A's gradient are misread, or fewer rows than tokens are not used.
    """
    net = vit()
    assert error(adapted(net, 5))[0] < 1e-4
    assert error(adapted(net, 4))[0] < 1e-4
    assert error(adapted(net, 2))[0] > 1e-2


def test_more_rank_helps_in_float32():
    """PSNR of 28.5, 66.8, 72.1 and 78.8 dB were seen. If it fails, rounding is taken for equations, or not weighed."""
    images, labels = private(16)
    found = []
    for rank in (4, 8, 16, 32):
        model = adapted(vit(16, width=144, fused=False), rank).float()
        observation = gia.share_gradient(model, images.float(), labels)
        result = patch_span(model, observation, generator=seeded())
        found.append(float(gia.metrics.psnr(result.images.double(), images)))
    assert found[0] > 20
    assert all(later > before - 1 for before, later in pairwise(found)), found
    assert found[-1] > found[0] + 20


def test_where_rows_hold_nothing_but_rounding_a_gray_image_comes_back():
    """Adapters of queries in a flattened network see the class token only. If it fails, noise passes for an image."""
    images, labels = private(16)
    sent = gia.federated.server.flatten_blocks(
        adapted(vit(16, width=144, fused=False), 4, targets="q"), generator=seeded()
    )
    observation = gia.share_gradient(sent.float(), images.float(), labels)
    assert float((patch_span(sent, observation, generator=seeded()).images - 0.5).abs().max()) < 0.05


def test_separate_queries_keys_and_values_add_their_ranks():
    """Hugging Face's form: three adapters of rank 2 span five tokens. If it fails, only one layer is read."""
    assert error(adapted(vit(fused=False), 2))[0] < 1e-4
    assert error(adapted(vit(fused=False), 2, targets="q"))[0] > 1e-2


def test_at_initialization_the_b_matrices_give_it_away_where_the_rank_is_large_enough():
    """A maps five tokens into 64 dimensions: 59 equations for 48 pixels. If it fails, B's gradient is not read."""
    net = vit()
    assert error(adapted(net, 64, opened=False))[0] < 1e-4
    assert error(adapted(net, 16, opened=False))[0] > 1e-2


def test_standardization_and_the_weights_of_the_layer_normalization_are_taken_into_account():
    """If it fails, only networks without them are attacked correctly."""
    net = vit()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm1" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(2)))
    net = gia.models.standardize(net, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    assert error(net)[0] < 1e-4
    assert error(adapted(net, 8))[0] < 1e-4


def test_smoothness_fills_in_what_the_equations_leave_open():
    """A patch of 8 pixels has 192 numbers and this network 96 features. If it fails, open directions stay gray."""
    net = vit(16, patch=8)
    images, _ = private(16)
    psnr = [float(gia.metrics.psnr(error(net, 16, smoothness=each)[1].images, images)) for each in (0.0, 0.3)]
    assert psnr[1] > psnr[0] + 2


def test_two_images_come_back_as_a_combination_and_are_not_believed_to_be_exact():
    """If it fails, a mixture passes for an image."""
    apart, found = error(vit(), count=2)
    assert apart > 1e-2
    assert found.exact.tolist() == [False, False]
    assert found.images.shape == (2, 3, 8, 8)


def test_the_first_block_is_found_in_torchvision_s_transformer_too():
    """If it fails, the attack knows timm's names of layers only."""
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 96, "mlp_dim": 32}
    net = VisionTransformer(**sizes, num_classes=10).double()
    nn.init.normal_(net.heads.head.weight, generator=seeded())
    with pytest.raises(ValueError, match="model: expected a shared linear layer, or an adapter of one, that sees"):
        error(net)  # its attention is no linear layer, and the next one sees no tokens
    net.encoder.layers[0].self_attention = Mixing(96).double()
    assert error(net)[0] < 1e-4


class Mixing(nn.Module):
    """An attention of linear layers, with the interface of torch's."""

    def __init__(self, width):
        super().__init__()
        self.value = nn.Linear(width, width)

    def forward(self, tokens, *_, **__):
        """Values, weighted by the likeness of tokens."""
        return (tokens @ tokens.mT / 10).softmax(-1) @ self.value(tokens), None


def test_tokens_are_those_that_the_block_sees():
    """If it fails, the attack solves for the pixels of other positions."""
    net, (images, labels) = vit(), private()
    tokens = tokens_of(net, gia.share_gradient(net, images, labels))
    seen = []
    net.blocks[0].norm1.register_forward_hook(lambda _, inputs, output: seen.append(output))
    net(images)
    patches = images[0].view(3, 2, 4, 2, 4).permute(1, 3, 0, 2, 4).reshape(4, 48)
    normalized = nn.functional.layer_norm(patches @ tokens.matrix.T + tokens.offsets, (96,), eps=1e-6)
    torch.testing.assert_close(normalized, seen[0][0, 1:])
    assert tokens.direct == ("blocks.0.attn.qkv.weight",)


def test_a_model_whose_first_block_is_not_shared_is_refused():
    """If it fails, deeper layers are taken for the first."""
    net = vit()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("blocks.1" in name)
    with pytest.raises(ValueError, match="model: expected a shared linear layer, or an adapter of one, that sees"):
        error(net)


def test_gradients_of_zeros_and_a_negative_weight_are_refused():
    """If it fails, an image comes back of nothing."""
    net, (images, labels) = vit(), private()
    shared = gia.share_gradient(net, images, labels)
    zeros = {name: torch.zeros_like(value) for name, value in shared.gradients.items()}
    with pytest.raises(NothingFound, match="gradients: expected an entry other than 0"):
        patch_span(net, gia.Observation(zeros, image_shape=(3, 8, 8), batch_size=1), generator=seeded())
    with pytest.raises(ValueError, match="smoothness: expected a weight >= 0, got -1"):
        patch_span(net, shared, generator=seeded(), smoothness=-1)


@pytest.mark.parametrize("rank", [2, 16])
def test_the_misfit_is_zero_at_the_truth_also_where_rows_do_not_span_all_tokens(rank):
    """Seventeen tokens. If it fails, a control calls a path broken that works, or one that is broken sound."""
    model, (images, labels) = adapted(vit(16), rank), private(16)
    shared = gia.share_gradient(model, images, labels)
    noisy = (images + 0.1 * torch.randn(images.shape, generator=seeded())).clamp(0, 1)
    truth, other = (misfit(model, shared, each) for each in (images, noisy))
    assert truth < 1e-20
    assert other > 1e-6
