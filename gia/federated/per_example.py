"""The share of a single image in a batch gradient: D-SNR and transmit-SNR (Garov et al., ICLR 2024)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gia.federated.layers import set_mode
from gia.federated.losses import Loss, check_labels
from gia.federated.outputs import output_of
from gia.federated.victims import differentiating, watch

__all__ = ["Normalization", "Recorder", "Use", "dominance", "norms", "operations", "transmit_snr"]


@dataclass(frozen=True, eq=False)
class Use:
    """One application of a linear layer or convolution, by whatever function.

    Attributes:
        weight, bias: the tensors that were applied, a row for each output; they need not be parameters of the model.
        inputs, outputs: the layer's input, detached, and its output, part of the autograd graph.
        settings: stride, padding, dilation and groups of a convolution; None for a linear layer.
        scale, shift: what the elementwise functions that follow do to each output, scale * output + shift, as a batch
            normalization does; None without such a function.
        unit: the median factor of a batch normalization among these functions, the size of what it returns; else 0.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    outputs: Tensor
    settings: tuple[Any, ...] | None
    scale: Tensor | None = None
    shift: Tensor | None = None
    unit: float = 0.0

    @property
    def signals(self) -> Tensor:
        """The outputs before scale and shift, detached, one column for each row of the weight."""
        outputs = self.outputs.detach()
        return outputs.movedim(1, -1).flatten(0, -2) if self.settings else outputs.reshape(-1, len(self.weight))


@dataclass(frozen=True, eq=False)
class Normalization:
    """One batch normalization that used its running statistics.

    Attributes:
        mean, variance: the running statistics, (channels,).
        weight, bias: of its affine map, or None.
        eps: added to the variance.
        inputs: what it normalized (N, channels, ...), detached.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    inputs: Tensor


class Recorder(TorchFunctionMode):
    """Records the operations of a forward pass, whatever the classes and names of the modules.

    Args:
        images: the input of the forward pass. What is computed from it is data, all else may be a weight.
        taps: whether to record the uses of linear layers and convolutions. Each is then applied with a detached weight,
            so that a backward pass to its output computes no weight gradient.
        model: names the tensors in `operations`; None leaves that list empty.

    Attributes:
        uses: the recorded uses, in order.
        normalizations: the batch normalizations that used running statistics, in order.
        opaque: names of other functions that applied a matrix with rows of at least 64 entries to data.
        operations: a line for each function that was called: its name, and its arguments. Parameters and buffers appear
            by number and layout, other constants by a digest of their values.

    >>> import torch
    >>> from gia.federated.per_example import Recorder
    >>> images = torch.zeros(4, 3)
    >>> with Recorder(images, taps=True) as recorder:
    ...     _ = torch.nn.Linear(3, 2)(images)
    >>> recorder.uses[0].inputs.shape, recorder.uses[0].outputs.shape
    (torch.Size([4, 3]), torch.Size([4, 2]))
    """

    def __init__(self, images: Tensor, *, taps: bool = False, model: nn.Module | None = None) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.normalizations: list[Normalization] = []
        self.opaque: dict[str, None] = {}
        self.operations: list[str] = []
        self._taps = taps
        # Tensors are kept, since the address of one that is gone may be another's.
        self._data, self._made = {id(images): images}, dict[int, Tensor]()
        self._ends: dict[int, tuple[Tensor, int]] = {}  # output of a use, or of what follows it -> number of the use
        self._known: dict[int, str] | None = None
        if model is not None:
            tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
            self._known = {}
            for i, (_, tensor) in enumerate(tensors):
                self._known.setdefault(tensor.untyped_storage().data_ptr(), f"tensor {i}")

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Torch calls this in place of every function of tensors."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if self._known is not None:
            given = ", ".join([self._shown(a) for a in args] + [f"{k}={self._shown(v)}" for k, v in kwargs.items()])
            self.operations.append(f"{_owner(func)}{name}({given})")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        of_data = any(id(tensor) in self._data for tensor in tensors)
        applied = _applied(func, name, args, kwargs, self._data) if self._taps else None
        result = func(*args, **kwargs) if applied is None else self._apply(func, args, kwargs, applied)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name == "__setitem__":
            made = [args[0]]
        (self._data if of_data else self._made).update({id(tensor): tensor for tensor in made})
        if self._taps and of_data and applied is None:
            self._follow(func, name, args, kwargs, result, tensors)
        return result

    def _apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], applied: _Applied) -> Tensor:
        """Call the function with detached constants, and record the use."""

        def cut(leaf: Any) -> Any:
            constant = isinstance(leaf, Tensor) and leaf is not applied.inputs
            return leaf.detach() if constant else leaf

        outputs: Tensor = func(*tree_map(cut, args), **tree_map(cut, kwargs))
        outputs = outputs.mT if applied.turned else outputs
        if not outputs.requires_grad:
            outputs.requires_grad_()
        bias, inputs = applied.bias, applied.inputs.detach()
        self.uses.append(
            Use(
                applied.weight.detach(),
                None if bias is None else bias.detach(),
                inputs.mT if applied.turned else inputs,
                outputs,
                applied.settings,
            )
        )
        result = outputs.clone()  # an in-place activation would overwrite the recorded output
        result = result.mT if applied.turned else result
        self._ends[id(result)] = result, len(self.uses) - 1
        self._data[id(result)] = result
        return result

    def _follow(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, tensors: list[Tensor]
    ) -> None:
        """Note a batch normalization, fold what follows a use into it, or note a matrix that is not judged."""
        normalization = _normalization(func, args, kwargs)
        if normalization is not None:
            self.normalizations.append(normalization)
        end = next((self._ends[id(tensor)] for tensor in tensors if id(tensor) in self._ends), None)
        if end is not None and _turns(func, name):
            self._ends[id(result)] = result, end[1]
        elif (
            end is not None and isinstance(result, Tensor) and sum(id(tensor) in self._data for tensor in tensors) == 1
        ):
            use = self.uses[end[1]]
            step = _fold(normalization, name, args, kwargs, end[0], 1 if use.settings else -1, len(use.weight))
            if step is not None:
                scale, shift = step
                old = (0.0 if use.shift is None else use.shift), (1.0 if use.scale is None else use.scale)
                shift = (scale * old[0] + shift).expand(len(use.weight)).detach()
                scale = (scale * old[1]).expand(len(use.weight)).detach()
                unit = use.unit
                if normalization is not None:
                    unit = 1.0 if normalization.weight is None else float(normalization.weight.abs().median())
                self.uses[end[1]] = replace(use, scale=scale, shift=shift, unit=unit)
                self._ends[id(result)] = result, end[1]
                return
        for tensor in tensors if name not in _SUMS and name not in ("cat", "stack") else ():
            if id(tensor) not in self._data and tensor.is_floating_point() and _is_matrix(tensor):
                self.opaque[name] = None

    def _shown(self, value: Any) -> str:
        """An argument, the same for the same model elsewhere."""
        if isinstance(value, Tensor):
            layout = f"{tuple(value.shape)} {value.dtype}"
            if id(value) in self._data:
                return f"data {layout}"
            if self._known is not None and (name := self._known.get(_storage(value))):
                return f"{name} {layout} from {value.storage_offset()} by {_steps(value)}"
            return f"computed {layout}" if id(value) in self._made else f"constant {layout} {_digest(value)}"
        if isinstance(value, (list, tuple)):
            return f"({', '.join(map(self._shown, value))})"
        if isinstance(value, dict):
            return f"({', '.join(f'{key}={self._shown(item)}' for key, item in value.items())})"
        plain = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, slice, type(...))
        return repr(value) if isinstance(value, plain) else type(value).__name__


_CONV = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
#: Matrix products of two tensors, and whether the second one comes first.
_PRODUCTS = {"matmul": False, "__matmul__": False, "mm": False, "__rmatmul__": True, "rmatmul": True}
#: Rows shorter than this hold no image; the smallest images of this project have 8 x 8 pixels.
SHORTEST_IMAGE = 64


@dataclass(frozen=True, eq=False)
class _Applied:
    """How a call applies a matrix to data; `turned` means that images are columns."""

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    settings: tuple[Any, ...] | None = None
    turned: bool = False


def _applied(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], data: dict[int, Tensor]
) -> _Applied | None:
    """The matrix that a call applies, or None for a call that is no linear layer or 2D convolution."""
    if func in (F.linear, torch.conv2d):
        given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False))
        given |= kwargs
        settings = tuple(given.get(key, default) for key, default in _CONV) if func is torch.conv2d else None
        return _Applied(given["weight"], given.get("bias"), given["input"], settings)
    if name == "addmm" and len(args) == 3 and not kwargs and id(args[1]) in data and id(args[2]) not in data:
        bias = args[0] if id(args[0]) not in data and args[0].numel() == args[2].shape[1] else None
        return None if bias is None else _Applied(args[2].mT, bias.flatten(), args[1])
    if name in _PRODUCTS and len(args) == 2 and not kwargs:
        left, right = reversed(args) if _PRODUCTS[name] else args
        # A matrix for all images is a weight, also if it was computed from them.
        if id(left) in data and right.dim() == 2 and left.dim() > 1:
            return _Applied(right.mT, None, left)
        if id(right) in data and id(left) not in data and left.dim() == 2 and right.dim() > 1:
            return _Applied(left, None, right, turned=True)
    return None


def _normalization(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Normalization | None:
    """The batch normalization that a call makes with running statistics, if it does."""
    if func is F.batch_norm:
        keys: tuple[str, ...] = (
            "input",
            "running_mean",
            "running_var",
            "weight",
            "bias",
            "training",
            "momentum",
            "eps",
        )
    elif func is torch.batch_norm:
        keys = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    else:
        return None
    given = dict(zip(keys, args, strict=False)) | kwargs
    if given.get("training") or given.get("running_mean") is None:
        return None
    weight, bias = (given.get(key) for key in ("weight", "bias"))
    return Normalization(
        given["running_mean"].detach(),
        given["running_var"].detach(),
        None if weight is None else weight.detach(),
        None if bias is None else bias.detach(),
        given.get("eps", 1e-5),
        given["input"].detach(),
    )


_SUMS = {"add": 1, "__add__": 1, "__radd__": 1, "__iadd__": 1, "add_": 1, "sub": -1, "__sub__": -1, "__isub__": -1}
_FACTORS = {"mul": 1, "__mul__": 1, "__rmul__": 1, "__imul__": 1, "mul_": 1, "div": -1, "true_divide": -1}
_FACTORS |= {"__truediv__": -1, "__div__": -1, "__itruediv__": -1, "div_": -1}


def _fold(
    normalization: Normalization | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    end: Tensor,
    channels: int,
    count: int,
) -> tuple[Tensor, Tensor] | None:
    """(scale, shift) of a call that maps each channel of `end` on its own, or None."""
    if normalization is not None:
        n = normalization
        scale = (n.variance + n.eps).rsqrt() * (1 if n.weight is None else n.weight)
        return scale, (0 if n.bias is None else n.bias) - n.mean * scale
    if len(args) != 2 or kwargs or name not in _SUMS | _FACTORS:
        return None
    left, right = args
    inverse = (_SUMS | _FACTORS)[name] < 0
    if left is end:
        other = right
    elif right is end and not inverse:
        other = left
    else:
        return None
    value = _by_channel(other, end, channels, count)
    if value is None:
        return None
    if name in _SUMS:
        return torch.ones_like(value), (-value if inverse else value)
    return (1 / value if inverse else value), torch.zeros_like(value)


def _turns(func: Any, name: str) -> bool:
    """Whether a call transposes."""
    return name in ("t", "transpose") or getattr(func, "__self__", None) in (torch.Tensor.T, torch.Tensor.mT)


def _by_channel(value: Any, end: Tensor, channels: int, count: int) -> Tensor | None:
    """A number, or a tensor that differs between channels only, as (1,) or (channels,)."""
    if isinstance(value, (int, float)):
        return end.new_tensor([float(value)]).detach()
    if not isinstance(value, Tensor) or value.dim() > end.dim():
        return None
    if value.numel() == 1:
        return value.detach().flatten()
    shape = [1] * end.dim()
    shape[channels] = count
    padded = (1,) * (end.dim() - value.dim()) + tuple(value.shape)
    return value.detach().flatten() if list(padded) == shape else None


def _is_matrix(tensor: Tensor) -> bool:
    """Whether it has at least two rows, in some orientation, that are long enough to hold an image."""
    sizes = [size for size in tensor.shape if size > 1]
    return len(sizes) > 1 and tensor.shape[0] > 1 and tensor.numel() // min(sizes) >= SHORTEST_IMAGE


def _owner(func: Any) -> str:
    """Tells functions of one name apart, such as the getters of properties."""
    return f"{getattr(getattr(func, '__self__', None), '__name__', '')}."


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else -1


def _steps(tensor: Tensor) -> str:
    """The strides; the formats that torch itself chooses are one layout."""
    usual = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    return "rows" if usual else str(tensor.stride())


def _digest(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()):x}"


def operations(model: nn.Module, images: Tensor, *, training: bool = False) -> list[str]:
    """The torch functions that a forward pass on `images` (N, C, H, W) calls, with their arguments, in order.

    Two models that are built alike give the same lines, whatever their weights are.

    >>> import torch
    >>> from gia.federated.per_example import operations
    >>> for line in operations(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()), torch.zeros(1, 1, 2, 2)):
    ...     print(line)
    .flatten(data (1, 1, 2, 2) torch.float32, 1, -1)
    .relu(data (1, 4) torch.float32, inplace=False)
    """
    with torch.no_grad(), in_mode(model, training), Recorder(images, model=model) as recorder:
        model(images)
    called: list[str] = recorder.operations
    return called


@differentiating()
def norms(
    model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, training: bool
) -> tuple[Recorder, list[Tensor]]:
    """A record of the forward pass, and the norms of what each image adds to the gradients of the weights it used.

    The norms follow from layer inputs and output derivatives, at about the cost of one training step. In evaluation
    mode an image adds its own gradient. With batch statistics the batch gradient is still a sum over images, but each
    term depends on the other images too.

    Args:
        model: not changed.
        images: (N, C, H, W).
        labels: (N,) int64.
        loss: (logits, labels) -> scalar.
        training: whether batch normalization uses the statistics of the batch.

    Returns:
        The record, and a tensor (N,) of norms for each of its uses, in the order of the forward pass.

    Raises:
        ValueError: the model does not return logits (N, classes).

    >>> import torch
    >>> from gia.federated.per_example import norms
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> images, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1])
    >>> norms(model, images, labels, loss=torch.nn.functional.cross_entropy, training=False)[1]
    [tensor([0., 0., 0.])]
    """
    with in_mode(model, training):
        with Recorder(images, taps=True) as recorder:
            output = model(images)
        logits, uses = output_of(output, len(images)), recorder.uses
        check_labels(labels, logits, loss)
        if not uses:
            return recorder, []
        outputs = [use.outputs for use in uses]
        signals = torch.autograd.grad(loss(logits, labels), outputs, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        return recorder, [_norms(use, signal) for use, signal in zip(uses, signals, strict=True)]


def dominance(norms: Tensor) -> float:
    """D-SNR of one weight: the largest norm divided by the sum of the others plus 1e-6 (Garov et al., 2024).

    Args:
        norms: (N,), one per image.

    >>> import torch
    >>> from gia.federated.per_example import dominance
    >>> round(dominance(torch.tensor([1.0, 3.0, 1.0])), 3)
    1.5
    """
    largest = float(norms.max())
    return largest / (float(norms.sum()) - largest + 1e-6)


def transmit_snr(weight: Tensor) -> float:
    """Transmit-SNR, the largest max|w| / (sum|w| - max|w| + 1e-6) of a kernel of the first layer (Garov et al., 2024).

    Args:
        weight: (kernels, ...); a row of a linear layer counts as a kernel.

    >>> import torch
    >>> from gia.federated.per_example import transmit_snr
    >>> round(transmit_snr(torch.tensor([[1.0, 1.0, 1.0], [1.0, -4.0, 1.0]])), 3)
    2.0
    """
    sizes = weight.flatten(1).abs().double()
    largest = sizes.amax(1)
    return float((largest / (sizes.sum(1) - largest + 1e-6)).max())


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Run the model in this mode, then restore all modes and buffers, such as running statistics.

    Copying a small network would take as long as its forward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    hooks = watch(model)
    try:
        set_mode(model, training)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _norms(use: Use, signal: Tensor) -> Tensor:
    """Per-image norms of the weight's gradient, from the gradient or from two Gram matrices, whichever is smaller."""
    inputs, settings = use.inputs, use.settings
    count, rows, columns = len(inputs), len(use.weight), use.weight[0].numel()
    each: Tensor
    if settings is None:
        x, d = inputs.reshape(count, -1, columns), signal.reshape(count, -1, rows)
        if x.shape[1] == 1:
            each = x.flatten(1).norm(dim=1) * d.flatten(1).norm(dim=1)
            return each
        if _gram_is_smaller(x.shape[1], rows, columns):
            return _from_grams(x, d)
        each = (d.mT @ x).flatten(1).norm(dim=1)
        return each
    stride, padding, dilation, groups = settings
    if isinstance(padding, str):
        inputs, padding = _padded(inputs, use.weight, padding, dilation), 0
    if groups == 1 and _gram_is_smaller(signal[0, 0].numel(), rows, columns):
        return _from_grams(F.unfold(inputs, use.weight.shape[2:], dilation, padding, stride).mT, signal.flatten(2).mT)
    # Images as groups of one convolution, which takes a third of the time of unfolding them.
    gradient: Callable[..., Tensor] = conv2d_weight  # torch does not annotate it
    gathered = [tensor.reshape(1, -1, *tensor.shape[2:]) for tensor in (inputs, signal)]
    shape = (count * rows, *use.weight.shape[1:])
    gradients = gradient(gathered[0], shape, gathered[1], stride, padding, dilation, count * groups)
    each = gradients.view(count, -1).norm(dim=1)
    return each


def _gram_is_smaller(places: int, rows: int, columns: int) -> bool:
    return places * (rows + columns) <= rows * columns


def _from_grams(x: Tensor, d: Tensor) -> Tensor:
    norms: Tensor = ((x @ x.mT) * (d @ d.mT)).sum((1, 2)).clamp_min(0).sqrt()
    return norms


def _padded(inputs: Tensor, weight: Tensor, padding: str, dilation: Any) -> Tensor:
    """The inputs with the border that torch's "same" adds, an odd surplus at the end; "valid" adds nothing."""
    if padding == "valid":
        return inputs
    steps = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    pads: list[int] = []
    for step, size in zip(reversed(steps), reversed(weight.shape[2:]), strict=True):
        surplus = step * (size - 1)
        pads += [surplus // 2, surplus - surplus // 2]
    return F.pad(inputs, pads)
