"""A laboratory that knows no gradients: levels with planted numbers, for tests of the harness.

The tests of blocks and tables import it. An inner project gets a copy of this file as its module `planted`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gia.numerics import digest_of


@dataclass(frozen=True)
class Control:
    """What a planted control says."""

    passed: bool
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a planted measurement finds."""

    values: Mapping[str, float | None]
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level as the harness sees one: `size` is the factor, `slope` the effect of a doubling.

    Args:
        void: blocks before this one fail the control `fails_at_first`.
        parts: callables that take part, by what they are for.
        data: digest of the data that a real level would read; none are read here.
    """

    size: int = 1
    slope: float = 2.0
    void: int = 0
    attack: str = "own"
    parts: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    control: Callable[..., Control] | None = None
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "float32"
    root: str | None = None
    data: str = ""

    def at(self, key: str) -> Any:
        """A field; None for another key."""
        return getattr(self, key, None)

    def placed(self, *, device: str, root: str | None) -> Level:
        """This level elsewhere."""
        return replace(self, device=device, root=root)

    def described(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""

        def name(value: object) -> str:
            qualname = getattr(value, "__qualname__", type(value).__qualname__)
            if "<" in qualname:
                raise TypeError(f"parts: expected module-level functions, got {value!r}")
            return f"{qualname} {getattr(value, '__dict__', '')}"

        fields = {**asdict(replace(self, parts={})), "parts": dict(self.parts)}
        del fields["data"]  # a content, and no setting
        plain: dict[str, Any] = json.loads(json.dumps(fields, default=name))
        return plain

    def digest(self) -> str:
        """Of `described()`."""
        return digest_of(self.described())

    def callables(self) -> Iterator[Callable[..., object]]:
        """The parts and the control."""
        yield from self.parts.values()
        if self.control is not None:
            yield self.control

    def inputs(self, *, again: bool = False) -> dict[str, str]:
        """The data, where there are any."""
        return {"planted": self.data} if self.data else {}

    def with_budget(self, factor: int) -> Level | None:
        """A planted attack has no budget."""
        return None


class Quantity(NamedTuple):
    """What is known of a metric."""

    unit: str
    higher_is_better: bool = True
    tolerance: float = 1e-5
    platform_spread: float = 0.0


METRICS = {
    "psnr": Quantity("dB"),
    "leak": Quantity("dB"),
    "ssim": Quantity("1"),
    "lpips": Quantity("1", higher_is_better=False),
}


def batch(level: Level, size: int) -> Level:
    """The level of a size."""
    return replace(level, size=size)


def measure(level: Level, block: Any, *, cache: Path | None = None) -> Result:
    """20 dB less the slope per doubling, with noise of a tenth of a dB; what is computed is written down."""
    with open("computed.txt", "a", encoding="utf-8") as log:
        log.write(f"{block.claim} {block.index} {level.size}\n")
    noise = float(torch.rand((), generator=block.generator("noise", level.size)))
    return Result({"psnr": 20 + 0.1 * noise - level.slope * math.log2(level.size)})


def always_undecided(level: Level, block: Any, *, cache: Path | None = None) -> Result:
    """No effect that any look could see: half of the blocks go one way, half the other."""
    with open("computed.txt", "a", encoding="utf-8") as log:
        log.write(f"{block.claim} {block.index} {level.size}\n")
    return Result({"psnr": 20 + (3 if block.index % 2 else -3) * math.log2(level.size)})


def one_undecided(level: Level, block: Any, *, cache: Path | None = None) -> Result:
    """An effect that only the second look can see."""
    return measure(level if block.index != 5 else replace(level, slope=-1.0), block)


def crashing(level: Level, block: Any, *, cache: Path | None = None) -> Result:
    """A bug that only one block meets."""
    if block.index == 3:
        raise ZeroDivisionError("planted in block 3")
    return measure(level, block)


def fails_at_first(level: Level, block: Any, *, cache: Path | None = None) -> Control:
    """A control that the first `level.void` blocks fail."""
    return Control(block.index >= level.void, "planted")


def substitution(attack: str, settings: Mapping[str, Any]) -> Callable[[Level], Level | str]:
    """The only attack from outside is "flat", whose slope is a setting; it cannot take float64."""
    if attack != "flat":
        raise ValueError(f"attack: expected one of ['flat'], got {attack!r}; did you mean 'flat'?")

    def substitute(level: Level) -> Level | str:
        if level.dtype == "float64":
            return "the attack is for float32"
        return replace(level, attack="flat", slope=settings.get("slope", 0.0))

    return substitute


def defended(specs: Sequence[str]) -> Callable[[Level], Level | str]:
    """Each defense from outside is "dulled", which lowers the slope by 1; clients of float64 cannot take it."""
    for spec in specs:
        if spec != "dulled":
            raise ValueError(f"defense: expected one of ['dulled'], got {spec!r}")

    def defend(level: Level) -> Level | str:
        if level.dtype == "float64":
            return "the defense does not take the clients of this row"
        return replace(level, slope=level.slope - len(specs))

    return defend


#: Names of what `placebo` takes.
PLACEBOS = ("blind", "noise", "saboteur")


def placebo(name: str, *, controlled: bool = True) -> Callable[[Level, int], Level]:
    """The level's attack becomes the placebo; the saboteur's is the truth at the first level."""
    sabotage = ("truth", "noise")

    def put(level: Level, position: int) -> Level:
        attack = sabotage[min(position, 1)] if name == "saboteur" else name
        return replace(level, attack=attack) if controlled else replace(level, attack=attack, control=None)

    return put


def draw_reach(folder: Path, id: str, draws: Sequence[Mapping[str, Any]], **options: Any) -> list[Path]:
    """A file with what would be drawn."""
    path = folder / f"{id}-reach.png"
    path.write_text(json.dumps({"draws": list(draws), **options}), encoding="utf-8")
    return [path]


def draw(folder: Path, id: str, values: np.ndarray, *, levels: Sequence[str], **options: Any) -> list[Path]:
    """A file with what would be drawn."""
    path = folder / f"{id}-levels.png"
    path.write_text(
        json.dumps({"values": values.tolist(), "levels": list(levels), "title": options["title"]}), encoding="utf-8"
    )
    return [path]
