"""What one measurement is: a protocol, and the experiment that compares protocols inside each block."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import nn

from gia.data import Pattern
from gia.federated import LocalTraining, Observation
from gia.harness.scores import CONTEXTUAL, METRICS

if TYPE_CHECKING:
    from gia.harness.blocks import Block
    from gia.harness.controls import Control

    ControlCheck = Callable[["Protocol", Block], Control]

State = Literal["untrained", "half-trained", "trained"]


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The training of a victim before it is attacked, on the protocol's own data (`gia.federated.fit`, with Adam).

    Args:
        state: which stage of this one training is attacked: before it, after `half` epochs, or after all `epochs`.
        epochs, half, batch_size, lr: of the training.
        members: whether the attacked images are trained on, as the paper's are; else all of a block's private and
            control images are left out.
        held_out: share of each label's images, never attacked or trained on, on which accuracy is measured.
        accuracy: what the trained victim must reach there, or the block is void (`beats_blind_guess`).
    """

    state: State = "trained"
    epochs: int
    half: int
    batch_size: int = 32
    lr: float = 1e-3
    members: bool = True
    held_out: float = 0.2
    accuracy: float

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise ValueError(f"state: expected one of {get_args(State)}, got {self.state!r}")
        if not 0 < self.half < self.epochs:
            raise ValueError(f"half: expected between 0 and epochs={self.epochs}, got {self.half}")


@dataclass(frozen=True, kw_only=True)
class Fished:
    """How a malicious server fishes for single images; each is then attacked and scored alone.

    Args:
        kind: "class" sends `gia.federated.server.fish_class` for the target's label, whoever else has it; "feature"
            asks the client again until one image of that label is left (`gia.attacks.fish`).
        targets: the first so many images of a block are fished for, each from a batch of its own: itself and the next
            ones, so that targets stay the same whatever the batch size.
        queries: how many questions "feature" may ask of a client.
    """

    kind: Literal["class", "feature"] = "class"
    targets: int = 4
    queries: int = 32

    def __post_init__(self) -> None:
        if self.kind not in ("class", "feature"):
            raise ValueError(f"kind: expected 'class' or 'feature', got {self.kind!r}")
        if self.targets < 1:
            raise ValueError(f"targets: expected at least 1, got {self.targets}")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that is set in one measurement. Levels are made with `dataclasses.replace`, in the parent process.

    Args:
        attack: a name in `gia.attacks.ATTACKS`.
        victim: `name` and further arguments of `gia.models.build`; `standardize` may hold its `mean` and `std`.
        data: a name that `gia.data.load` knows; `root` is where the user's own data sets lie.
        image_size: side of the images in pixels.
        channels: 3 repeats gray images in three equal channels; None takes them as they are.
        images: private images of a block, attacked in batches of `batch_size`.
        pattern: condition on the labels of each `pattern_batch` consecutive images (default: each batch), as in
            `gia.data.sample`. Where the batch size is the factor, name the largest: all levels see the same images.
        settings: settings of the attack.
        space: where the attack moves, "pixels" or "standardized"; the latter is passed on to the attack.
        fit: how the victim is trained before it is sent; None sends it untrained.
        reveal, training, local: what the client leaks, its batch-normalization mode, its local training (in an order of
            its own, new in every epoch).
        assumed: the local training that the attacker takes for the client's, right or wrong, where "local" is not
            revealed. Without either it takes the update for one gradient.
        defenses: what the client does to what it shares, in order: module-level callables
            (observation, *, generator) -> observation.
        edit: what a malicious server does to the victim: a module-level callable (model, public, *, generator) ->
            model, where `public` are the attacker's own images.
        fish: how a malicious server fishes for single images with an edit of its own for each.
        equip: what the attacker makes before anybody shares anything, such as a trained generator: a module-level
            callable (protocol, model, public, *, generator, cache) -> further settings of the attack. `model` is the
            victim as sent, `cache` a folder for trained nets, or None.
        public: name of the data that the attacker holds, at this size; None takes what is left of `data` without the
            attacked and the control images, or what is `attacker`'s.
        attacker: number of an attacker who serves many blocks: seven eighths of `data`, drawn by this number, are its
            own and the judge's, and it trains on them by this number. Private and control images come from the rest.
            None makes an attacker and a judge anew for each block.
        disjoint: what must not occur in both, where `public` is None: the "images", or their "labels", where these are
            people.
        judge: a module-level callable (images, *, generator, cache) -> classifier, made from what is left of `data` or
            is `attacker`'s, for the score "label_agreement".
        score: names in `METRICS` and `CONTEXTUAL`; the deciding metric among them.
        control: a module-level callable (protocol, block) -> Control, run on `control_images` other images.
        dtype, device: of victim and attack.
        vary: dotted key ("data", "victim.width", "settings.steps") -> values that Hypothesis draws from, per block.
    """

    attack: str
    victim: Mapping[str, Any]
    data: str
    image_size: int
    channels: int | None = None
    images: int = 8
    batch_size: int = 1
    pattern: Pattern = "any"
    pattern_batch: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: str = "pixels"
    reveal: tuple[str, ...] = ("labels",)
    training: bool = False
    local: LocalTraining | None = None
    assumed: LocalTraining | None = None
    fit: Fitting | None = None
    defenses: tuple[Callable[..., Observation], ...] = ()
    edit: Callable[..., nn.Module] | None = None
    fish: Fished | None = None
    equip: Callable[..., Mapping[str, Any]] | None = None
    public: str | None = None
    attacker: int | None = None
    disjoint: Literal["images", "labels"] = "images"
    judge: Callable[..., nn.Module] | None = None
    score: tuple[str, ...] = ("psnr", "ssim", "cw_ssim", "lpips", "rmse")
    control: ControlCheck | None = None
    control_images: int = 2
    dtype: str = "float32"
    device: str = "cpu"
    root: str | None = None
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fish is not None:
            if (least := max(self.batch_size, self.fish.targets)) > self.images:
                raise ValueError(f"images: expected at least {least} to fish in, got {self.images}")
        elif self.batch_size < 1 or self.images < 1 or self.images % self.batch_size:
            raise ValueError(f"images: expected a positive multiple of batch_size={self.batch_size}, got {self.images}")
        if self.assumed is not None and "local" in self.reveal:
            raise ValueError("assumed: expected None where 'local' is revealed, since nothing is left to assume")
        if self.space not in ("pixels", "standardized"):
            raise ValueError(f"space: expected 'pixels' or 'standardized', got {self.space!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {self.dtype!r}")
        if "name" not in self.victim:
            raise ValueError(f"victim: expected a 'name' that gia.models.build knows, got {dict(self.victim)}")
        if self.disjoint not in ("images", "labels"):
            raise ValueError(f"disjoint: expected 'images' or 'labels', got {self.disjoint!r}")
        if unknown := sorted(set(self.score) - set(METRICS) - CONTEXTUAL):
            raise ValueError(f"score: expected names among {sorted({*METRICS, *CONTEXTUAL})}, got {unknown[0]!r}")
        if self.attacker is not None and self.disjoint == "labels":
            raise ValueError("attacker: expected None where labels are disjoint, since its images have all labels")
        if "label_agreement" in self.score and self.judge is None:
            raise ValueError("judge: expected a classifier's maker, which 'label_agreement' asks, got None")

    def drawn(self, setting: Mapping[str, Any]) -> Protocol:
        """This protocol with the dotted keys of a block's setting put in. Raises ValueError for an unknown field.

        A key of a field that is None here is left out: without local training there are no epochs to set.
        """
        changes: dict[str, Any] = {}
        for key, value in setting.items():
            name, _, inner = key.partition(".")
            if name not in {f.name for f in fields(self)}:
                raise ValueError(f"vary: {key!r} names no field of a Protocol")
            if not inner:
                changes[name] = value
            elif isinstance(whole := changes.get(name, getattr(self, name)), Mapping):
                changes[name] = {**whole, inner: value}
            elif is_dataclass(whole) and not isinstance(whole, type):
                changes[name] = replace(whole, **{inner: value})
            elif whole is None and name in _OPTIONAL:
                continue
            else:
                raise ValueError(f"vary: {key!r} sets a key of {name!r}, which has none")
        return replace(self, **changes)

    def described(self) -> dict[str, Any]:
        """Every field that is not as it is by default, as plain JSON; a callable by its module and name.

        So a new field changes no old digest. Raises TypeError for a value that is no plain JSON.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: plain(value, name) for name, value in values.items() if not _is_default(self, name, value)}

    def digest(self) -> str:
        """Sixteen hex digits that change with any setting, and with nothing else (a callable's code is not in it)."""
        return digest_of(self.described())


def _is_default(protocol: Protocol, name: str, value: Any) -> bool:
    field = next(f for f in fields(protocol) if f.name == name)
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and type(value) is type(field.default) and bool(value == field.default)


#: Fields whose keys may be drawn although some levels have None there.
_OPTIONAL = ("local", "fit", "fish")


@dataclass(frozen=True)
class Experiment:
    """The levels that are compared inside each block, label -> protocol; the first one's control decides validity.

    Raises ValueError without levels, or where a level changes what `vary` draws (the draw would overwrite it), and
    TypeError for a setting that is no plain JSON.
    """

    id: str
    levels: Mapping[str | int | float, Protocol]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("levels: expected at least one, got none")
        for level in self.levels.values():
            level.described()  # raises for what cannot cross to a worker
        for key in self.first.vary:
            name, _, inner = key.partition(".")
            wholes = [plain(getattr(level, name), name) for level in self.levels.values()]
            parts = [whole.get(inner) if inner else whole for whole in wholes if not inner or whole is not None]
            seen = {json.dumps(part, sort_keys=True) for part in parts}
            if len(seen) > 1:
                raise ValueError(f"levels: they differ in {key!r}, which is also drawn per block")

    @property
    def first(self) -> Protocol:
        """The level whose control counts: A of a pair, the first level of a trend."""
        return next(iter(self.levels.values()))


def plain(value: Any, where: str) -> Any:
    """`value` as plain JSON: a callable becomes "module:name", a dataclass class and fields, else TypeError."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [plain(inner, where) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **plain(_fields(value), where)}
    if callable(value) and "<" not in (name := getattr(value, "__qualname__", "<")):
        return f"{value.__module__}:{name}"
    raise TypeError(f"{where}: expected numbers, strings, lists, mappings or a module-level function, got {value!r}")


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def digest_of(content: Any) -> str:
    """Sixteen hex digits of plain JSON content, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
