"""Parameters that record their use: each use becomes a `Layer` whose input and output derivative are recorded.

A victim with `Tapped` parameters runs unchanged, with modules and functional calls. Torch passes every function that
gets a tapped parameter to `Tapped.__torch_function__`; `_RULES` has a rule for the common ones, and a matched parameter
in any other function raises `Unknown`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.attacks.matching.layers import Convolution, Dense, FixedNormalization, Layer, Scale


class Unknown(Exception):
    """A parameter is used in a way for which there is no rule."""


class Tap(NamedTuple):
    """A layer, its input x and dL/dz of its output; both are part of the graph."""

    layer: Layer
    inputs: Tensor
    outputs: Tensor


class Tape:
    """A record of the layers in one forward and one backward pass over R interleaved trials of B images.

    All layers depend on a leaf, the anchor. A backward pass towards it visits every layer, but does not compute the
    gradient with respect to the images, which is not needed yet.
    """

    def __init__(self, device: torch.device) -> None:
        self.trials, self.batch = 1, 1
        self.taps: list[Tap] | None = None  # a list while it listens
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    @contextmanager
    def over(self, trials: int, batch: int) -> Iterator[Tape]:
        """A context for passes over `trials` x `batch` images."""
        self.trials, self.batch = trials, batch
        try:
            yield self
        finally:
            self.taps = None

    def apply(self, layer: Layer, inputs: Tensor) -> Tensor:
        """The output of a layer, with the pair of Functions below in the graph."""
        inner = _reaches(self._anchor, inputs)
        outputs: Tensor = _Forward.apply(self, layer, inner, inputs, self._anchor)
        return outputs

    def listen(self, loss: Tensor, *, create_graph: bool) -> list[Tap]:
        """The taps of matched layers, by a backward pass from `loss`; with `create_graph` they are part of a graph."""
        self.taps = []
        torch.autograd.grad(loss, self._anchor, create_graph=create_graph, allow_unused=True)
        return [tap for tap in self.taps if any(tap.layer.names)]


class _Forward(torch.autograd.Function):
    """W * x + b. Its backward runs twice: for the derivative of the loss, which is recorded, and for the images."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, layer: Layer, inner: bool, inputs: Tensor, anchor: Tensor) -> Tensor:
        ctx.tape, ctx.layer, ctx.inner = tape, layer, inner
        ctx.save_for_backward(inputs)  # autograd then notices if the model overwrites it
        return layer.forward(inputs)

    @staticmethod
    def backward(ctx: Any, outputs: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        wanted = inputs.requires_grad
        if ctx.tape.taps is not None:
            ctx.tape.taps.append(Tap(ctx.layer, inputs, outputs))
            wanted = ctx.inner  # below the first layers there is only the image
        to_inputs = _Transpose.apply(ctx.layer, outputs, inputs.shape) if wanted else None
        return None, None, None, to_inputs, None


class _Transpose(torch.autograd.Function):
    """W' * d, whose derivative is W * c. It replaces aten's double backward, which computes a derivative more."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, outputs: Tensor, shape: torch.Size) -> Tensor:
        ctx.layer, ctx.shape = layer, outputs.shape
        return layer.transpose(outputs, shape)

    @staticmethod
    def backward(ctx: Any, inputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.layer.linear(inputs, ctx.shape), None


def _reaches(leaf: Tensor, value: Tensor) -> bool:
    """Whether `value` depends on `leaf`. The walk is short, since the nearest layer above depends on the anchor."""
    pending, seen = [value.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        seen.add(node)
        pending += [parent for parent, _ in node.next_functions]
    return False


class Tapped(Tensor):
    """Replaces a parameter. `matched` is its name, or None for one that is not matched and may be used in any way."""

    matched: str | None
    raw: Tensor
    tape: Tape

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        matched = [one for one in _flat([args, kwargs]) if isinstance(one, Tapped) and one.matched is not None]
        if func in _RULES:
            try:
                return _RULES[func](*args, **kwargs)
            except Unknown:
                if matched:
                    raise
        result = func(*_raw(args), **_raw(kwargs))
        if matched and any(isinstance(one, Tensor) for one in _flat(result)):
            if result is not matched[0].raw:  # .to(device), .contiguous() ... may change nothing
                raise Unknown(f"{matched[0].matched!r} is used by {getattr(func, '__name__', func)}")
            return matched[0]
        return result


def tapped(victim: nn.Module, matched: Collection[str], tape: Tape) -> nn.Module:
    """A copy of the victim with tapped parameters, which share memory with the victim's."""
    stand_ins = {}
    for name, parameter in victim.named_parameters():
        one = parameter.detach().as_subclass(Tapped)
        one.matched, one.raw, one.tape = name if name in matched else None, parameter.detach(), tape
        stand_ins[id(parameter)] = one
    return copy.deepcopy(
        victim, stand_ins
    )  # the copy's memo replaces each parameter by its stand-in wherever it is held


def _raw(value: Any) -> Any:
    if isinstance(value, Tapped):
        return value.raw
    if isinstance(value, (list, tuple)):
        return type(value)(map(_raw, value))
    return {key: _raw(one) for key, one in value.items()} if isinstance(value, dict) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _flat(one)
    else:
        yield value


# Rules: what a function does with a parameter.

_Parameter: TypeAlias = "Tensor | None"


class _Common(NamedTuple):
    trials: int
    names: tuple[str | None, str | None]
    weight: Tensor | None
    bias: Tensor | None


def _common(inputs: Tensor, weight: _Parameter, bias: _Parameter) -> tuple[Tape, _Common]:
    """What every layer needs, from the arguments of a function that got a tapped weight, bias or both."""
    both = weight, bias
    tape = next(one.tape for one in both if isinstance(one, Tapped))
    for one in both:
        if one is not None and not isinstance(one, Tapped) and one.requires_grad:
            raise Unknown("a weight or bias is computed, not a parameter")
    if isinstance(inputs, Tapped) or len(inputs) % (tape.trials * tape.batch):
        raise Unknown(f"the input of a layer is not a batch of images but {tuple(inputs.shape)}")
    names = tuple(one.matched if isinstance(one, Tapped) else None for one in both)
    return tape, _Common(tape.trials, names, *map(_raw, both))  # type: ignore[arg-type]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: _Parameter = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    tape, common = _common(input, weight, bias)
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(_pair(dilation), weight.shape[2:], strict=True)]
        padding = spans[0] // 2, spans[1] // 2
        if spans[0] % 2 or spans[1] % 2:
            input = F.pad(input, (0, spans[1] % 2, 0, spans[0] % 2))
    padding = 0 if isinstance(padding, str) else padding
    return tape.apply(Convolution(*common, _pair(stride), _pair(padding), _pair(dilation), groups), input)  # type: ignore[arg-type]


def _linear(input: Tensor, weight: Tensor, bias: _Parameter = None) -> Tensor:
    tape, common = _common(input, weight, bias)
    return tape.apply(Dense(*common, tape.batch), input)  # type: ignore[arg-type]


def _batch_norm(
    input: Tensor,
    running_mean: _Parameter,
    running_var: _Parameter,
    weight: _Parameter = None,
    bias: _Parameter = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    tape, common = _common(input, weight, bias)
    if not training and running_mean is not None and running_var is not None:
        return tape.apply(FixedNormalization(*common, running_mean, running_var, eps), input)
    # Statistics of each trial's own batch are those of R*C channels. Running statistics are not updated.
    sides = input.reshape(-1, tape.trials * input.shape[1], *input.shape[2:])
    normalized = F.batch_norm(sides, None, None, training=True, eps=eps).view_as(input)
    return tape.apply(Scale(*common, (input.shape[1], *[1] * (input.dim() - 2))), normalized)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: _Parameter = None,
    bias: _Parameter = None,
    eps: float = 1e-5,
) -> Tensor:
    tape, common = _common(input, weight, bias)
    return tape.apply(Scale(*common, tuple(normalized_shape)), F.layer_norm(input, normalized_shape, eps=eps))


def _group_norm(
    input: Tensor, num_groups: int, weight: _Parameter = None, bias: _Parameter = None, eps: float = 1e-5
) -> Tensor:
    tape, common = _common(input, weight, bias)
    shape = (input.shape[1], *[1] * (input.dim() - 2))
    return tape.apply(Scale(*common, shape), F.group_norm(input, num_groups, eps=eps))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor,
    in_proj_bias: _Parameter,
    bias_k: _Parameter,
    bias_v: _Parameter,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: _Parameter,
    training: bool = True,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Self-attention of (tokens, images, features) as in nn.MultiheadAttention, without masks."""
    unusual = bias_k is not None or bias_v is not None or add_zero_attn or (training and dropout_p > 0)
    masked = any(one is not None and one is not False for one in rest.values())
    if query is not key or key is not value or unusual or masked or query.dim() != 3:
        raise Unknown("attention other than plain self-attention")
    tokens = query.transpose(0, 1)
    parts = F.linear(tokens, in_proj_weight, in_proj_bias).chunk(3, -1)
    heads = (*tokens.shape[:2], num_heads, -1)
    queries, keys, values = (part.reshape(heads).transpose(1, 2) for part in parts)
    weights = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(-1)
    attended = F.linear((weights @ values).transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    shown = weights.mean(1) if average_attn_weights else weights
    return attended.transpose(0, 1), shown if need_weights else None


def _entrywise(weight: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """x * p or x + p with a parameter that is broadcast over images."""

    def rule(left: Tensor, right: Tensor) -> Tensor:
        inputs, parameter = (right, left) if isinstance(left, Tapped) else (left, right)
        if not isinstance(inputs, Tensor):
            raise Unknown(f"a parameter is combined with {type(inputs).__name__}")
        tape, common = _common(inputs, parameter if weight else None, None if weight else parameter)
        shape = tuple(parameter.shape)
        shape = shape[1:] if len(shape) == inputs.dim() and shape[0] == 1 else shape
        image = inputs.shape[inputs.dim() - len(shape) :] if len(shape) < inputs.dim() else ()
        if len(image) != len(shape) or any(own not in (1, size) for own, size in zip(shape, image, strict=True)):
            raise Unknown(f"a parameter of {tuple(parameter.shape)} is broadcast over {tuple(inputs.shape)}")
        return tape.apply(Scale(*common, shape), inputs)

    return rule


def _expand(parameter: Tapped, *sizes: Any) -> Tensor:
    """One copy for each image, such as of a class token, as the sum of zeros and the parameter."""
    wanted = list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
    one, *shape = parameter.raw.shape
    tape = parameter.tape
    same = len(wanted) == len(shape) + 1 and all(size in (-1, own) for size, own in zip(wanted[1:], shape, strict=True))
    if one != 1 or not same or wanted[0] != tape.trials * tape.batch:
        raise Unknown(f"{parameter.matched!r} is expanded to {wanted}")
    blank = parameter.raw.new_zeros(wanted[0], *shape)
    return tape.apply(Scale(tape.trials, (None, parameter.matched), None, parameter.raw, tuple(shape)), blank)


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.multi_head_attention_forward: _attention,
    Tensor.expand: _expand,
    Tensor.detach: lambda parameter: parameter.raw,
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _entrywise(weight=False)),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _entrywise(weight=True)),
}
