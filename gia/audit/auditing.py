"""What is audited and how it is checked; the parts themselves are run elsewhere."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gia import defenses
from gia.audit.kinds import chosen_kinds
from gia.audit.parts import Parts
from gia.audit.pictures import images_for
from gia.audit.report import AuditReport
from gia.audit.run import BATCHES, Budget, Run, Watch
from gia.audit.servers import validated
from gia.audit.setup import Setup, one_line, shape_for, unwrapped
from gia.data import Images
from gia.errors import expected_one_of
from gia.federated import LocalTraining, Observation, share_gradient
from gia.federated.losses import Loss, LossName, loss_of
from gia.numerics import generator_of

__all__ = ["audit"]

#: Pixels of all attacked images up to which a second thread gains less than a tenth (ResNet-18 at 32 pixels: .22 s a
#: step on either number for 8 images, .43 in place of .52 for 32). It would also be counted as CPU time.
FEW_PIXELS = 2**14


def audit(
    model: nn.Module,
    *,
    data: str | Path | Images | tuple[Tensor, Tensor] | None = None,
    image_size: int | Sequence[int] = 32,
    channels: int | None = None,
    classes: int | None = None,
    batch_size: int = 8,
    epochs: int = 1,
    lr: float | None = None,
    momentum: float = 0.0,
    local_batch_size: int | None = None,
    defenses: Sequence[Any] = (),
    against: str | Sequence[str] = "all",
    budget: Budget = "quick",
    steps: int | None = None,
    batches: int | None = None,
    what_if: bool = True,
    validate: bool = True,
    training: bool = True,
    loss: Loss | LossName = "cross_entropy",
    device: str | torch.device | None = None,
    gradient: str | Path | Observation | None = None,
    originals: str | Path | Images | tuple[Tensor, Tensor] | None = None,
    labels: Tensor | Sequence[int] | None = None,
    root: str | Path | None = None,
    seed: int = 0,
    parts: str | Path | None = None,
    progress: Watch | None = None,
) -> AuditReport:
    """Attack a set-up of federated learning as its server could, and say how much comes back.

    The attacker knows the model, the labels and the local training, but not the order of the images, and draws nothing
    from the private images. What it gets is scored above placebos: what it could return without the gradient.

    Args:
        model: any module of images whose output is (N, classes), a tuple that begins with it, or an object with
            `logits`; also in `DataParallel` or `torch.compile`. It is not changed. Only parameters with
            `requires_grad` are shared.
        data: images of the clients and of the attacker: a name of `gia.data.NAMES`, a folder (its sub-folders are the
            classes), `gia.data.Images`, or images (N, C, H, W) in [0, 1] with labels (N,). None takes samples.
        image_size: pixels, or (height, width).
        channels: 1 or 3; None tries what the model takes.
        classes: of the model; None takes the number of its outputs.
        batch_size: private images of a client.
        epochs, lr, momentum, local_batch_size: local SGD of a client, whose update is shared. Without `lr` the
            gradient of the whole batch is.
        defenses: what the client does to what it shares: texts as in `gia.defenses.parse`, or what
            `gia.federated.Client(defenses=...)` takes.
        against: "all", names of `gia.audit.KINDS` with commas, or a sequence of these.
        budget: "quick" takes about two minutes for a ResNet-18 at 32 pixels on two cores; "full" searches until it
            converges, which takes hours. What a quick audit runs follows from the CPU time of a step, not from the
            load of the machine, and "op" is among it at any cost.
        steps: of each search, in place of those that the budget gives; a fixed number makes runs comparable.
        batches: clients that are attacked; None takes those of the budget.
        what_if: whether the types that leak are run again on changed set-ups.
        validate: whether `gia.validate_model` is asked about malicious servers.
        training: whether batch normalization uses the statistics of the batch, as in training.
        loss: "cross_entropy", "bce", "mse" or a function (outputs, labels) -> scalar, a mean over images.
        device: where the model and the attacks run; None leaves the model where it is.
        gradient: what one client shared, captured elsewhere: an `Observation` or a file that `observation_from` reads.
            No client is simulated then, there is no what-if, and leaks are known with `originals` only.
        originals: the images behind `gradient`, exactly `batch_size` of them, in the forms of `data`.
        labels: of the images behind `gradient`; None restores them from it.
        root: folder of the full data sets of `gia.data`.
        seed: of the choice of images and of everything that the attacks draw.
        parts: a folder for finished parts, which a later call with the same content does not run again.
        progress: called before each step with (what runs, step, steps).

    Returns:
        The report. What an attack type cannot take is in its `not_tried`.

    Raises:
        ValueError: an argument out of range, a model that does not take the images, or that cannot be trained on them.

    >>> import gia, torch
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=10, image_size=8, channels=1, generator=seed)
    >>> report = gia.audit.audit(model, data="digits", image_size=8, batch_size=1, against="ana_linear")
    >>> report.exact["ana_linear"]
    1.0
    """
    began, used = time.perf_counter(), time.process_time()
    loss_of(loss)
    chosen = chosen_kinds(against)
    if budget not in BATCHES:
        raise ValueError(expected_one_of("budget", budget, list(BATCHES)))
    for name, value in (("batch_size", batch_size), ("batches", batches), ("steps", steps), ("epochs", epochs)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if lr is None and epochs > 1:
        raise ValueError(f"lr: expected the step size of {epochs} epochs of local training, got None")
    model = unwrapped(model)
    if device is not None:
        model = copy.deepcopy(model).to(device)  # a module moves in place, and the user's stays where it is
    shape, outputs = shape_for(model, image_size, channels, loss=loss, training=training, count=max(2, batch_size))
    if classes is not None and classes > outputs:
        raise ValueError(f"classes: expected at most the {outputs} outputs of the model, got {classes}")
    local = None
    if lr is not None:
        local = LocalTraining(epochs=epochs, batch_size=local_batch_size or batch_size, lr=lr, momentum=momentum)
    images = images_for(
        data, shape=shape, classes=classes or outputs, generator=generator_of("audit", seed, "images"), root=root
    )
    if gradient is not None and originals is not None:
        images = _behind(originals, images, shape, classes or outputs, batch_size)
    wanted, least, most = BATCHES[budget]
    count = 1 if gradient is not None else batches or min(max(least, wanted // batch_size), most)
    if batches is None:
        count = max(1, min(count, len(images) // (2 * batch_size)))
    if (needed := count * batch_size) > len(images):
        raise ValueError(f"data: expected at least the {needed} images that are attacked, got {len(images)}")
    setup = Setup(
        model=model,
        images=images,
        reserved=needed if gradient is not None else min(2 * needed, len(images)),
        batch_size=batch_size,
        batches=count,
        local=local,
        defenses=tuple(_defense(each) for each in defenses),
        training=training,
        loss=loss,
        seed=seed,
    )
    with _threads(setup):
        run = Run(setup, chosen, budget, steps, Parts(parts), progress, clients=batches)
        if gradient is not None:
            report = run.captured(gradient, labels, scored=originals is not None, labelled=_has_labels(originals))
        else:
            _check_trainable(setup)
            report = run.simulated(what_if=what_if)
        if validate:
            run.watch("validation", 0, 0)
            report = replace(report, validation=tuple(validated(setup)))
    return replace(report, seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - used)


@contextmanager
def _threads(setup: Setup) -> Iterator[None]:
    """One thread where a step is too small for several: they would wait for each other longer than they compute."""
    before = torch.get_num_threads()
    if setup.batches * setup.batch_size * math.prod(setup.shape[1:]) <= FEW_PIXELS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _defense(each: Any) -> Any:
    return defenses.parse(each) if isinstance(each, str) else each


def _behind(
    originals: str | Path | Images | tuple[Tensor, Tensor],
    images: Images,
    shape: tuple[int, int, int],
    classes: int,
    batch_size: int,
) -> Images:
    """The originals in front of the attacker's images."""
    found = images_for(originals, shape=shape, classes=classes, generator=generator_of("originals"))
    if len(found) != batch_size:
        raise ValueError(
            f"originals: expected the batch_size={batch_size} images behind the gradient, got {len(found)}"
        )
    return replace(
        found,
        images=torch.cat([found.images, images.images]),
        labels=torch.cat([found.labels, images.labels]),
    )


def _has_labels(originals: object) -> bool:
    """Whether originals come with labels; a folder does where it has sub-folders, which are the classes."""
    if isinstance(originals, str | Path) and Path(originals).is_dir():
        return any(each.is_dir() for each in Path(originals).iterdir())
    return originals is not None


def _check_trainable(setup: Setup) -> None:
    """Raise ValueError with the model's own error where a client cannot train it."""
    first = setup.private[: setup.batch_size]
    like = next(setup.model.parameters())
    try:
        share_gradient(
            setup.model,
            setup.images.images[first].to(like.dtype),
            setup.images.labels[first],
            loss=setup.loss,
            training=setup.training,
        )
    except Exception as error:  # the user's own code
        hint = "; a batch of one needs --eval-mode where it has batch normalization" if setup.batch_size == 1 else ""
        raise ValueError(f"model: expected one that a client can train, got: {one_line(error)}{hint}") from error
