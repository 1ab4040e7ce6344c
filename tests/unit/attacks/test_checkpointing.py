"""Checkpoints of searches: a killed search goes on with the same bits."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch

import gia
from gia.attacks import CARDS, checkpointing
from gia.attacks.matching import Adam, Interrupted, Point, minimize
from gia.attacks.trials import Card, attack
from gia.numerics.checkpoints import Checkpoint, checkpoints_of
from tests.contracts.fresh import Logistic
from tests.contracts.snapshots import same_reconstruction
from tests.unit.attacks.killed import KILLS, search
from tests.unit.attacks.killed_searches import SETTINGS, Killed, killer, run, same, seeded, victim

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


def test_the_engine_that_was_chosen_is_kept():
    """If it fails, a choice by measured time may change at a kill, and the last bits with it."""
    model, (one, _), _ = victim("inverting_gradients")
    options = {"objective": gia.attacks.objectives.Cosine(), "loss": torch.nn.functional.cross_entropy}
    first, second = (gia.attacks.matching.Matching(model, [one, one], **options) for _ in range(2))
    first._engine._tried, first._engine._taps = True, None
    second.load_state_dict(first.state_dict())
    assert second._engine._taps is None
    assert second._engine._tried
