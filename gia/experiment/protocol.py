"""A protocol: everything that is set in one measurement, in parts, and the one way to change a field of a part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from gia import attacks
from gia.data import Pattern
from gia.data.assets import ASSETS
from gia.data.contents import content_digest
from gia.data.full import in_place_of_samples
from gia.errors import expected_one_of
from gia.experiment import keys
from gia.experiment.description import callables_in, described, plain
from gia.experiment.scoring import WEIGHTS, ControlCheck, Scoring
from gia.federated import LocalTraining
from gia.federated.client import Defense
from gia.numerics import digest_of

State = Literal["untrained", "half-trained", "trained"]
Placebo = Literal["blind", "labels", "nearest", "noise", "unmoved", "truth"]


@dataclass(frozen=True, kw_only=True)
class Fishing:
    """How a malicious server fishes for single images; each is then attacked and scored alone.

    Args:
        kind: "class" sends `gia.federated.server.fish_class` for the target's label, whoever else has it; "feature"
            asks the client again until one image of that label is left (`gia.attacks.fish`).
        targets: the server fishes for this many images of a block, the first ones. Each target is caught from its own
            batch, which holds it and the next images, so the targets stay the same at every batch size.
        queries: how many questions "feature" may ask of a client.
    """

    kind: Literal["class", "feature"] = "class"
    targets: int = 4
    queries: int = 32

    def __post_init__(self) -> None:
        if self.kind not in ("class", "feature"):
            raise ValueError(expected_one_of("kind", self.kind, ("class", "feature")))
        if self.targets < 1:
            raise ValueError(f"targets: expected at least 1, got {self.targets}")


@dataclass(frozen=True, kw_only=True)
class Victim:
    """The network as the server sends it.

    Args:
        name: a network that `gia.models.build` knows.
        options: further arguments of `gia.models.build`, such as width, activation and depth.
        standardize: `mean` and `std` of the first layer, as in `gia.models.standardize`; None leaves them out.
        edit: what a malicious server does to the network: a module-level callable (model, public, *, generator) ->
            model, where `public` are the attacker's own images.
        fish: how a malicious server fishes for single images, with another edit for each.
        dtype: "float32" or "float64", of victim and attack.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    standardize: Mapping[str, Any] | None = None
    edit: Callable[..., nn.Module] | None = None
    fish: Fishing | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise ValueError(expected_one_of("dtype", self.dtype, ("float32", "float64")))


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The training of a victim before it is attacked, on the protocol's own data (`gia.federated.fit`, with Adam).

    Args:
        state: which stage of this one training is attacked: before it, after `half` epochs, or after all `epochs`.
        epochs, half, batch_size, lr: of the training.
        members: whether the attacked images are trained on, as the paper's are; otherwise the training leaves out all
            private and control images of the block.
        held_out: share of each label's images on which accuracy is measured; they are neither attacked nor trained on.
        accuracy: what the trained victim must reach there, or the block is void (`gia.experiment.controls`).
        as_attacked: whether a malicious server edits the victim before this training and not after it, so that what is
            attacked is what was trained.
    """

    state: State = "trained"
    epochs: int
    half: int
    batch_size: int = 32
    lr: float = 1e-3
    members: bool = True
    held_out: float = 0.2
    accuracy: float
    as_attacked: bool = False

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise ValueError(expected_one_of("state", self.state, get_args(State)))
        if not 0 < self.half < self.epochs:
            raise ValueError(f"half: expected between 0 and epochs={self.epochs}, got {self.half}")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The private images of a block, and in which batches they are attacked.

    Args:
        data: a name that `gia.data.load` knows.
        image_size: height and width of the images in pixels.
        channels: 3 repeats gray images in three equal channels; None takes them as they are.
        images: private images of a block.
        size: images behind one gradient.
        pattern: condition on the labels of each `pattern_batch` consecutive images (default: each batch), as in
            `gia.data.sample`. Where the batch size is the factor, name the largest: all levels see the same images.
    """

    data: str
    image_size: int
    channels: int | None = None
    images: int = 8
    size: int = 1
    pattern: Pattern = "any"
    pattern_batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Client:
    """What a client does before it shares, and what it leaks beside the gradient.

    Args:
        reveal: what the client leaks: "labels", "local", "batch_norm".
        training: the mode of batch normalization, True for train mode.
        local: the local training. Its batches come in an order of the client's choice, new in every epoch.
        defenses: what the client does to what it shares, as `gia.federated.Client` takes them: module-level functions,
            or frozen dataclasses such as `gia.defenses.clip`. Each client draws from a separate generator.
    """

    reveal: tuple[str, ...] = ("labels",)
    training: bool = False
    local: LocalTraining | None = None
    defenses: tuple[Defense, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Who attacks, and with what.

    Args:
        attack: whatever `gia.attacks.find` takes: a name, a function, or "package.module:name".
        settings: settings of the attack.
        assumed: the local training that the attacker takes for the client's, right or wrong, where "local" is not
            revealed. Without either it takes the update for one gradient.
        equip: what the attacker makes before anybody shares anything, such as a trained generator: a module-level
            callable (protocol, model, public, *, generator, cache) -> further settings of the attack. `model` is the
            victim as sent, `cache` a folder for trained nets, or None.
        public: name of the data that the attacker holds, at this size. None takes the images of the protocol's data
            that are neither attacked nor the control's, or those that belong to `seed`.
        seed: seed of an attacker that is shared by many blocks. It draws 7/8 of the data for the attacker and the judge
            and seeds their training; private and control images come from the other 1/8. None makes another attacker
            and judge for each block.
        disjoint: what public and attacked images must not share, where `public` is None: "images", or "labels", where
            these are people.
        placebo: what is returned in place of the attack's images, to test the harness: "blind" (each image's best
            constant colour), "labels" (the mean of each label's class in the public images, where labels are given;
            else the mean image), "nearest" (the public image nearest to that), "noise", "unmoved" (the attack without a
            step, and the mean image where it has no steps) or "truth" (the private images).
    """

    attack: str | Callable[..., attacks.Reconstruction]
    settings: Mapping[str, Any] = field(default_factory=dict)
    assumed: LocalTraining | None = None
    equip: Callable[..., Mapping[str, Any]] | None = None
    public: str | None = None
    seed: int | None = None
    disjoint: Literal["images", "labels"] = "images"
    placebo: Placebo | None = None

    def __post_init__(self) -> None:
        if self.placebo is not None and self.placebo not in get_args(Placebo):
            raise ValueError(expected_one_of("placebo", self.placebo, get_args(Placebo)))
        if self.disjoint not in ("images", "labels"):
            raise ValueError(expected_one_of("disjoint", self.disjoint, ("images", "labels")))
        if self.seed is not None and self.disjoint == "labels":
            raise ValueError("seed: expected None where labels are disjoint, since a shared attacker holds all labels")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that is set in one measurement. Levels are made by `with_`, in the parent process.

    Args:
        victim, batch, attacker, client, scoring: the parts.
        fit: how the victim is trained before it is sent; None sends it untrained.
        vary: dotted key, as in `with_` -> values from which a block's setting is drawn.
        device: where victim and attack run.
        root: the folder of the user's own data sets.

    Raises ValueError where two parts contradict each other.

    >>> protocol = Protocol(
    ...     victim=Victim(name="convnet"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
    ... )
    >>> protocol.with_({"batch.size": 4, "victim.width": 24})
    Protocol(victim=convnet(width=24), batch=8 of digits at 8 px in batches of 4, attacker=dlg)
    """

    victim: Victim
    batch: Batch
    attacker: Attacker
    client: Client = field(default_factory=Client)
    scoring: Scoring = field(default_factory=Scoring)
    fit: Fitting | None = None
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    device: str = "cpu"
    root: str | None = None

    def __post_init__(self) -> None:
        batch, fish = self.batch, self.victim.fish
        if fish is not None:
            if (least := max(batch.size, fish.targets)) > batch.images:
                raise ValueError(f"images: expected at least {least} to fish in, got {batch.images}")
        elif batch.size < 1 or batch.images < 1 or batch.images % batch.size:
            raise ValueError(f"images: expected a positive multiple of size={batch.size}, got {batch.images}")
        if self.attacker.assumed is not None and "local" in self.client.reveal:
            raise ValueError("assumed: expected None where 'local' is revealed, got a local training")

    def __repr__(self) -> str:
        victim, batch, attack = self.victim, self.batch, plain(self.attacker.attack, "attack")
        options = ", ".join(f"{name}={value!r}" for name, value in victim.options.items())
        images = f"{batch.images} of {batch.data} at {batch.image_size} px in batches of {batch.size}"
        return f"Protocol(victim={victim.name}({options}), batch={images}, attacker={attack})"

    @property
    def dtype(self) -> str:
        """Of victim and attack."""
        return self.victim.dtype

    @property
    def control(self) -> ControlCheck | None:
        """Of the scoring."""
        return self.scoring.control

    def with_(self, changes: Mapping[str, Any]) -> Protocol:
        """This protocol with other values at dotted keys, such as "fit", "batch.size" or "attacker.settings.steps".

        A key of `victim` that names no field of `Victim`, such as "victim.width", is an option of
        `gia.models.build`. The changes of one call are made together, so fields that depend on each other can move.

        Raises ValueError for a key that names no field, or that names a field of a part that is None.

        >>> protocol = Protocol(
        ...     victim=Victim(name="mlp"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
        ... )
        >>> protocol.with_({"bach.size": 2})
        Traceback (most recent call last):
        ValueError: changes: expected one of ['victim', ..., 'root'], got 'bach'; did you mean 'batch'?
        """
        changed: Protocol = keys.changed(self, {_path(key): value for key, value in changes.items()}, "")
        return changed

    def with_budget(self, factor: float) -> Protocol | None:
        """This protocol with `factor` times the steps of its attack, all of which it takes; None where it takes none.

        Raises ValueError where neither the settings nor the attack's defaults or card hold a number of steps.

        >>> protocol = Protocol(
        ...     victim=Victim(name="mlp"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
        ... )
        >>> protocol.with_budget(4).attacker.settings
        {'steps': 1200}
        """
        attack, settings = attacks.find(self.attacker.attack), self.attacker.settings
        card = attacks.card_of(attack)
        if card is None or not card.iterative:
            return None
        steps = settings.get("steps", inspect.signature(attack).parameters["steps"].default)
        if steps is None and card.steps is not None:
            steps = card.steps(self.batch.size)
        if not isinstance(steps, int):
            raise ValueError(f"steps: expected a number in attacker.settings, got {steps!r}")
        budget: dict[str, Any] = {"steps": round(factor * steps)}
        if "converged" in settings:  # without it no attack ends before its last step
            budget["converged"] = None
        return self.with_({"attacker.settings": {**settings, **budget}})

    def at(self, key: str) -> Any:
        """The value at a dotted key; None where the key leads through a field that is None, or an option is not set."""
        value: Any = self
        for name in _path(key):
            if value is None:
                return None
            value = keys.held(value, name, key)
        return value

    def drawn(self, setting: Mapping[str, Any]) -> Protocol:
        """This protocol with a block's setting put in, as by `with_`.

        A key that leads through an optional field that is None is left out: without local training there are no epochs
        to set.
        """

        def leads_through_none(key: str) -> bool:
            value: Any = self
            for name in _path(key)[:-1]:
                if isinstance(value, Mapping) and name not in value:
                    return False  # `with_` refuses it
                if (value := keys.held(value, name, key)) is None:
                    return True
            return False

        return self.with_({key: value for key, value in setting.items() if not leads_through_none(key)})

    def placed(self, *, device: str, root: str | None) -> Protocol:
        """This protocol on a device, with the user's own data sets in `root`.

        Full sets that are there take the place of the bundled samples of CIFAR-10, CIFAR-100 and ImageNet.

        >>> batch = Batch(data="cifar10-samples", image_size=8)
        >>> protocol = Protocol(victim=Victim(name="mlp"), batch=batch, attacker=Attacker(attack="dlg"))
        >>> protocol.placed(device="cpu", root="a folder without CIFAR-10").batch.data
        'cifar10-samples'
        """
        placed = replace(self, device=device, root=root)
        if root is None:
            return placed
        full = in_place_of_samples(Path(root).expanduser())
        changes = {
            "batch.data": full.get(self.batch.data, self.batch.data),
            "attacker.public": full.get(self.attacker.public or "", self.attacker.public),
        }
        vary = dict(self.vary)
        for key in vary.keys() & changes.keys():
            vary[key] = tuple(full.get(name, name) for name in vary[key])
        return placed.with_({**changes, "vary": vary})

    def callables(self) -> Iterator[Callable[..., object]]:
        """Every callable that takes part in a measurement: the attack, and whatever fields and settings hold."""
        yield attacks.find(self.attacker.attack)
        yield from callables_in(self)

    def inputs(self, *, again: bool = False) -> dict[str, str]:
        """Digest of the content of each data set that takes part in some setting, and of the weights behind metrics.

        Weights that an attack, a judge or a victim loads by its own code are not among them: their digests stand in
        gia's list of assets, which is part of that code. Everything is read once in a process, and once more with
        `again`. Raises as `gia.data.load` for data that are not there.

        >>> protocol = Protocol(
        ...     victim=Victim(name="mlp"),
        ...     batch=Batch(data="digits", image_size=8),
        ...     attacker=Attacker(attack="dlg"),
        ...     vary={"batch.data": ("digits", "faces")},
        ... )
        >>> sorted(protocol.inputs())
        ['digits', 'faces', 'lpips-alex']
        """
        data = {
            *self.vary.get("batch.data", (self.batch.data,)),
            *self.vary.get("attacker.public", (self.attacker.public,)),
        }
        weights = {WEIGHTS[metric] for metric in self.scoring.metrics if metric in WEIGHTS}
        return {
            **{name: content_digest(name, root=self.root, again=again) for name in sorted(data - {None})},
            **{name: ASSETS[name].digest for name in sorted(weights)},  # a loader reads no other file
        }

    def described(self) -> dict[str, Any]:
        """Every field that is not as it is by default, as plain JSON; a callable by its module and name.

        So a new field changes no old digest. Raises TypeError for a value that is no plain JSON.
        """
        return described(self, "protocol", _PARTS)

    def digest(self) -> str:
        """Sixteen hex digits that change with any setting, and with nothing else (a callable's code is not in it)."""
        return digest_of(self.described())


#: Described by their fields alone. Other dataclasses are described with their module too, so that `Fishing` and
#: `Fitting` must stay in this one: elsewhere they would change digests that are on record.
_PARTS = (Victim, Batch, Attacker, Client, Scoring)


def _path(key: str) -> tuple[str, ...]:
    """The names along a dotted key; a key of the victim that is no field of it is an option of `gia.models.build`."""
    path = tuple(key.split("."))
    is_option = path[0] == "victim" and len(path) > 1 and path[1] not in Victim.__dataclass_fields__
    return ("victim", "options", *path[1:]) if is_option else path
