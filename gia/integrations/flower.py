"""Flower (flwr): a client mod that refuses malicious models, and the observation of a client's update.

    from flwr.clientapp import ClientApp
    from gia.integrations.flower import validation_mod

    app = ClientApp(mods=[validation_mod(Net())])

The server of a federation sees what `observation` returns, so its attacks can be tried on a reply.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.federated import Finding, LocalTraining, Observation, ValidationReport, validate_model
from gia.federated.losses import Loss, LossName
from gia.federated.observation import shared_names
from gia.federated.validation import Limits, complete_limits

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, Context, Message
    from flwr.clientapp.typing import ClientAppCallable, Mod

#: Weights as Flower sends them: named (`ArrayRecord` is such a mapping), or a list in the order of the state_dict or of
#: the parameters.
Arrays = Mapping[str, Any] | Sequence[Tensor | np.ndarray]

__all__ = ["observation", "validation_mod"]

#: Where a client keeps the last accepted weights. Flower stores a client's context between messages; the process of a
#: deployed client may be started again for each message.
_ACCEPTED = "gia.accepted"


def validation_mod(
    agreed: nn.Module,
    *,
    batch: Callable[[Context], tuple[Tensor, Tensor]] | None = None,
    record: str | None = None,
    training: bool = False,
    loss: Loss | LossName = cross_entropy,
    limits: Limits | None = None,
) -> Mod:
    """A mod for Flower's `ClientApp` that validates each received model before the client trains on it.

    A model with a finding of `gia.validate_model` is refused: the client's code does not run, and the reply is an error
    (code `MOD_FAILED_PRECONDITION`) with the report as its reason. Arrays that do not fit `agreed` are refused too.
    Messages of other types than "train" pass.

    The first model is compared with the structure of `agreed` only, since a server usually draws the first weights.
    Later ones are compared with the last accepted model, whose weights are kept in the client's context.

    Args:
        agreed: the model as the client's own code builds it. It is copied, not changed.
        batch: the client's context -> images (N, C, H, W) in [0, 1] and labels (N,), which never leave the client; None
            skips the checks that need a forward pass.
        record: the key of the model's array record in a message; None takes the only one.
        training: whether the client trains with batch statistics.
        loss, limits: as in `gia.validate_model`.

    Raises:
        ValueError: as `gia.validate_model`, for `limits`.

    >>> import torch
    >>> from gia.integrations.flower import validation_mod
    >>> mod = validation_mod(torch.nn.Linear(4, 2))  # ClientApp(mods=[mod])
    """
    agreed, accepted_limits = copy.deepcopy(agreed), complete_limits(limits)

    def judged(arrays: ArrayRecord, context: Context) -> ValidationReport:
        try:
            received = _with_weights(agreed, arrays)
        except ValueError as error:
            return ValidationReport((Finding("structure", str(error), len(arrays), len(agreed.state_dict())),))
        first = _ACCEPTED not in context.state
        return validate_model(
            received,
            agreed if first else _with_weights(agreed, context.state[_ACCEPTED]),
            batch=None if batch is None else batch(context),
            training=training,
            loss=loss,
            limits={**accepted_limits, "drift": math.inf} if first else accepted_limits,
        )

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        records = message.content.array_records
        keys = list(records) if record is None else [key for key in records if key == record]
        if len(keys) != 1:
            what = "one array record" if record is None else f"the array record {record!r}"
            return _refusal(message, f"message: expected {what}, got {list(records)}")
        report = judged(records[keys[0]], context)
        if not report.ok:
            findings = " ".join(map(str, report.findings))  # without notes, which say something about the batch
            return _refusal(message, f"model: expected one that the client's validation accepts, got: {findings}")
        context.state[_ACCEPTED] = records[keys[0]]
        return call_next(message, context)

    return mod


def observation(
    model: nn.Module,
    update: Arrays,
    *,
    image_shape: tuple[int, int, int],
    batch_size: int,
    training: bool = False,
    labels: Tensor | None = None,
    local: LocalTraining | None = None,
    trainable: Sequence[str] | None = None,
) -> Observation:
    """What a Flower server sees of one client: the weights that it sent minus those that came back.

    Args:
        model: the model with the weights that the client received.
        update: the weights of the client's reply: an `ArrayRecord`, a `state_dict`, or a list of arrays in the order of
            the `state_dict`, of all parameters, or of the shared ones. Buffers are left out.
        image_shape, batch_size, training, labels, local, trainable: the attributes of these names of `gia.Observation`.

    Returns:
        The observation. It has the form of `gia.share_update`, up to the rounding of the weights.

    Raises:
        ValueError: a wrong number of arrays, or an array of another name or shape; what `Observation.from_tensors`
            refuses.

    >>> import torch
    >>> from gia.integrations.flower import observation
    >>> model = torch.nn.Linear(2, 1)
    >>> after = [weight.detach().numpy() - 0.5 for weight in model.parameters()]
    >>> observation(model, after, image_shape=(1, 1, 2), batch_size=1).gradients["weight"]
    tensor([[0.5000, 0.5000]])
    """
    after, before = _named(model, update, trainable), model.state_dict()
    return Observation.from_tensors(
        model,
        {name: before[name] - value.to(before[name]) for name, value in after.items()},
        image_shape=image_shape,
        batch_size=batch_size,
        training=training,
        labels=labels,
        local=local,
        trainable=trainable,
    )


def _refusal(message: Message, reason: str) -> Message:
    from flwr.app import Error, Message
    from flwr.common.constant import ErrorCode

    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=message)


def _with_weights(model: nn.Module, arrays: Arrays) -> nn.Module:
    """A copy of `model` with these weights."""
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(_named(loaded, arrays), strict=False)  # `_named` takes no other names
    return loaded


def _named(model: nn.Module, arrays: Arrays, trainable: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Name in the state_dict -> array.

    A record must hold its names in the model's order: clients that load it as a list would otherwise train on another
    model than the one that was validated.
    """
    state = model.state_dict()
    orders = [list(state), [name for name, _ in model.named_parameters()], list(trainable or shared_names(model))]
    names = next((order for order in orders if len(order) == len(arrays)), None)
    if names is None:
        counts = " or ".join(str(count) for count in dict.fromkeys(map(len, orders)))
        raise ValueError(f"arrays: expected {counts}, as the model has, got {len(arrays)}")
    values: Sequence[Tensor | np.ndarray]
    if isinstance(arrays, Mapping):
        listed = [str(i) for i in range(len(names))]  # as Flower names the arrays of a list
        if (given := list(arrays)) not in (names, listed):
            wrong = next(i for i, (name, got) in enumerate(zip(names, given, strict=True)) if name != got)
            raise ValueError(f"arrays: expected {names[wrong]!r} in place {wrong}, got {given[wrong]!r}")
        values = [value if isinstance(value, Tensor | np.ndarray) else value.numpy() for value in arrays.values()]
    else:
        values = arrays
    tensors = dict(zip(names, map(_tensor, values), strict=True))
    for name, value in tensors.items():
        if value.shape != state[name].shape:
            expected, got = tuple(state[name].shape), tuple(value.shape)
            raise ValueError(f"arrays[{name!r}]: expected the shape {expected}, got {got}")
    return tensors


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.from_numpy(np.array(value))
    except TypeError as error:
        raise ValueError(f"arrays: expected numbers, got dtype {value.dtype}") from error
