"""Defenses as text: what a command line can name, and what it is told where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gia.defenses import DEFENSES, clip, dp_sgd, noise, parse, prune, quantize, soteria
from gia.defenses.parsing import EXAMPLES
from gia.federated import Observation

HERE = __name__


class halved:
    """A defense of a user's own package, with one setting."""

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Observation:
        """The observation as it is: only its making matters here."""
        return observation


def plain(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defense that is a function."""
    return observation


number = 3


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("clip=1", clip(norm=1)),
        ("noise=1e-2", noise(std=0.01)),
        ("noise=0.5,kind=laplace", noise(std=0.5, kind="laplace")),
        (" noise = 0.5 , kind = laplace ", noise(std=0.5, kind="laplace")),
        ("prune=.2", prune(keep=0.2)),
        ("quantize=4", quantize(bits=4)),
        ("dp_sgd=2.0,noise=0.5", dp_sgd(clip=2.0, noise=0.5)),
        ("soteria=.4", soteria(share=0.4)),
        ("gia.defenses:clip=2.0", clip(norm=2.0)),
    ],
)
def test_a_text_names_a_defense_its_first_setting_and_others_by_name(spec: str, expected: object) -> None:
    """As in the documentation of `--defense`."""
    assert parse(spec) == expected


def test_every_built_in_defense_can_be_named() -> None:
    """A new defense that the table lacks could not be given on a command line."""
    settings = {"dp_sgd": "1.0,noise=1.0", "quantize": "3"}
    assert all(parse(EXAMPLES[name]) for name in DEFENSES)
    assert all(parse(f"{name}={settings.get(name, '0.5')}") for name in DEFENSES)


def test_a_path_leads_to_a_function_or_a_class_of_one_s_own() -> None:
    """A function is the defense itself; a class is called, with the settings that are given."""
    assert parse(f"{HERE}:plain") is plain
    made, other = parse(f"{HERE}:halved"), parse(f"{HERE}:halved=0.25")
    assert (made.factor, other.factor) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("clop=1", ValueError, "defense: expected one of .*, got 'clop'; did you mean 'clip'"),
        ("", ValueError, "defense: expected one of"),
        ("clip", ValueError, r"^defense: expected settings that clip takes, as in clip=1\.0, got 'clip'$"),
        ("clip=much", ValueError, "defense: expected settings that clip takes, as in clip=1.0, got 'clip=much'"),
        (f"{HERE}:halved=0.5,size=2", ValueError, r"defense: expected settings that .*halved takes \(.*'size'\), got"),
        ("clip=1.0,size=2", ValueError, "defense: expected settings that clip takes"),
        ("clip=-1", ValueError, "norm: expected a number above 0, got -1"),
        ("clip=1.0,2.0", ValueError, "defense: expected NAME=VALUE,SETTING=VALUE, got 'clip=1.0,2.0'"),
        ("no_such_module:name", ValueError, "defense: expected package.module:name that can be imported"),
        (f"{HERE}:nothing", ValueError, "defense: expected package.module:name that can be imported"),
        (":plain", ValueError, "defense: expected package.module:name that can be imported"),
        (f"{HERE}:number", TypeError, f"defense: expected {HERE}:number to be callable .* got int"),
    ],
)
def test_what_names_no_defense_is_refused_with_the_text(spec: str, error: type[Exception], message: str) -> Any:
    """A typing mistake must not run undefended."""
    with pytest.raises(error, match=message):
        parse(spec)
