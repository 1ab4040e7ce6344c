"""The attack types that an audit tries, and those that it cannot try, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gia.errors import expected_one_of

__all__ = ["KINDS", "UNTRIED", "Kind", "chosen_kinds"]


@dataclass(frozen=True)
class Kind:
    """One attack type and how the audit runs it.

    Attributes:
        title: what it is, for readers of the report.
        attack: a name of `gia.attacks.ATTACKS`.
        malicious: whether the server changes the model before it sends it.
        searches: whether the attack has steps, which the budget limits.
        settings: of the attack, beside steps and loss.
        absent: how the attack's error begins where a model has nothing that it reads, and what the report says then;
            None for an attack that takes most models.
    """

    title: str
    attack: str
    malicious: bool
    searches: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[str, str] | None = None


#: Name -> attack type, in the order in which they are run: closed forms first, since they take no time.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "ana_linear": Kind(
            "closed form: a linear layer sees the image [ANA-GIA]",
            "linear_layer",
            False,
            False,
            absent=(
                "layer: expected",
                "this model has no linear layer that sees the image and shares its weight and bias",
            ),
        ),
        "ana_patches": Kind(
            "closed form: the embeddings of patches and positions are trained [ANA-GIA]",
            "patch_embedding",
            False,
            False,
            absent=(
                "model: expected the gradients of a convolution",
                "this model shares no embedding of patches together with the position embeddings added to it",
            ),
        ),
        "ana_tokens": Kind(
            "closed form: the first block of a Vision Transformer, or adapters in it [OP-GIA]",
            "patch_span",
            False,
            False,
            absent=(
                "model: expected a shared linear layer",
                "this model shares no linear layer, or adapter of one, that sees embedded patches",
            ),
        ),
        "ana_arch": Kind("imprint block in front of the model [ANA-GIA, architecture]", "robbing_the_fed", True, False),
        "op": Kind("search over pixels [OP-GIA]", "inverting_gradients", False, True, {"total_variation": 1e-3}),
        "gen_w": Kind("search over the weights of a decoder [GEN-GIA, weights W]", "ci_net", False, True),
        "ana_param": Kind(
            "fishing for one class [ANA-GIA, parameters]", "fishing", True, True, {"total_variation": 1e-3}
        ),
    }
)

#: Name -> why the audit never tries it.
UNTRIED: Mapping[str, str] = MappingProxyType(
    {
        "gen_z": "it needs a generator that was trained on images like yours; see gia.attacks.ggl [GEN-GIA, latent z]",
        "gen_inv": "it needs a network that learns from thousands of images like yours; see gia.attacks.train_inverter "
        "[GEN-GIA, inverter]",
    }
)


def chosen_kinds(against: str | Sequence[str]) -> tuple[str, ...]:
    """The names of attack types in "all", "op,gen_w" or a sequence, in the order of `KINDS`.

    Raises ValueError for a name that is unknown, or that no audit tries.

    >>> from gia.audit.kinds import chosen_kinds
    >>> chosen_kinds("gen_w, op")
    ('op', 'gen_w')
    """
    names = [name.strip() for name in against.split(",")] if isinstance(against, str) else list(against)
    for name in names:
        if name in UNTRIED:
            raise ValueError(f"against: expected a type that an audit can try, got {name!r}: {UNTRIED[name]}")
        if name not in (*KINDS, "all"):
            raise ValueError(expected_one_of("against", name, [*KINDS, "all"]))
    return tuple(name for name in KINDS if "all" in names or name in names)
