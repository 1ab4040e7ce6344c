"""Bad input ends every attack with a ValueError or TypeError that names the argument."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gia.attacks import ATTACKS, CARDS, NothingFound
from tests.contracts.cases import CASES, CLASSES, SIZE, build, each, share
from tests.contracts.fresh import equipped


def renamed(gradients):
    """The first parameter under a name that no model has."""
    first, *rest = gradients
    return {"wrong.name": gradients[first], **{name: gradients[name] for name in rest}}


def without_the_first(gradients):
    """All but the first parameter."""
    return {name: gradients[name] for name in list(gradients)[1:]}


def with_first(change):
    """A change of the first parameter's gradient alone."""

    def changed(gradients):
        first = next(iter(gradients))
        return {**gradients, first: change(gradients[first])}

    return changed


def with_nan(gradient):
    """One entry is not a number."""
    gradient = gradient.clone()
    gradient.view(-1)[0] = torch.nan
    return gradient


#: The first parameter of a case's victim, in a message.
FIRST = "'.*(weight|token)'"

#: What is done to the shared gradients -> the error that must come, wherever it is noticed.
BAD_GRADIENTS = {
    "a wrong name": (renamed, ValueError, "gradients: expected parameters of the model, .* got 'wrong.name'"),
    "a missing parameter": (without_the_first, ValueError, f"gradients: expected .* got none for {FIRST}"),
    "a wrong shape": (
        with_first(lambda g: g[..., :-1]),
        ValueError,
        rf"gradients\[{FIRST}\]: expected the parameter's shape",
    ),
    "a wrong dtype": (
        with_first(torch.Tensor.half),
        ValueError,
        rf"gradients\[{FIRST}\]: .* got torch.float16",
    ),
    "an integer dtype": (
        with_first(torch.Tensor.int),
        ValueError,
        rf"gradients\[{FIRST}\]: .* got torch.int32",
    ),
    "NaN": (with_first(with_nan), ValueError, rf"gradients\[{FIRST}\]: expected finite values"),
    "a list": (lambda gradients: list(gradients.values()), TypeError, "gradients: expected a mapping"),
    "nothing": (lambda gradients: {}, ValueError, "gradients: expected at least one"),
}

each_attack = each(ATTACKS)


def launch(name, model, observation, **changes):
    """The attack with its quick settings and some changes."""
    case = CASES[name]
    good = build(case, torch.float32)
    settings = equipped({**case.settings, **case.quick}, good, share(case, good, *case.batch(0, 1)))
    return ATTACKS[name](model, observation, **{**settings, "generator": torch.Generator(), **changes})


@pytest.fixture
def victim(name):
    """The victim of the easy case."""
    return build(CASES[name], torch.float32)


@pytest.fixture
def observation(name, victim):
    """What it gives away of two images, or of as many as it takes."""
    return share(CASES[name], victim, *CASES[name].batch(0, 1))


@each_attack
@pytest.mark.parametrize("kind", BAD_GRADIENTS)
def test_a_bad_gradient_is_named(name, victim, observation, kind):
    """If it fails, a gradient that does not fit the model is attacked, and a score of nonsense comes out."""
    change, error, message = BAD_GRADIENTS[kind]
    with pytest.raises(error, match=message):
        launch(name, victim, replace(observation, gradients=change(observation.gradients)))


@each_attack
def test_a_gradient_of_zeros_is_no_evidence(name, victim, observation):
    """If it fails, a search against nothing (LoRA's A at its start) returns an image that somebody will score."""
    zeros = {key: torch.zeros_like(value) for key, value in observation.gradients.items()}
    message = r"expected (an active neuron|a bin) of .*"
    if "zero gradients" not in CASES[name].exempt:
        message = "expected an entry other than 0"
    error = NothingFound if CARDS[name].leaf.startswith("ANA") else ValueError
    with pytest.raises(error, match=f"gradients: {message}"):
        launch(name, victim, replace(observation, gradients=zeros))


@each_attack
@pytest.mark.parametrize("shape", [(3, SIZE + 8, SIZE), (1, SIZE, SIZE)], ids=str)
def test_images_that_the_model_does_not_take_are_an_error(name, victim, observation, shape):
    """If it fails, a wrong image shape surfaces as a torch error deep inside, or not at all."""
    with pytest.raises(ValueError, match="image_shape: expected one that the model takes, got"):
        launch(name, victim, replace(observation, image_shape=shape))


@each_attack
def test_labels_are_asked_for_and_held_to_the_model(name, victim, observation):
    """If it fails, an attack without labels starts anyway, or one logit too many is an index error inside torch."""
    if "labels" in CARDS[name].needs:
        with pytest.raises(ValueError, match=rf"labels: expected labels, which {name} needs, got None"):
            launch(name, victim, replace(observation, labels=None))
    beyond = replace(observation, labels=torch.tensor([0, CLASSES])[-observation.batch_size :])
    if "labels out of range" in CASES[name].exempt:
        launch(name, victim, beyond)
    else:
        with pytest.raises(ValueError, match=f"labels: expected 0 to {CLASSES - 1} .* got .*{CLASSES}"):
            launch(name, victim, beyond)


@each_attack
@pytest.mark.parametrize("generator", [0, None, "cpu"], ids=str)
def test_a_generator_is_a_torch_generator(name, victim, observation, generator):
    """If it fails, a seed passed as a number is taken for something else, or for nothing."""
    with pytest.raises(TypeError, match=r"generator: expected a torch\.Generator, got"):
        launch(name, victim, observation, generator=generator)


@each_attack
def test_a_model_and_an_observation_are_what_they_are_called(name, victim, observation):
    """If it fails, swapped arguments or bare tensors end in an AttributeError that names neither."""
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got OrderedDict"):
        launch(name, victim.state_dict(), observation)
    with pytest.raises(TypeError, match=r"observation: expected a gia\.Observation, got list"):
        launch(name, victim, list(observation.gradients.values()))


@each_attack
def test_settings_are_keywords_with_known_names(name, victim, observation):
    """If it fails, a mistyped setting is swallowed and the default is run in its place."""
    with pytest.raises(TypeError, match=r"setting: expected one of \[.*\], got 'stepz'"):
        launch(name, victim, observation, stepz=3)
    with pytest.raises(TypeError, match="positional argument"):
        ATTACKS[name](victim, observation, torch.Generator())


@each(name for name in ATTACKS if CARDS[name].iterative)
def test_steps_are_counted_from_zero(name, victim, observation):
    """If it fails, a negative number of steps passes for a search."""
    with pytest.raises(ValueError, match="steps: expected at least 0, got -1"):
        launch(name, victim, observation, steps=-1)
