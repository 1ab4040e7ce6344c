"""Attacks by name, by the entry point of an installed package, and by import path."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

import gia
from gia.attacks import ATTACKS, CARDS, Card, Reconstruction, card_of, data_term, data_terms, find, registered, run_many
from gia.attacks.objectives import SquaredDifferences
from tests.contracts.cases import CASES, build, private, share

SOURCE = '''
import torch
from gia.attacks import Card, Reconstruction

value = 3
calls = []


def gray(model, observation, *, generator, level: float = 0.5) -> Reconstruction:
    """A gray image."""
    calls.append((generator, torch.is_grad_enabled()))
    return Reconstruction(images=torch.full((1, *observation.image_shape), level))


def anything(model, observation, *, generator, **settings) -> Reconstruction:
    return Reconstruction(images=torch.full((1, 1, 1, 1), float(len(settings))))


def wrong(model, observation, *, generator):
    return observation


def carded(model, observation, *, generator):
    """With a card."""


carded.card = Card(leaf="OP", needs=frozenset(), iterative=False, source="made up")
wrong.card = {"leaf": "OP"}


class Holder:
    gray = staticmethod(gray)
'''

REGISTERED = """
[gia.attacks]
shade = outside_package.attacks:gray
dlg = outside_package.attacks:wrong
lost = outside_package.nowhere:gray
nested = outside_package.attacks:Holder.gray [extra]
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A temporary package on `sys.path` that registers attacks. It is imported when it is asked for."""
    package = tmp_path / "outside_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "attacks.py").write_text(SOURCE, encoding="utf-8")
    (package / "broken.py").write_text("import a_library_that_is_not_here\n")
    (package / "failing.py").write_text("from gia import no_such_name\n", encoding="utf-8")
    information = tmp_path / "outside_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: outside-package\nVersion: 1.0\n", encoding="utf-8"
    )
    (information / "entry_points.txt").write_text(REGISTERED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside_package.attacks"
    for name in [name for name in sys.modules if name.startswith("outside_package")]:
        del sys.modules[name]


@pytest.fixture
def shared():
    """A victim and two observations."""
    model = build(CASES["dlg"], torch.float32)
    return model, [share(CASES["dlg"], model, i) for i in (0, 1)], [torch.Generator(), torch.Generator()]


def test_attacks_are_in_the_order_of_the_taxonomy():
    """If it fails, tables and listings change their order."""
    leaves = [attack.card.leaf for attack in ATTACKS.values()]
    order = ["OP", "GEN-z", "GEN-W", "GEN-inverter", "ANA-architecture", "ANA-parameters"]
    assert [leaf for i, leaf in enumerate(leaves) if leaf not in leaves[:i]] == order
    assert leaves == sorted(leaves, key=order.index)
    assert list(CARDS) == list(ATTACKS)
    assert all(getattr(gia.attacks, name) is attack for name, attack in ATTACKS.items())


def test_an_attack_is_found_by_name_entry_point_import_path_and_as_itself(outside):
    """If it fails, an attack from outside cannot be asked for."""
    assert find("dlg") is find("gia.attacks:dlg") is find(gia.attacks.dlg) is gia.attacks.dlg
    assert "outside_package" not in sys.modules
    assert registered()["shade"] == "outside_package.attacks:gray"
    assert "outside_package" not in sys.modules
    gray = find("shade")
    assert gray is find(f"{outside}:gray") is find("nested") is sys.modules[outside].gray


def test_gia_s_own_attack_comes_first(outside):
    """If it fails, an installed package replaces a published attack by another one of its name."""
    assert "dlg" not in registered()
    assert find("dlg") is gia.attacks.dlg


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("shad", r"attack: expected one of \['dlg', .*'shade'\], got 'shad'; did you mean 'shade'\?"),
        ("outside_package.missing:gray", "attack: expected a module .* got no module 'outside_package.missing'"),
        ("no_package.missing:gray", "attack: expected a module .* got no module 'no_package'"),
        ("lost", "attack: expected a module .* got no module 'outside_package.nowhere'"),
        (
            "outside_package.attacks:grey",
            r"attack: expected one of \[.*\], got 'outside_package.attacks:grey'; did you mean '.*:gray'\?",
        ),
        ("outside_package.attacks:", "attack: expected 'package.module:function', got"),
        (":gray", "attack: expected 'package.module:function', got ':gray'"),
    ],
)
def test_what_is_missing_is_named(outside, asked, message):
    """If it fails, a mistyped name is a KeyError or an AttributeError that does not say what there is."""
    with pytest.raises(ValueError, match=message):
        find(asked)


@pytest.mark.parametrize(
    ("module", "message", "cause"),
    [
        ("broken", "got ModuleNotFoundError: No module named 'a_library_that_is_not_here'", ModuleNotFoundError),
        ("failing", "got ImportError: cannot import name 'no_such_name'", ImportError),
    ],
)
def test_an_import_that_fails_inside_a_module_is_shown(outside, module, message, cause):
    """If it fails, a user who lacks a library is told that the attack does not exist."""
    with pytest.raises(ValueError, match=message) as caught:
        find(f"outside_package.{module}:gray")
    assert type(caught.value.__cause__) is cause


def test_what_cannot_be_called_is_no_attack(outside):
    """If it fails, a number is called somewhere inside a run."""
    with pytest.raises(TypeError, match=r"attack: expected a callable at 'outside_package\.attacks:value', got int"):
        find("outside_package.attacks:value")
    with pytest.raises(TypeError, match="attack: expected a callable or a name, got int"):
        find(3)


def test_a_function_has_a_card_or_none(outside):
    """If it fails, an attack without a card cannot be tried, or what is no card is taken for one."""
    assert card_of("gias") is CARDS["gias"]
    assert card_of(f"{outside}:gray") is None
    assert isinstance(card_of(f"{outside}:carded"), Card)
    with pytest.raises(TypeError, match=r"card: expected a gia\.attacks\.Card, got dict"):
        card_of(f"{outside}:wrong")


def test_a_function_from_outside_is_called_once_per_observation_with_its_generator(outside, shared):
    """If it fails, an outside attack cannot be run where gia's own can, or its trials share a random stream."""
    model, observations, generators = shared
    with torch.no_grad():
        results = run_many("shade", model, observations, generators=generators, level=0.25)
    assert [result.images.unique().tolist() for result in results] == [[0.25], [0.25]]
    calls = sys.modules[outside].calls
    assert [generator for generator, _ in calls] == generators
    assert all(gradients for _, gradients in calls)


def test_settings_of_a_function_from_outside_are_checked(outside, shared):
    """If it fails, a mistyped setting of an outside attack is Python's own error, or none at all."""
    model, observations, generators = shared
    with pytest.raises(TypeError, match=r"setting: expected one of \['level'\], got 'levle'; did you mean 'level'\?"):
        run_many(f"{outside}:gray", model, observations, generators=generators, levle=1)
    found = run_many(f"{outside}:anything", model, observations, generators=generators, one=1, two=2)
    assert found[0].images.item() == 2


def test_a_result_that_is_no_reconstruction_is_an_error(outside, shared):
    """If it fails, a tensor is scored as if it were a reconstruction, or fails far from its cause."""
    model, observations, generators = shared
    message = r"attack: expected wrong to return a gia\.Reconstruction, got Observation"
    with pytest.raises(TypeError, match=message):
        run_many(f"{outside}:wrong", model, observations, generators=generators)
    with pytest.raises(ValueError, match="generators: expected 2, one per observation, got 1"):
        run_many(f"{outside}:gray", model, observations, generators=generators[:1])
    assert isinstance(run_many(f"{outside}:gray", model, observations, generators=generators)[0], Reconstruction)


def test_the_data_term_of_a_function_from_outside_is_the_cosine_distance(outside, shared):
    """If it fails, an attack from outside has no control, or one by a measure that depends on the gradient's size."""
    model, (observation, _), _ = shared
    images, labels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), private(torch.float32, 0)[1]
    gradients = torch.autograd.grad(cross_entropy(model(images), labels), list(model.parameters()))
    mine = torch.cat([g.flatten() for g in gradients])
    theirs = torch.cat([observation.gradients[name].flatten() for name, _ in model.named_parameters()])
    expected = float(1 - cosine_similarity(mine, theirs, dim=0))
    with torch.no_grad():
        assert data_term("shade", model, observation, images, labels, level=0.25) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(TypeError, match=r"setting: expected one of \['level'\], got 'levle'"):
        data_term("shade", model, observation, images, labels, levle=0.25)


def test_the_terms_of_several_images_are_those_of_each_alone_with_statistics_of_the_batch():
    """If it fails, what one image leaves behind in the victim, such as running statistics, moves the next one's."""
    seed = torch.Generator().manual_seed(0)
    model = gia.models.build("resnet8", num_classes=5, image_size=8, width=4, generator=seed)
    images, labels = torch.rand(2, 3, 8, 8, generator=seed), torch.tensor([1, 3])
    observation = gia.share_gradient(model, images, labels, reveal=("labels",), training=True)
    several = [images, images.flip(0), images.sqrt(), images]
    settings = {"total_variation": 0.1}
    alone = [data_term("inverting_gradients", model, observation, each, **settings) for each in several]
    assert data_terms("inverting_gradients", model, observation, several, **settings) == alone
    assert len({*alone}) == 3


def test_an_objective_that_is_given_decides_the_data_term(shared):
    """Squared differences are proportional to the scale. If it fails, images are compared by another objective."""
    model, (observation, _), _ = shared
    images, labels = private(torch.float32, 1)
    one, two = (
        data_term("dlg", model, observation, images, labels, objective=SquaredDifferences(scale)) for scale in (1, 8)
    )
    assert two == 8 * one > 0


def test_what_has_no_data_term_is_named(shared):
    """If it fails, an analytic attack gets a number that means nothing, or images of another client are compared."""
    model, (observation, _), _ = shared
    images, labels = private(torch.float32, 0)
    with pytest.raises(
        ValueError, match="attack: expected one that searches and so has a data term, got 'linear_layer'"
    ):
        data_term("linear_layer", model, observation, images, labels)
    with pytest.raises(ValueError, match=r"images: expected \(1, 3, 8, 8\), as the client's batch, got \(3, 8, 8\)"):
        data_term("dlg", model, observation, images[0], labels)
    with pytest.raises(ValueError, match="labels: expected labels, which the observation does not hold, got None"):
        data_term("dlg", model, observation, images)
    with pytest.raises(ValueError, match="labels: expected 1, one per image, got 2"):
        data_term("dlg", model, observation, images, torch.tensor([1, 2]))
    with pytest.raises(TypeError, match=r"observation: expected a gia\.Observation, got list"):
        data_term("dlg", model, [observation], images, labels)
    with pytest.raises(TypeError, match=r"setting: expected one of .*, got 'stepps'; did you mean 'steps'"):
        data_term("dlg", model, observation, images, labels, stepps=3)
