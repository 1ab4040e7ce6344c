"""Trained networks from the weight files that `gia.data` lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.data import assets
from gia.errors import expected_one_of, not_installed
from gia.models.standardization import standardize

__all__ = ["PRETRAINED", "pretrained"]


def pretrained(name: str) -> nn.Module:
    """A trained network in float32, on the CPU, in evaluation mode. Nothing is downloaded.

    | name | network | input | output |
    |---|---|---|---|
    | cifar10-cnn | CIFAR-10 classifier, BatchNorm after ReLU | (N, 3, 32, 32) in [0, 1] | (N, 10) |
    | efficientnet-lite0 | ImageNet classifier with BatchNorm | (N, 3, H, W) in [0, 1], trained at 224 | (N, 1000) |
    | face-decoder | DCGAN of faces | z (N, *latent_shape) from N(0, 1) | images (N, 3, 64, 64) in [0, 1] |

    Args:
        name: as in the table.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: the weight file is missing; the message has the command that installs it.
        gia.data.assets.AssetError: the weight file differs from the one that gia was written for.
        ModuleNotFoundError: cifar10-cnn without h5py.

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


# name -> (network, reader of its weights, mean and std of its input)
_LOADERS: Mapping[
    str, tuple[Callable[[], nn.Module], Callable[[nn.Module], dict[str, Tensor]], tuple[float, float] | None]
] = {
    "cifar10-cnn": (CifarCNN, _read_cifar10_cnn, (0.0, 1 / 255)),
    "efficientnet-lite0": (EfficientNetLite0, _read_efficientnet_lite0, (127 / 255, 128 / 255)),
    "face-decoder": (FaceDecoder, _read_face_decoder, None),
}

PRETRAINED: tuple[str, ...] = tuple(_LOADERS)
