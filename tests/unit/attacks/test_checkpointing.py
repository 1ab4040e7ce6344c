"""Checkpoints of searches: a killed search goes on with the same bits, and no file serves another search."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch

import gia
from gia.attacks import CARDS, checkpointing, run_many
from gia.attacks.identity import digest_of_values
from gia.attacks.matching import Adam, Interrupted, Point, minimize
from gia.attacks.trials import Card, attack
from gia.numerics.checkpoints import Checkpoint, checkpoints_of
from tests.contracts.cases import CASES, build, share
from tests.contracts.fresh import Logistic, equipped
from tests.contracts.snapshots import same_reconstruction
from tests.unit.attacks.killed import KILLS, search


class Killed(Exception):
    """Stands in for a kill: it leaves the attack in the middle of its search."""


def killer(step):
    """A callback that kills the search before this step; None for one that counts only."""

    def call(progress):
        call.steps.append(progress.step)
        if progress.step == step:
            raise Killed

    call.steps = []
    return call


#: Attack -> more settings than those of its easy case, which has the rest of what a search may hold.
VARIANTS = {
    "inverting_gradients": {
        "restarts": {"restarts": 2, "steps": 6},
        "converged": {"restarts": 2, "steps": 8, "converged": 0.9},
    },
    "gradinversion": {
        "group": {"seeds": 2, "steps": 6},
        "converged": {"seeds": 2, "steps": 8, "converged": 0.9, "group": 0.0},
    },
    "dlg": {"soft labels": {"steps": 3}, "converged": {"steps": 3, "converged": 0.9}},
    "idlg": {"restarts": {"restarts": 2, "steps": 2}},
    "ggl": {
        "adam": {"optimizer": "adam", "steps": 6},
        "cma": {"optimizer": "cma", "population": 3, "steps": 8, "decoder": Logistic((3, 8, 8))},
        "cma, converged": {"optimizer": "cma", "population": 3, "steps": 8, "converged": 0.9, "bound": None},
    },
    "gias": {"both parts": {"steps": 6, "latent_steps": 3}},
    "ci_net": {"weights": {"steps": 6}, "converged": {"steps": 8, "converged": 0.9}},
    "fishing": {"restarts": {"steps": 6, "restarts": 2}},
}


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim(name):
    """An attack's easy victim, what two of its clients share, and settings."""
    case = CASES[name]
    model = build(case, torch.float32)
    chosen = [case.batch(0, 1), case.batch(2, 3)]
    return model, [share(case, model, *each) for each in chosen], equipped({**case.settings, **case.quick})


def run(name, step=None, **settings):
    """Reconstructions of two clients, the states of their generators, and the steps that were taken."""
    model, observations, easy = victim(name)
    generators, callback = [seeded(1), seeded(2)], killer(step)
    found = run_many(name, model, observations, generators=generators, **{**easy, **settings, "callback": callback})
    return found, [generator.get_state() for generator in generators], callback.steps


def same(one, other):
    """Whether two runs agree in every bit, apart from the steps that they took."""
    images = all(same_reconstruction(*pair) for pair in zip(one[0], other[0], strict=True))
    return images and all(torch.equal(*pair) for pair in zip(one[1], other[1], strict=True))


def test_every_search_has_variants_here():
    """If it fails, an attack that searches has no test of its checkpoints."""
    assert set(VARIANTS) == {name for name, card in CARDS.items() if card.iterative}


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
)
def test_a_killed_search_goes_on_and_gives_the_same_bits(name, variant, tmp_path):
    """If it fails, a resumed search is another search: its optimizer, noise, best points or counts were not stored."""
    settings = VARIANTS[name][variant]
    whole = run(name, **settings)
    last = whole[2][-1]
    for step in (last // 2 + 1, last):  # two kills of one search
        with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
            run(name, step, **settings)
    with checkpointing(tmp_path / "run", every=0, keep=True):
        resumed = run(name, **settings)
    assert same(whole, resumed)
    assert resumed[2][0] == last
    with checkpointing(tmp_path / "run"):  # it has ended: nothing is left to do
        again = run(name, **settings)
    assert same(whole, again)
    assert again[2] == []
    assert list(tmp_path.iterdir()) == []


def test_ten_kills_of_a_process_at_random_times_change_no_bit(tmp_path):
    """If it fails, a kill in the middle of writing leaves a torn file, or state of the process that is not stored."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = {**os.environ, "PYTHONPATH": str(Path(gia.__file__).parents[1])}
    command = [sys.executable, "-m", "tests.unit.attacks.killed", str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=environment["PYTHONPATH"], timeout=300)
    resumed, whole = torch.load(tmp_path / "result.pt", weights_only=True), search(None)
    lives = [
        [int(step) for step in (tmp_path / f"{life}.steps").read_text(encoding="utf-8").split()]
        for life in range(KILLS + 1)
    ]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert lives[0][0] == 0
    assert all(0 < later[0] <= earlier[-1] + 1 for earlier, later in pairwise(lives))
    assert checkpoints_of(tmp_path / "search") == []


SETTINGS = {"steps": 9}


def killed_at(step, path, **settings):
    """A search that was killed at a step; returns its file."""
    with pytest.raises(Killed), checkpointing(path, every=0):
        run("inverting_gradients", step, **{**SETTINGS, **settings})
    (file,) = checkpoints_of(path)
    return file


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-2000] + b"\0" + content[-1999:],
        lambda content: content.replace(b"gia checkpoint 1", b"gia checkpoint 2"),
        lambda content: content.replace(content.split(b"\n")[2], b"0" * 64),
    ],
    ids=["torn", "empty", "a byte", "another format", "checksum"],
)
def test_a_damaged_checkpoint_is_noticed_and_the_search_starts_again(damage, tmp_path, caplog):
    """If it fails, half of a file moves a search to a place where it never was."""
    file = killed_at(5, tmp_path / "run")
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert file.read_bytes() != content
    with caplog.at_level(logging.WARNING, logger="gia.cache"), checkpointing(tmp_path / "run", every=0):
        found = run("inverting_gradients", **SETTINGS)
    assert found[2][0] == 0
    assert same(found, run("inverting_gradients", **SETTINGS))
    assert "is not used" in caplog.text
    assert "damaged" in caplog.text


def test_the_checkpoint_of_another_search_is_not_used_even_under_its_name(tmp_path, caplog):
    """If it fails, a search goes on from where another one stopped, and its result is neither's."""
    file = killed_at(5, tmp_path / "run")
    own = killed_at(5, tmp_path / "other", lr=0.05)
    file.rename(own)
    own.rename(tmp_path / own.name.replace("other", "run"))
    with caplog.at_level(logging.WARNING, logger="gia.cache"), checkpointing(tmp_path / "run", every=0):
        found = run("inverting_gradients", **SETTINGS, lr=0.05)
    assert found[2][0] == 0
    assert same(found, run("inverting_gradients", **SETTINGS, lr=0.05))
    assert "belongs to another search" in caplog.text


def test_a_state_that_does_not_fit_the_search_is_refused_and_the_generators_are_put_back(tmp_path, caplog):
    """If it fails, a search that cannot use its file starts from generators that were moved in the attempt."""
    name, settings = "ggl", VARIANTS["ggl"]["cma"]
    whole = run(name, **settings)
    with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
        run(name, 7, **settings)
    (file,) = checkpoints_of(tmp_path / "run")
    path = tmp_path / "run"
    digest = file.stem.removeprefix("run-")
    checkpoint = gia.numerics.checkpoints.Checkpoints(path, 0).of(digest)
    state = checkpoint.load()
    state["search"]["told"] += 1.0 * torch.arange(14).view(7, 2).sin()  # another order of its candidates
    checkpoint.save(state)
    with caplog.at_level(logging.WARNING, logger="gia.cache"), checkpointing(path, every=0):
        found = run(name, **settings)
    assert found[2][0] == 0
    assert same(found, whole)
    assert "other candidates" in caplog.text


CHANGES = {
    "lr": {"lr": 0.05},
    "steps": {"steps": 10},
    "restarts": {"restarts": 2},
    "objective": {"objective": gia.attacks.objectives.SquaredDifferences()},
    "weight": {"total_variation": 1e-3},
    "init": {"init": "normal"},
    "box": {"box": False},
    "schedule": {"schedule": gia.attacks.schedules.cosine_decay},
    "loss": {"loss": lambda outputs, labels: 2 * torch.nn.functional.cross_entropy(outputs, labels)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_search_with_another_setting_has_another_file(change, tmp_path):
    """If it fails, a search with new settings is taken for the old one and gives the old result."""
    names = {killed_at(5, tmp_path / "run").name, killed_at(5, tmp_path / change, **CHANGES[change]).name}
    assert len({name.partition("-")[2] for name in names}) == 2


@pytest.mark.parametrize("change", ["model", "observation", "generator", "attack"])
def test_a_search_for_something_else_has_another_file(change, tmp_path):
    """If it fails, the images of one client are returned for another one."""
    model, (one, other), easy = victim("inverting_gradients")
    cases = {"first": (gia.attacks.inverting_gradients, model, one, 1)}
    changed = build(CASES["inverting_gradients"], torch.float32)
    with torch.no_grad():
        next(changed.parameters()).flatten()[0] += 1e-6
    cases[change] = {
        "model": (gia.attacks.inverting_gradients, changed, one, 1),
        "observation": (gia.attacks.inverting_gradients, model, other, 1),
        "generator": (gia.attacks.inverting_gradients, model, one, 2),
        "attack": (gia.attacks.gradinversion, model, one, 1),
    }[change]
    for name, (function, attacked, observation, seed) in cases.items():
        with pytest.raises(Killed), checkpointing(tmp_path / name, every=0):
            function(attacked, observation, generator=seeded(seed), **{**easy, "steps": 5}, callback=killer(3))
    digests = {path.name.partition("-")[2] for path in tmp_path.iterdir()}
    assert len(digests) == 2


def test_a_callback_makes_no_other_search(tmp_path):
    """If it fails, a search that gets a progress bar cannot go on from its file."""
    model, (one, _), easy = victim("inverting_gradients")
    with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
        gia.attacks.inverting_gradients(model, one, generator=seeded(), **{**easy, "steps": 5}, callback=killer(3))
    with checkpointing(tmp_path / "run", every=0, keep=True):
        gia.attacks.inverting_gradients(model, one, generator=seeded(), **{**easy, "steps": 5})
    assert len(checkpoints_of(tmp_path / "run")) == 1


def test_a_search_that_is_shorter_than_the_interval_writes_nothing(tmp_path):
    """If it fails, every search of a second costs a write to the disk."""
    with checkpointing(tmp_path / "made" / "run", every=60, keep=True):
        run("inverting_gradients", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_search_outside_a_block_writes_nothing(tmp_path, monkeypatch):
    """If it fails, attacks write files that nobody asked for."""
    monkeypatch.chdir(tmp_path)
    with checkpointing("run", every=0):
        pass
    run("inverting_gradients", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_ended_before_the_kill_is_not_run_again(tmp_path, monkeypatch):
    """If it fails, a block of several attacks goes on from its last one alone, or not at all."""

    def block(step):
        with checkpointing(tmp_path / "run", every=0):
            return run("inverting_gradients", **SETTINGS), run("gradinversion", step, steps=9)

    asked = count()
    monkeypatch.setattr(Checkpoint, "due", lambda self: next(asked) in (2, 12))  # after 3 and after 4 steps
    with pytest.raises(Killed):
        block(5)
    first, second = block(None)
    assert first[2] == []
    assert second[2][0] == 4
    assert same(first, run("inverting_gradients", **SETTINGS))
    assert same(second, run("gradinversion", steps=9))
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_was_interrupted_from_the_keyboard_goes_on_later(tmp_path):
    """If it fails, Ctrl-C at the weekend loses the hours before it."""
    model, (one, _), easy = victim("inverting_gradients")

    def attack_until(step):
        def call(progress):
            call.steps.append(progress.step)
            if progress.step == step:
                raise KeyboardInterrupt

        call.steps = []
        with checkpointing(tmp_path / "run", every=0):
            found = gia.attacks.inverting_gradients(
                model, one, generator=seeded(), **{**easy, "steps": 9}, callback=call
            )
        return found, call.steps

    with pytest.warns(Interrupted):
        attack_until(5)
    found, steps = attack_until(None)
    assert steps == [5, 6, 7, 8]
    assert same_reconstruction(found, attack_until(None)[0])


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_only_the_user_reads_a_checkpoint(tmp_path):
    """If it fails, others on the machine read images that an attack has found."""
    file = killed_at(5, tmp_path / "new" / "run")
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o077 == 0


def test_a_full_disk_ends_no_search(tmp_path, caplog):
    """If it fails, a search of two days ends because one file could not be written."""
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, logger="gia.cache"), checkpointing(tmp_path / "file" / "run", every=0):
        found = run("inverting_gradients", steps=3)
    assert len(found[2]) == 3
    assert "could not be written" in caplog.text


@pytest.mark.parametrize("every", [-1.0, float("nan")])
def test_an_interval_that_is_no_time_is_refused(every, tmp_path):
    """If it fails, a typing error switches checkpoints off, or writes at every step."""
    with pytest.raises(ValueError, match="every: expected"), checkpointing(tmp_path / "run", every=every):
        pass


def own_attack(rule):
    """An attack that searches by its own update rule."""

    def many(model, observations, *, generators, callback):
        start = torch.stack([torch.rand(1, 3, 8, 8, generator=generator) for generator in generators])

        def evaluate(variables, trials):
            return Point(variables[0].square().flatten(1).sum(1), [2 * variables[0]])

        found = minimize(evaluate, [start], steps=6, update=rule, callback=callback)
        return [gia.Reconstruction(images=images, gradient_evaluations=0) for images in found.variables[0]]

    @attack(Card("OP", frozenset(), iterative=True, source="a test"), many=many)
    def own(model, observation, *, generator, callback=None):
        return many(model, [observation], generators=[generator], callback=callback)[0]

    return own


def stateless(variables, trials=slice(None)):
    """A rule that is a plain function: nobody knows its state."""

    def step(evaluate, factor):
        variables[0].sub_(0.1 * evaluate(variables, slice(None)).gradients[0])

    return step


@pytest.mark.parametrize(("rule", "files"), [(Adam(0.1, signed=False), 1), (stateless, 0)], ids=["adam", "stateless"])
def test_an_attack_of_one_s_own_has_checkpoints_if_its_rule_can_be_stored(rule, files, tmp_path):
    """If it fails, attacks from outside lose their state, or go on without the state of their rule."""
    model, (one, _), _ = victim("inverting_gradients")
    with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
        own_attack(rule)(model, one, generator=seeded(), callback=killer(3))
    assert len(checkpoints_of(tmp_path / "run")) == files


def test_a_resumed_search_has_converged_at_the_same_step(tmp_path):
    """If it fails, the window of convergence is lost at a kill, and a resumed search takes more steps."""

    def shallow(variables, trials):
        return Point(variables[0].square().flatten(1).mean(1), [variables[0]])

    def many(model, observations, *, generators, callback):
        start = torch.stack([torch.rand(1, 3, 2, 2, generator=generator) for generator in generators])
        found = minimize(
            shallow, [start], steps=300, update=Adam(0.02, signed=True), converged=0.3, least=20, callback=callback
        )
        return [gia.Reconstruction(images=each, gradient_evaluations=0) for each in found.variables[0]]

    @attack(Card("OP", frozenset(), iterative=True, source="a test"), many=many)
    def own(model, observation, *, generator, callback=None):
        return many(model, [observation], generators=[generator], callback=callback)[0]

    model, observations, _ = victim("inverting_gradients")

    def go(step=None):
        callback = killer(step)
        found = own.many(model, observations, generators=[seeded(1), seeded(2)], callback=callback)
        return found, callback.steps

    whole, steps = go()
    assert steps[-1] < 299, "expected a search that ends by convergence"
    for step in (steps[-1] // 2, steps[-1] * 4 // 5, steps[-1]):
        with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
            go(step)
    with checkpointing(tmp_path / "run", every=0):
        found, rest = go()
    assert rest == [steps[-1]]
    assert all(same_reconstruction(*pair) for pair in zip(whole, found, strict=True))


class Opaque:
    """A setting without attributes that could be compared."""

    __slots__ = ("hidden",)

    def __call__(self, step, steps):
        return 1.0


def test_a_setting_without_a_digest_means_no_checkpoints_and_the_user_is_told(tmp_path, caplog):
    """If it fails, two searches that differ in such a setting share a file, or the attack fails."""
    with caplog.at_level(logging.WARNING, logger="gia"), checkpointing(tmp_path / "run", every=0, keep=True):
        run("inverting_gradients", steps=3, schedule=Opaque())
    assert list(tmp_path.iterdir()) == []
    assert "no checkpoints" in caplog.text
    assert "Opaque" in caplog.text


def test_a_digest_is_the_same_in_another_process():
    """If it fails, no killed search ever finds its file again."""
    code = (
        "import torch, gia, functools;"
        "from gia.attacks.identity import digest_of_values as d;"
        "g = torch.Generator().manual_seed(0);"
        "m = gia.models.build('resnet18', num_classes=3, image_size=8, width=2, generator=g);"
        "f = functools.partial(max, key={'b', 'a', 'c'}.__contains__) and functools.partial(sorted, frozenset('abc'));"
        "print(d(m, g, f, lambda x: x in {'u', 'v', 'w'}, gia.attacks.objectives.Cosine()))"
    )
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(gia.__file__).parents[1])}
        seen.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 16


def module(**changes):
    """A small module with a buffer, a child in a mode, and an attribute."""
    built = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(0.5)
    if "mode" in changes:
        built[1].eval()
    if "buffer" in changes:
        built[1].running_mean += 1
    if "attribute" in changes:
        built[1].momentum = 0.2
    if "hook" in changes:
        built[0].register_forward_hook(lambda *_: None)
    return built


@pytest.mark.parametrize("change", ["mode", "buffer", "attribute", "hook"])
def test_a_module_counts_by_all_that_its_output_depends_on(change):
    """If it fails, two victims share a checkpoint."""
    assert digest_of_values(module()) == digest_of_values(module())
    assert digest_of_values(module(**{change: True})) != digest_of_values(module())


def scaled(factor):
    """A function that has a value from outside."""
    return lambda value: factor * value


def test_a_function_counts_by_its_code_and_the_values_that_it_holds():
    """If it fails, a loss with another temperature goes on from the search with the first one."""
    assert digest_of_values(scaled(2)) == digest_of_values(scaled(2))
    assert len({digest_of_values(each) for each in (scaled(2), scaled(3), lambda value: value + 2, max)}) == 4


def test_values_in_a_circle_have_a_digest():
    """If it fails, a module that refers to itself ends in a recursion error."""
    circle = [1]
    circle.append(circle)
    assert digest_of_values(circle) == digest_of_values(circle)


def test_the_engine_that_was_chosen_is_kept():
    """If it fails, a choice by measured time may change at a kill, and the last bits with it."""
    model, (one, _), _ = victim("inverting_gradients")
    options = {"objective": gia.attacks.objectives.Cosine(), "loss": torch.nn.functional.cross_entropy}
    first, second = (gia.attacks.matching.Matching(model, [one, one], **options) for _ in range(2))
    first._engine._tried, first._engine._taps = True, None
    second.load_state_dict(first.state_dict())
    assert second._engine._taps is None
    assert second._engine._tried
