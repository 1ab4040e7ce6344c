"""All attacks by name: gia's own, those that installed packages register, and any function by its import path."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics import fishing, linear_layer, patch_embedding, patch_span, robbing_the_fed, trap_weights
from gia.attacks.generation import ci_net, ggl, gias, learning_to_invert
from gia.attacks.matching import matching_terms
from gia.attacks.objectives import Cosine
from gia.attacks.optimization import dlg, gradinversion, idlg, inverting_gradients
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Attack, Card, check_settings, check_trials, one_by_one
from gia.errors import expected_one_of
from gia.federated import Observation
from gia.federated.victims import differentiating

_GROUP = "gia.attacks"

_OWN: tuple[Attack, ...] = (
    dlg,
    idlg,
    inverting_gradients,
    gradinversion,
    patch_span,
    ggl,
    gias,
    ci_net,
    learning_to_invert,
    linear_layer,
    patch_embedding,
    robbing_the_fed,
    trap_weights,
    fishing,
)

#: Name -> attack, in the order of the taxonomy: optimization, generation, analytics.
ATTACKS: dict[str, Attack] = {attack.__name__: attack for attack in _OWN}

#: Name -> what the attack is and what it needs, in the same order.
CARDS: dict[str, Card] = {name: attack.card for name, attack in ATTACKS.items()}


def registered() -> dict[str, str]:
    """Name -> "package.module:function" of the attacks that installed packages register. Nothing is imported.

    A package registers its attacks in its pyproject.toml as an entry point of the group "gia.attacks":

        [project.entry-points."gia.attacks"]
        my_attack = "my_package.my_module:my_attack"

    A name of one of gia's own attacks is left out. Where two packages use one name, the first on `sys.path` counts.

    Returns the names in alphabetical order.

    >>> import gia
    >>> "dlg" in gia.attacks.registered()
    False
    """
    paths: dict[str, str] = {}
    for entry in entry_points(group=_GROUP):
        if entry.name not in ATTACKS:
            paths.setdefault(entry.name, f"{entry.module}:{entry.attr}")
    return dict(sorted(paths.items()))


def find(attack: str | Callable[..., Reconstruction]) -> Callable[..., Reconstruction]:
    """The attack of a name or an import path.

    Args:
        attack: a name of `ATTACKS`, a name of `registered()`, an import path "package.module:function", or a callable,
            which is returned as it is. gia's own attack comes first where a name is used twice.

    Returns the callable (model, observation, *, generator, **settings) -> Reconstruction. Raises ValueError for an
    unknown name and for a module or function that cannot be imported, with the ImportError as its cause; TypeError
    for anything that is not callable.

    >>> import gia
    >>> gia.attacks.find("dlg") is gia.attacks.dlg is gia.attacks.find("gia.attacks:dlg")
    True
    >>> gia.attacks.find("idgl")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: attack: expected one of ['dlg', 'idlg', ...], got 'idgl'; did you mean 'idlg'?
    """
    if not isinstance(attack, str):
        if not callable(attack):
            raise TypeError(f"attack: expected a callable or a name, got {type(attack).__name__}")
        return attack
    if attack in ATTACKS:
        return ATTACKS[attack]
    if ":" in attack:
        return _imported(attack)
    others = registered()
    if attack not in others:
        raise ValueError(expected_one_of("attack", attack, [*ATTACKS, *others]))
    return _imported(others[attack])


def card_of(attack: str | Callable[..., Reconstruction]) -> Card | None:
    """The card of an attack, None for a function without one.

    Args:
        attack: anything that `find` takes.

    Raises what `find` raises, and TypeError where the attribute `card` of the function is not a `Card`.

    >>> import gia
    >>> sorted(gia.attacks.card_of("gias").needs)
    ['decoder', 'labels']
    >>> gia.attacks.card_of(print) is None
    True
    """
    card = getattr(find(attack), "card", None)
    if card is not None and not isinstance(card, Card):
        raise TypeError(f"card: expected a gia.attacks.Card, got {type(card).__name__}")
    return card


def run_many(
    attack: str | Callable[..., Reconstruction],
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    **settings: Any,
) -> list[Reconstruction]:
    """Run an attack on several observations of one victim.

    gia's own attacks search for all observations at once. A function from outside is called for one after the other.

    Args:
        attack: anything that `find` takes.
        model: the victim as sent to all the clients.
        observations: one per trial, equal in image shape, batch size, mode, local training and trainable parameters.
        generators: one per observation.
        settings: the attack's own.

    Returns one reconstruction per observation, without an image where the attack finds nothing. Raises what `find`
    raises; `NothingFound` where it finds nothing in any; ValueError for observations that do not fit the model or each
    other; TypeError for a setting that the attack does not have, or a result of another type.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, generator=seed)
    >>> images = torch.rand(2, 3, 4, 4, generator=seed)
    >>> observations = [gia.share_gradient(model, image[None], torch.tensor([1])) for image in images]
    >>> results = gia.attacks.run_many("linear_layer", model, observations, generators=[seed, seed])
    >>> [bool(torch.allclose(result.images[0], image, atol=1e-4)) for result, image in zip(results, images)]
    [True, True]
    """
    function = find(attack)
    if (many := getattr(function, "many", None)) is not None:
        results = list(many(model, observations, generators=generators, **settings))
    else:
        check_trials(model, observations, generators)
        check_settings(function, settings)
        with differentiating():
            results = one_by_one(
                lambda observation, generator: function(model, observation, generator=generator, **settings),
                observations,
                generators,
            )
    for result in results:
        if not isinstance(result, Reconstruction):
            raise TypeError(f"attack: expected {_name(function)} to return a gia.Reconstruction, got {_kind(result)}")
    return results


def data_term(
    attack: str | Callable[..., Reconstruction],
    model: nn.Module,
    observation: Observation,
    images: Tensor,
    labels: Tensor | None = None,
    **settings: Any,
) -> float:
    """What a search minimizes, without priors, at given images: the distance of their gradient to the observed one.

    It compares images that an attack found with other images. At the private images themselves it is zero, except for
    rounding. Local training and the client's mode are simulated as the attack does it. Nothing is drawn.

    Args:
        attack: anything that `find` takes. A function without a card has the cosine distance.
        model: the victim as sent.
        observation: what the client shared.
        images: (B, C, H, W), as many as the attack reconstructs: one for `fishing`.
        labels: (B,) int64, in the order of the images; None takes the observation's, or those that `idlg` restores.
            `fishing` does not read them.
        settings: the attack's own; `objective`, `loss`, the `mirror` of `ggl` and the `target` of `fishing` matter.

    Returns the matching term. Raises what `find` raises; ValueError for an attack that does not search, images of
    another shape, and labels that are not known; TypeError for a setting that the attack does not have.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images, labels = torch.rand(1, 3, 4, 4, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, images, labels, reveal=("labels",))
    >>> noisy = images + 0.1 * torch.randn(images.shape, generator=seed)
    >>> terms = [gia.attacks.data_term("inverting_gradients", model, observation, each) for each in (images, noisy)]
    >>> abs(terms[0]) < 1e-6 < 1e-3 < terms[1]
    True
    """
    return data_terms(attack, model, observation, [images], labels, **settings)[0]


def data_terms(
    attack: str | Callable[..., Reconstruction],
    model: nn.Module,
    observation: Observation,
    images: Sequence[Tensor],
    labels: Tensor | None = None,
    **settings: Any,
) -> list[float]:
    """The `data_term` at each of several images, faster than one by one: the victim is prepared once.

    Args:
        attack, model, observation, labels, settings: as in `data_term`.
        images: each (B, C, H, W).

    Returns one matching term for each of `images`. Raises as `data_term`.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images, labels = torch.rand(1, 3, 4, 4, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, images, labels, reveal=("labels",))
    >>> at_truth, at_black = gia.attacks.data_terms("dlg", model, observation, [images, torch.zeros_like(images)])
    >>> abs(at_truth) < 1e-6 < at_black
    True
    """
    function, card = find(attack), card_of(attack)
    if card is not None and not card.iterative:
        raise ValueError(f"attack: expected one that searches and so has a data term, got {_name(function)!r}")
    if not isinstance(observation, Observation):
        raise TypeError(f"observation: expected a gia.Observation, got {_kind(observation)}")
    observation.check(model)
    terms: Callable[..., list[float]] | None = getattr(function, "terms", None)
    if terms is None:
        check_settings(function, settings)
        terms, settings = matching_terms(Cosine()), {"objective": None, "loss": cross_entropy, **settings}
    return terms(model, observation, images, labels, **settings)


def _imported(path: str) -> Callable[..., Reconstruction]:
    """The callable at "package.module:name"; the name may have dots."""
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise ValueError(f"attack: expected 'package.module:function', got {path!r}")
    try:
        value = importlib.import_module(module_name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        got = f"no module {error.name!r}" if missing else f"{type(error).__name__}: {error}"
        raise ValueError(f"attack: expected a module that can be imported in {path!r}, got {got}") from error
    known = [key for key, each in vars(value).items() if callable(each) and not key.startswith("_")]
    for part in name.split("."):
        if not hasattr(value, part):
            raise ValueError(expected_one_of("attack", path, [f"{module_name}:{each}" for each in known]))
        value = getattr(value, part)
    if not callable(value):
        raise TypeError(f"attack: expected a callable at {path!r}, got {_kind(value)}")
    function: Callable[..., Reconstruction] = value
    return function


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _kind(value: object) -> str:
    return type(value).__name__
