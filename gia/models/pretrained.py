"""Trained networks from the weight files that `gia.data` lists."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.data import assets
from gia.errors import expected_one_of, not_installed
from gia.models.standardization import standardize
from gia.models.transformers import vision_transformer

__all__ = ["PRETRAINED", "add_classifier", "pretrained"]


def pretrained(name: str) -> nn.Module:
    """A trained network in float32, on the CPU, in evaluation mode. Nothing is downloaded.

    | name | network | input | output |
    |---|---|---|---|
    | cifar10-cnn | CIFAR-10 classifier, BatchNorm after ReLU | (N, 3, 32, 32) in [0, 1] | (N, 10) |
    | efficientnet-lite0 | ImageNet classifier with BatchNorm | (N, 3, H, W) in [0, 1], trained at 224 | (N, 1000) |
    | dinov2-small | DINOv2 ViT-S/14 of timm, without a classifier | (N, 3, 224, 224) in [0, 1] | features (N, 384) |
    | face-decoder | DCGAN of faces | z (N, *latent_shape) from N(0, 1) | images (N, 3, 64, 64) in [0, 1] |

    Args:
        name: as in the table.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: the weight file is missing; the message has the command that installs it.
        gia.data.assets.AssetError: the weight file differs from the one that gia was written for.
        ModuleNotFoundError: cifar10-cnn without h5py, dinov2-small without timm or onnx.

    >>> import gia
    >>> samples = gia.data.load("cifar10-samples")
    >>> net = gia.models.pretrained("cifar10-cnn")
    >>> bool((net(samples.images).argmax(1) == samples.labels).all())
    True
    """
    if name not in _LOADERS:
        raise ValueError(expected_one_of("name", name, list(_LOADERS)))
    make, read, statistics = _LOADERS[name]
    with torch.device("meta"):  # on another device torch would draw initial weights from the global random state
        net = make()
    net.load_state_dict(read(net), assign=True)
    return (standardize(net, mean=statistics[0], std=statistics[1]) if statistics else net).eval()


def add_classifier(trunk: nn.Module, *, num_classes: int, generator: torch.Generator) -> nn.Module:
    """A copy of a Vision Transformer of timm that ends in features, such as dinov2-small, with a classifier on top.

    Args:
        trunk: has the attributes `head` and `num_features`; it is not changed.
        num_classes: number of logits.
        generator: source of the classifier's weights, N(0, 0.02) cut off at 2, on the CPU. Its bias is zero.

    Raises:
        ValueError: fewer than one class, or a network without these attributes.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> net = gia.models.build("vit_tiny", num_classes=7, image_size=8, patch=4, width=16, depth=1, generator=g)
    >>> gia.models.add_classifier(net, num_classes=3, generator=g)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    if not (hasattr(trunk, "head") and hasattr(trunk, "num_features")):
        raise ValueError(f"trunk: expected a Vision Transformer of timm, got {type(trunk).__name__}")
    net = copy.deepcopy(trunk)
    like = next(net.parameters())
    with torch.device("meta"):
        head = nn.Linear(int(cast(int, net.num_features)), num_classes)
    head.float().to_empty(device="cpu")
    with torch.no_grad():
        nn.init.trunc_normal_(head.weight, 0.0, 0.02, -2.0, 2.0, generator=generator)
        nn.init.zeros_(head.bias)
    net.head = head.to(like).train(net.training)
    return net


class CifarCNN(nn.Sequential):
    """The CNN of the package cifar-10-model, without dropout and without the ReLU on its logits.

    >>> import torch
    >>> from gia.models.pretrained import CifarCNN
    >>> CifarCNN()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after, pool in ((3, 64, False), (64, 64, True), (64, 128, False), (128, 128, True)):
            layers += _conv_relu_norm(before, after)
            layers += [nn.MaxPool2d(2)] if pool else []
        layers += [*_conv_relu_norm(128, 64), *_conv_relu_norm(64, 64), nn.Flatten()]
        layers += [nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10)]
        super().__init__(*layers)


def _conv_relu_norm(before: int, after: int) -> list[nn.Module]:
    # Keras' BatchNormalization has eps 1e-3; its momentum 0.15 is torch's 0.85.
    return [nn.Conv2d(before, after, 3), nn.ReLU(), nn.BatchNorm2d(after, eps=1e-3, momentum=0.85)]


_KERAS: Mapping[type[nn.Module], tuple[str, Mapping[str, str]]] = {
    nn.Conv2d: ("conv2d", {"weight": "kernel", "bias": "bias"}),
    nn.Linear: ("dense", {"weight": "kernel", "bias": "bias"}),
    nn.BatchNorm2d: (
        "batch_normalization",
        {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
    ),
}


def _read_cifar10_cnn(net: nn.Module) -> dict[str, Tensor]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise not_installed("h5py", "the weights of cifar10-cnn", "h5py>=3.10") from error
    weights = {}
    counts = dict.fromkeys(_KERAS, 0)
    with h5py.File(assets.files("cifar10-cnn")[0], "r") as file:
        for name, module in net.named_modules():
            if type(module) not in _KERAS:
                continue
            kind, names = _KERAS[type(module)]
            layer = f"{kind}_{counts[type(module)]}".removesuffix("_0")
            counts[type(module)] += 1
            for ours, theirs in names.items():
                value = torch.from_numpy(file[f"model_weights/{layer}/{layer}/{theirs}:0"][()])
                # Keras keeps kernels as (height, width, in, out) and (in, out).
                order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
                weights[f"{name}.{ours}"] = value.permute(order).contiguous()
            if isinstance(module, nn.BatchNorm2d):
                weights[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return weights


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Google, 2020): EfficientNet-B0 (Tan and Le, 2019) with ReLU6, without squeeze-and-excitation.

    >>> import torch
    >>> from gia.models.pretrained import EfficientNetLite0
    >>> EfficientNetLite0().eval()(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 1000])
    """

    # expansion, kernel, stride, channels, repeats (EfficientNet, Table 1)
    STAGES = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        before = 32
        for expansion, kernel, stride, after, repeats in self.STAGES:
            for index in range(repeats):
                blocks.append(_InvertedResidual(before, after, expansion, kernel, stride if index == 0 else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_norm(320, 1280, 1)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, 3, H, W) standardized -> logits (N, 1000)."""
        features = F.relu6(self.head(self.blocks(F.relu6(self.stem(inputs)))))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


class _InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expand = _conv_norm(before, inner, 1) if expansion > 1 else None
        self.depthwise = _conv_norm(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _conv_norm(inner, after, 1)
        self.residual = stride == 1 and before == after

    def forward(self, inputs: Tensor) -> Tensor:
        expanded = inputs if self.expand is None else F.relu6(self.expand(inputs))
        outputs: Tensor = self.project(F.relu6(self.depthwise(expanded)))
        return inputs + outputs if self.residual else outputs


class _SameConv2d(nn.Conv2d):
    # TensorFlow's "SAME" padding: an odd surplus goes to the right and the bottom.
    def forward(self, inputs: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(inputs.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            surplus = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [surplus // 2, surplus - surplus // 2]
        return super().forward(F.pad(inputs, pads))


def _conv_norm(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _SameConv2d(before, after, kernel, stride=stride, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=1e-3, momentum=0.01),
    )


def _read_efficientnet_lite0(net: nn.Module) -> dict[str, Tensor]:
    weights = torch.load(assets.files("efficientnet-lite0")[0], map_location="cpu", weights_only=True)
    # The file has a fixed digest, and its tensors are in the order of this module's layers.
    return dict(zip(net.state_dict(), weights.values(), strict=True))


class FaceDecoder(nn.Module):
    """The generator of a DCGAN (Radford et al., 2016) for faces of 64 x 64 pixels.

    Attributes:
        latent_shape: shape of one z, (100,).

    >>> import torch
    >>> from gia.models.pretrained import FaceDecoder
    >>> FaceDecoder()(torch.zeros(2, 100)).shape
    torch.Size([2, 3, 64, 64])
    """

    def __init__(self) -> None:
        super().__init__()
        self.latent_shape = (100,)
        layers: list[nn.Module] = []
        for before, after in ((100, 512), (512, 256), (256, 128), (128, 64)):
            stride, padding = (1, 0) if before == 100 else (2, 1)
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """z (N, 100) -> images (N, 3, 64, 64) in [0, 1]."""
        images: Tensor = self.main(latents[:, :, None, None])
        return (images + 1) / 2


def _read_face_decoder(net: nn.Module) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(assets.files("face-decoder")[0], map_location="cpu", weights_only=True)[
        "netG_state_dict"
    ]
    return weights


def _dinov2() -> nn.Module:
    """Oquab et al., 2024, DINOv2: a Vision Transformer with layer scale, in timm's form."""
    sizes: dict[str, Any] = {
        "img_size": 224,
        "patch_size": 14,
        "embed_dim": 384,
        "depth": 12,
        "num_heads": 6,
        "init_values": 1.0,
    }
    net: nn.Module = vision_transformer("dinov2-small")(**sizes, num_classes=0, weight_init="skip")
    return net


#: timm's name of a layer in a block -> its name in the ONNX file.
_DINOV2_LAYERS = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _read_dinov2(net: nn.Module) -> dict[str, Tensor]:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "onnx: expected to be installed for the weights of dinov2-small; python -m pip install 'onnx>=1.16'",
            name="onnx",
        ) from error
    graph = onnx.load(str(assets.files("dinov2-small")[0])).graph
    stored = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    # The file names a matrix by a number; the product that reads it is named after its layer.
    products = {node.output[0].removesuffix("/MatMul_output_0"): node.input for node in graph.node}

    def matrix(layer: str) -> Tensor:
        found = stored[
            next(name for name in products["/backbone/" + layer.replace("layer/", "layer.")] if name in stored)
        ]
        return found.T.contiguous()

    weights = {
        "cls_token": stored["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": stored["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": stored["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": stored["backbone.layernorm.weight"],
        "norm.bias": stored["backbone.layernorm.bias"],
        "pos_embed": _dinov2_positions(
            stored, int(net.get_submodule("patch_embed").get_parameter("proj.bias").numel())
        ),
    }
    for block in range(12):
        theirs = f"backbone.encoder.layer.{block}"
        for ours, layer in _DINOV2_LAYERS.items():
            weights[f"blocks.{block}.{ours}.bias"] = stored[f"{theirs}.{layer}.bias"]
            weights[f"blocks.{block}.{ours}.weight"] = (
                stored[f"{theirs}.{layer}.weight"]
                if ours.startswith("norm")
                else matrix(f"encoder/layer/{block}/{layer.replace('.', '/')}")
            )
        parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        weights[f"blocks.{block}.attn.qkv.bias"] = torch.cat([stored[f"{theirs}.{part}.bias"] for part in parts])
        weights[f"blocks.{block}.attn.qkv.weight"] = torch.cat(
            [matrix(f"encoder/layer/{block}/{part.replace('.', '/')}") for part in parts]
        )
        for number in (1, 2):
            weights[f"blocks.{block}.ls{number}.gamma"] = stored[f"{theirs}.layer_scale{number}.lambda1"]
    return weights


def _dinov2_positions(stored: Mapping[str, Tensor], width: int) -> Tensor:
    """Position embeddings of the class token and of 16x16 patches, from the stored ones of 37x37 patches.

    The file resizes them in its graph, bicubically and without antialiasing; timm's own resizing has antialiasing.
    """
    (of_class,) = (
        value
        for value in stored.values()
        if value.shape == (1, 1, width) and not value.equal(stored["backbone.embeddings.cls_token"])
    )
    (of_patches,) = (value for value in stored.values() if value.shape == (1, 37 * 37, width))
    grid = of_patches.view(1, 37, 37, width).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(16, 16), mode="bicubic", align_corners=False)
    return torch.cat([of_class, resized.flatten(2).mT], 1)


# name -> (network, reader of its weights, mean and std of its input)
_LOADERS: Mapping[
    str,
    tuple[
        Callable[[], nn.Module],
        Callable[[nn.Module], dict[str, Tensor]],
        tuple[float | Sequence[float], float | Sequence[float]] | None,
    ],
] = {
    "cifar10-cnn": (CifarCNN, _read_cifar10_cnn, (0.0, 1 / 255)),
    "efficientnet-lite0": (EfficientNetLite0, _read_efficientnet_lite0, (127 / 255, 128 / 255)),
    "dinov2-small": (_dinov2, _read_dinov2, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    "face-decoder": (FaceDecoder, _read_face_decoder, None),
}

PRETRAINED: tuple[str, ...] = tuple(_LOADERS)
