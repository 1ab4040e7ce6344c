"""The weights of a model as layers with rows: as they are stored, and as a forward pass applies them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gia.federated.calls import SHORTEST_IMAGE
from gia.federated.recorder import Use


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight with rows, and what its layer adds to it.

    Attributes:
        name: of the module that owns the weight, or the number of the operation that applies it.
        weight, bias: as they are applied, or as they are stored if nothing is known of how they are applied.
        linear: whether the weight is known to be that of a linear layer or convolution.
        use: the application, in a forward pass on the batch.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    linear: bool
    use: Use | None = None

    @property
    def rows(self) -> Tensor:
        return self.weight.flatten(1)

    @property
    def scaled_rows(self) -> Tensor:
        """Rows as what follows, such as a batch normalization, scales them."""
        return self.rows if self.use is None or self.use.scale is None else self.rows * self.use.scale[:, None]

    @property
    def selects(self) -> bool:
        """Whether rows can select an image: not if each sees a few pixels of a single channel, or is one factor."""
        short = self.weight[0].numel() < SHORTEST_IMAGE
        return not (self.rows.shape[1] == 1 or (self.weight.dim() > 2 and self.weight.shape[1] == 1 and short))

    @property
    def spread(self) -> float:
        """The deviation of the layer's input, 1 where it is unknown."""
        return 1.0 if self.use is None else float(self.use.inputs.std(correction=0))


def stored_layers(model: nn.Module) -> Iterator[Layer]:
    """All parameters with rows; in place of the parts of a parametrization, the weight that they make."""
    parts = {
        id(part)
        for module in model.modules()
        if isinstance(made := getattr(module, "parametrizations", None), nn.ModuleDict)
        and parametrize.is_parametrized(module)
        for part in made.modules()
    }
    for name, module in model.named_modules():
        if id(module) in parts:
            continue
        made, hidden = _made(module)
        own = made + [p.detach() for key, p in module.named_parameters(recurse=False) if key not in hidden]
        linear = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        for weight in own:
            if weight.dim() >= 2 and weight.numel():
                biases = [p for p in own if p.dim() == 1 and len(p) == len(weight)]
                yield Layer(name or "the model", weight, biases[0] if biases else None, linear)


def _made(module: nn.Module) -> tuple[list[Tensor], set[str]]:
    """Tensors that a module computes from its parameters, and the names of these parameters."""
    made: list[Tensor] = []
    hidden: set[str] = set()
    if parametrize.is_parametrized(module):
        made += [getattr(module, str(key)).detach() for key in module.parametrizations]  # type: ignore[union-attr]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            made.append(hook.compute_weight(module).detach())
            hidden |= {f"{hook.name}_g", f"{hook.name}_v"}
        elif isinstance(hook, SpectralNorm):
            made.append(hook.compute_weight(module, do_power_iteration=False).detach())
            hidden.add(f"{hook.name}_orig")
    return made, hidden


def applied_layers(stored: list[Layer], uses: list[Use]) -> list[Layer]:
    """Every weight as the forward pass applies it, and as they are stored those that it does not apply."""
    names = {(layer.weight.data_ptr(), layer.weight.numel()): layer.name for layer in stored}
    layers: list[Layer] = []
    first: dict[tuple[Any, ...], int] = {}
    for i, use in enumerate(uses):
        place = use.weight.data_ptr(), use.weight.numel()
        how = (*place, use.weight.shape, use.weight.stride(), None if use.bias is None else use.bias.data_ptr())
        known = first.setdefault(how, i)
        if known == i or use.scale is not None:  # of several uses in one way the first one counts
            layers.append(Layer(names.get(place, f"operation {i}"), use.weight, use.bias, True, use))
    used = {(use.weight.data_ptr(), use.weight.numel()) for use in uses}
    return layers + [layer for layer in stored if (layer.weight.data_ptr(), layer.weight.numel()) not in used]
