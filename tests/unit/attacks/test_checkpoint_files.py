"""The files of checkpoints: which search each belongs to, when one is written, and what happens to a broken one."""

from __future__ import annotations

import logging
import os
import stat

import pytest
import torch

import gia
from gia.attacks import checkpointing
from gia.numerics.checkpoints import checkpoints_of
from tests.contracts.cases import CASES, build
from tests.unit.attacks.killed_searches import SETTINGS, Killed, killed_at, killer, run, same, seeded, victim


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:],
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
