"""A record of a forward pass: every function that is called, and every layer that is applied to the images."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gia.federated import calls
from gia.federated.victims import in_mode, outputs_of

__all__ = ["Recorder", "Use", "operations"]


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


class Recorder(TorchFunctionMode):
    """Records the operations of a forward pass, whatever the classes and names of the modules.

    Args:
        images: the input of the forward pass. What is computed from it is data, all else may be a weight.
        taps: whether to record the uses of linear layers and convolutions. Each is then applied with a detached weight,
            so that a backward pass to its output computes no weight gradient.
        model: names the tensors in `operations`; None leaves that list empty.
        own_statistics: whether normalizations use the statistics of their inputs, as in training, where the model would
            have them use running ones. All else stays in its mode, and no buffer moves.

    Attributes:
        images: the input of the forward pass.
        uses: the recorded uses, in order.
        normalizations: the batch and instance normalizations that were called with running statistics, in order.
        opaque: names of other functions that applied a matrix with rows of at least 64 entries to data, or such a row.
        operations: a line for each function that was called: its name, and its arguments. Parameters and buffers appear
            by number and layout, other constants by a digest of their values.

    >>> import torch
    >>> from gia.federated.recorder import Recorder
    >>> images = torch.zeros(4, 3)
    >>> with Recorder(images, taps=True) as recorder:
    ...     _ = torch.nn.Linear(3, 2)(images)
    >>> recorder.uses[0].inputs.shape, recorder.uses[0].outputs.shape
    (torch.Size([4, 3]), torch.Size([4, 2]))
    """

    def __init__(
        self, images: Tensor, *, taps: bool = False, model: nn.Module | None = None, own_statistics: bool = False
    ) -> None:
        super().__init__()
        self.images = images
        self.uses: list[Use] = []
        self.normalizations: list[calls.Normalization] = []
        self.opaque: dict[str, None] = {}
        self.operations: list[str] = []
        self._taps, self._own_statistics = taps, own_statistics
        # Tensors are kept, since the address of one that is gone may be another's.
        self._data, self._made = {id(images): images}, dict[int, Tensor]()
        self._parts = set[int]()  # of what was made, the tensors computed from a matrix of the model
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
        applied = calls.applied(func, name, args, kwargs, self._data) if self._taps else None
        normalization = calls.normalization_of(func, args, kwargs) if of_data else None
        if normalization is not None:
            self.normalizations.append(normalization)
        if normalization is not None and self._own_statistics:
            result: Any = normalization.as_in_training()
        else:
            result = func(*args, **kwargs) if applied is None else self._apply(func, args, kwargs, applied)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name == "__setitem__":
            made = [args[0]]
        if not of_data and any(map(self._is_stored, tensors)):
            self._parts.update(map(id, made))
        (self._data if of_data else self._made).update({id(tensor): tensor for tensor in made})
        if self._taps and of_data and applied is None:
            self._follow(func, name, args, kwargs, result, tensors, normalization)
        return result

    def _apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], applied: calls.Applied) -> Tensor:
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
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        tensors: list[Tensor],
        normalization: calls.Normalization | None,
    ) -> None:
        """Fold what follows a use into it, or note a matrix that is not judged."""
        end = next((self._ends[id(tensor)] for tensor in tensors if id(tensor) in self._ends), None)
        if end is not None and calls.turns(func, name):
            self._ends[id(result)] = result, end[1]
        elif (
            end is not None and isinstance(result, Tensor) and sum(id(tensor) in self._data for tensor in tensors) == 1
        ):
            use = self.uses[end[1]]
            step = calls.fold(normalization, name, args, kwargs, end[0], 1 if use.settings else -1, len(use.weight))
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
        mask = calls.attention_mask(func, args, kwargs)
        for tensor in tensors:
            constant = id(tensor) not in self._data and tensor is not mask
            if constant and calls.hides_rows(name, tensor, stored=self._is_stored(tensor)):
                self.opaque[name] = None

    def _is_stored(self, tensor: Tensor) -> bool:
        """Whether it is a matrix that no function of this forward pass made, or was computed from one."""
        return id(tensor) in self._parts or (id(tensor) not in self._made and calls.is_matrix(tensor))

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


def operations(model: nn.Module, images: Tensor, *, training: bool = False) -> list[str]:
    """The torch functions that a forward pass on `images` (N, C, H, W) calls, with their arguments, in order.

    Two models that are built alike give the same lines, whatever their weights are.

    >>> import torch
    >>> from gia.federated.recorder import operations
    >>> for line in operations(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()), torch.zeros(1, 1, 2, 2)):
    ...     print(line)
    .flatten(data (1, 1, 2, 2) torch.float32, 1, -1)
    .relu(data (1, 4) torch.float32, inplace=False)
    """
    with torch.no_grad(), in_mode(model, training), Recorder(images, model=model) as recorder:
        outputs_of(model, images)
    called: list[str] = recorder.operations
    return called


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
