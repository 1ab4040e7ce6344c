"""A model as a client runs it: in the client's mode, with one tensor of outputs, and without random numbers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

from gia.federated.layers import set_mode
from gia.federated.outputs import check_initialized, output_of

__all__ = ["differentiable", "differentiable_model", "differentiating", "in_mode", "outputs_of", "victim_of", "watch"]

#: Outputs of two passes that differ by more than this multiple of the dtype's eps, relative to the largest one, differ
#: by more than rounding, which is not the same in each pass on a GPU.
_ROUNDING = 1e3
#: The same for dtypes of few digits.
_MOST = 1e-2

_Buffers = tuple[nn.Module, dict[str, Tensor | None]]
_Hooks = tuple[nn.Module, dict[int, Callable[..., Any]], dict[int, Callable[..., Any]]]


def victim_of(model: nn.Module, training: bool, *, read_only: bool = False) -> nn.Module:
    """A copy of a model that runs as a client runs it. Everybody who runs a victim makes it here.

    Its forward pass returns the tensor of outputs, one row for each image (`gia.federated.outputs.output_of`). The
    first pass also looks for modules that draw random numbers, whatever their class: dropout inside attention and RNNs,
    `F.dropout(x, training=self.training)`, stochastic depth. Each of them is put in evaluation mode, and the random
    state of torch, NumPy and Python is put back. Then the pass is repeated: a victim that draws from a generator of its
    own, or from the system, gives other outputs.

    Args:
        model: not changed.
        training: whether batch normalization uses the statistics of its batch (True) or its running ones.
        read_only: the copy shares the memory of the model's parameters, which the caller must not change. Copying
            those of an imprint module takes longer than its attack.

    Raises:
        ValueError: lazy parameters; and, in the first forward pass, an output that is no tensor, a module that draws
            random numbers in evaluation mode too, or outputs that differ when the pass is repeated.

    >>> import torch
    >>> from torch import nn
    >>> from gia.federated.victims import victim_of
    >>> class Dropped(nn.Linear):
    ...     def forward(self, x):
    ...         return nn.functional.dropout(super().forward(x), training=self.training),
    >>> victim = victim_of(Dropped(3, 2), training=True)
    >>> victim(torch.ones(1, 3)).equal(victim(torch.ones(1, 3)))
    True
    """
    check_initialized(model)
    shared = [
        p for p in model.parameters() if read_only and not p.is_inference()
    ]  # autograd needs copies of the others
    victim = set_mode(copy.deepcopy(model, {id(parameter): parameter for parameter in shared}), training)
    watch(victim, repeat=True)
    return victim


def watch(model: nn.Module, *, repeat: bool = False) -> list[RemovableHandle]:
    """Make `model` itself behave as `victim_of` describes, until the returned handles are removed.

    Modes that the search for random numbers has changed are left to the caller to restore. With `repeat` the first
    pass is repeated, which only a copy allows: other hooks of the caller's model would see both passes.

    >>> import torch
    >>> from gia.federated.victims import watch
    >>> handles = watch(torch.nn.Linear(3, 2))
    >>> len(handles)
    2
    """
    watcher = _Watcher(_Repeat(model) if repeat else None)
    before = model.register_forward_pre_hook(watcher.before, prepend=True)  # the model's own hooks may draw, too
    return [before, model.register_forward_hook(watcher.after)]


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


def outputs_of(received: nn.Module, images: Tensor) -> Tensor:
    """The outputs of a model that somebody else sent, within `in_mode`.

    Raises:
        ValueError: the model does not run on these images; the message ends with the first line of the error.

    >>> import torch
    >>> from gia.federated.victims import outputs_of
    >>> outputs_of(torch.nn.Linear(4, 2), torch.zeros(1, 3))
    Traceback (most recent call last):
    ValueError: model: expected a forward pass on images (1, 3), got RuntimeError: mat1 and mat2 shapes ...
    """
    try:
        outputs: Tensor = received(images)
    except ValueError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"model: expected a forward pass on images {tuple(images.shape)}, got {said}") from error
    return outputs


@contextmanager
def differentiating() -> Iterator[None]:
    """A context, and a decorator, in which autograd works whatever the caller's mode is, `torch.inference_mode` too.

    >>> import torch
    >>> from gia.federated.victims import differentiating
    >>> with torch.inference_mode(), differentiating():
    ...     torch.ones(1, requires_grad=True).sum().backward()
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def differentiable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made under `torch.inference_mode`, which autograd cannot use.

    >>> import torch
    >>> from gia.federated.victims import differentiable
    >>> with torch.inference_mode():
    ...     made = torch.ones(1)
    >>> differentiable(made).is_inference()
    False
    """
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def differentiable_model(model: nn.Module) -> nn.Module:
    """The model, or a copy of one with tensors that were made under `torch.inference_mode`.

    >>> import torch
    >>> from gia.federated.victims import differentiable_model
    >>> with torch.inference_mode():
    ...     made = torch.nn.Linear(1, 1)
    >>> differentiable_model(made).weight.is_inference()
    False
    """
    plain = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    if not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers(), *plain)):
        return model
    with torch.inference_mode(False):
        return copy.deepcopy(model)


class _Watcher:
    """The hooks of one victim. After a first pass without random numbers they cost nothing but the check of outputs."""

    def __init__(self, repeat: _Repeat | None) -> None:
        self._quiet = False
        self._start: _RandomState | None = None
        self._repeat = repeat

    def before(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not self._quiet:
            self._start = _RandomState(inputs)
            if self._repeat is not None:
                self._repeat.begin(inputs)

    def after(self, victim: nn.Module, inputs: tuple[Any, ...], returned: object) -> Tensor:
        silenced = False
        if not self._quiet and self._start is not None:
            start, self._start = self._start, None
            if silenced := start.moved():
                start.put_back()
                returned = _silenced(victim, inputs, start)
            self._quiet = True
        images = inputs[0] if inputs else None
        with torch._C.DisableTorchFunction():  # a recorder of the victim's operations sees none of ours
            outputs = output_of(returned, len(images) if isinstance(images, Tensor) else None)
        if self._repeat is not None:
            repeat, self._repeat = self._repeat, None
            repeat.check(None if silenced else outputs)  # the search for random numbers moved statistics, too
        return outputs


class _Repeat:
    """A second pass on the inputs of the first, from the same buffers and with the hooks that the model had before.

    Hooks that were registered since record the first pass and must not see another one.
    """

    def __init__(self, victim: nn.Module) -> None:
        self._victim = victim
        self._hooks = [
            (module, module._forward_pre_hooks.copy(), module._forward_hooks.copy()) for module in victim.modules()
        ]

    def begin(self, inputs: tuple[Any, ...]) -> None:
        """Keep the inputs, and the buffers as they are before the pass, such as running statistics."""
        self._inputs = inputs
        self._buffers = _copied([(module, module._buffers) for module in self._victim.modules()])

    def check(self, outputs: Tensor | None) -> None:
        """Raise ValueError unless the second pass gives the outputs of the first, up to rounding.

        The first is made here, too, where its outputs are None.
        """
        outputs = self._outputs() if outputs is None else outputs
        if not _close(outputs.detach(), self._outputs().detach()):
            raise ValueError(
                "model: expected a forward pass without random numbers, got other outputs from a second pass on the "
                "same images: the model draws from a generator of its own, or each pass changes it"
            )

    def _outputs(self) -> Tensor:
        with self._as_before(), saved_tensors_hooks(_nothing, _nothing):  # no backward pass follows
            return output_of(self._victim(*self._inputs))

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Put the buffers and hooks back, then restore those of now.

        Buffers are exchanged, not overwritten, since autograd may need those of the first pass.
        """
        buffers = [(module, dict(module._buffers)) for module, _ in self._buffers]
        hooks = [(module, module._forward_pre_hooks, module._forward_hooks) for module, *_ in self._hooks]
        _put(_copied(self._buffers), self._hooks)
        try:
            yield
        finally:
            _put(buffers, hooks)


def _copied(buffers: Sequence[_Buffers]) -> list[_Buffers]:
    """Copies, one of a buffer that several modules share."""
    copies = {id(own): own.clone() for _, each in buffers for own in each.values() if own is not None}
    return [
        (module, {name: None if own is None else copies[id(own)] for name, own in each.items()})
        for module, each in buffers
    ]


def _put(buffers: Sequence[_Buffers], hooks: Sequence[_Hooks]) -> None:
    for module, own in buffers:
        module._buffers.clear()
        module._buffers.update(own)
    for module, before, after in hooks:
        module.__dict__.update(_forward_pre_hooks=before, _forward_hooks=after)


def _close(outputs: Tensor, again: Tensor) -> bool:
    """Whether the outputs of two passes differ by no more than rounding."""
    if outputs.shape != again.shape or not (outputs.is_floating_point() and outputs.numel()):
        return torch.equal(outputs, again)
    largest = float(outputs.abs().nan_to_num(0, 0).amax())
    apart = min(_ROUNDING * torch.finfo(outputs.dtype).eps, _MOST) * largest
    return torch.allclose(outputs, again, rtol=0, atol=apart, equal_nan=True)


def _nothing(_: Any) -> Any:
    return None


class _RandomState:
    """The global random states: torch's on the CPU and on the device of the inputs, NumPy's and Python's."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        with torch._C.DisableTorchFunction():
            devices = {one.device for one in inputs if isinstance(one, Tensor)}
        self._devices = [device for device in devices if device.type == "cuda"]
        self._taken = self._now()

    def moved(self) -> bool:
        """Whether a number was drawn since."""
        tensors, others = self._now()
        with torch._C.DisableTorchFunction():
            same = all(torch.equal(*pair) for pair in zip(self._taken[0], tensors, strict=True))
        return not same or self._taken[1] != others

    def put_back(self) -> None:
        """Set all states to what they were."""
        tensors, _ = self._taken
        torch.set_rng_state(tensors[0])
        for device, state in zip(self._devices, tensors[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(self._numpy)  # noqa: NPY002 (what a model may draw from)
        random.setstate(self._python)

    def _now(self) -> tuple[list[Tensor], object]:
        tensors = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]
        numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
        if not hasattr(self, "_taken"):
            self._numpy, self._python = numpy, python
        return tensors, ([part.tobytes() if isinstance(part, np.ndarray) else part for part in numpy], python)


def _silenced(victim: nn.Module, inputs: tuple[Any, ...], start: _RandomState) -> object:
    """What the victim returns with every module that draws random numbers in evaluation mode."""
    while True:
        drawing = _drawing(victim, inputs, start)
        if not any(module.training for module in drawing.values()):
            names = ", ".join(f"{name or 'the model itself'} ({type(one).__name__})" for name, one in drawing.items())
            raise ValueError(
                f"model: expected a forward pass without random numbers, got some drawn in evaluation mode by "
                f"{names or 'a part of the model that is no module'}"
            )
        for module in drawing.values():
            module.training = False
        returned: object = victim.forward(*inputs)
        if not start.moved():
            return returned
        start.put_back()


def _drawing(victim: nn.Module, inputs: tuple[Any, ...], start: _RandomState) -> dict[str, nn.Module]:
    """The innermost modules that draw random numbers in a forward pass, by name."""
    found: dict[str, nn.Module] = {}
    open_calls: list[_RandomState] = []
    handles: list[RemovableHandle] = []

    def enter(_: nn.Module, __: tuple[Any, ...]) -> None:
        open_calls.append(_RandomState(inputs))

    def leave(name: str, module: nn.Module) -> None:
        inside = any(one.startswith(f"{name}.") for one in found)
        if open_calls.pop().moved() and not inside:
            found[name] = module

    for name, module in victim.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(lambda one, *_, name=name: leave(name, one)))
    try:
        victim.forward(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    if start.moved() and not found:
        found[""] = victim
    start.put_back()
    return found
