"""Searches that do not fit into memory: they go on with fewer trials at a time, and find the same."""

from __future__ import annotations

import logging

import pytest
import torch

import gia
from gia.attacks import checkpointing
from gia.attacks.matching import Point
from gia.attacks.matching.parts import Parts, is_out_of_memory
from tests.unit.attacks.killed_searches import Killed, killer


class Crowded(torch.nn.Module):
    """A victim that fits into memory with `room` images at a time."""

    def __init__(self, room, error):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = gia.models.build(
            "mlp", num_classes=4, image_size=4, width=8, dtype=torch.float64, generator=generator
        )
        self.room, self.error, self.most = room, error, 0

    def forward(self, images):
        """Logits."""
        if images.dim() == 4 and len(images) > self.room:
            raise self.error
        return self.net(images)


ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


def attacked(room, error=ERRORS["cuda"], name="inverting_gradients", **settings):
    """What an attack finds for six clients of one image on a victim with room for this many images."""
    model = Crowded(room, error).double()
    draw = torch.Generator().manual_seed(1)
    images, labels = torch.rand(6, 1, 3, 4, 4, generator=draw, dtype=torch.float64), torch.arange(6)[:, None] % 4
    model.room = 100
    observations = [
        gia.share_gradient(model, image, label, reveal=("labels",)) for image, label in zip(images, labels, strict=True)
    ]
    model.room = room
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    return gia.attacks.run_many(name, model, observations, generators=generators, **{"steps": 12, **settings})


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("room", [5, 2])
def test_a_search_that_does_not_fit_goes_on_in_parts_and_finds_the_same(room, error, caplog):
    """If it fails, a run of two days ends at its largest batch, or its split changes what is found."""
    whole = attacked(100)
    with caplog.at_level(logging.WARNING, logger="gia.memory"):
        found = attacked(room, error)
    for one, other in zip(whole, found, strict=True):
        assert torch.allclose(one.images, other.images, atol=1e-9)
        assert one.objective == pytest.approx(other.objective, rel=1e-9)
    assert "a search of 6 trials evaluates 3 at a time" in caplog.text
    assert ("evaluates 1 at a time" in caplog.text) == (room == 2)


def test_a_search_of_a_decoder_goes_on_in_parts(caplog):
    """If it fails, only attacks on pixels survive a lack of memory."""
    whole = attacked(100, name="ci_net", steps=3)
    with caplog.at_level(logging.WARNING, logger="gia.memory"):
        found = attacked(4, name="ci_net", steps=3)
    assert "3 at a time" in caplog.text
    for one, other in zip(whole, found, strict=True):
        assert torch.allclose(one.images, other.images, atol=1e-9)


def test_a_resumed_search_keeps_its_parts(tmp_path, caplog):
    """If it fails, batches of another size round otherwise, and the resumed search is not the same to the last bit."""
    whole = attacked(4)
    with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
        attacked(4, callback=killer(6))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="gia.memory"), checkpointing(tmp_path / "run", every=0):
        found = attacked(4)
    assert caplog.text == ""
    assert all(torch.equal(one.images, other.images) for one, other in zip(whole, found, strict=True))


def test_another_error_is_no_lack_of_memory():
    """If it fails, a bug in a victim is taken for a lack of memory and tried again."""
    calls = []

    def broken(variables, trials):
        calls.append(trials)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Parts(broken, together=1)([torch.zeros(4, 1)], slice(None))
    assert calls == [slice(None)]
    assert not is_out_of_memory(ValueError("out of memory"))


def test_neighbours_that_depend_on_each_other_stay_in_one_part():
    """If it fails, seeds that pull each other are evaluated without each other."""
    seen = []

    def evaluate(variables, trials):
        seen.append(trials)
        if len(variables[0]) > 5:
            raise MemoryError
        return Point(variables[0].sum(1), [variables[0]], variables[0].sum(1))

    variables = [torch.arange(18.0).view(9, 2)]
    point = Parts(evaluate, together=3)(variables, slice(None))
    assert seen == [slice(None), slice(0, 3), slice(3, 6), slice(6, 9)]
    assert torch.equal(point.values, variables[0].sum(1))
    assert torch.equal(point.gradients[0], variables[0])
    assert torch.equal(point.data, point.values)


def test_a_part_of_some_trials_names_the_trials_of_the_search():
    """If it fails, the images of one trial are compared with the gradient of another one."""
    seen = []

    def evaluate(variables, trials):
        seen.append(trials)
        if len(variables[0]) > 1:
            raise MemoryError
        return Point(variables[0].sum(1), [])

    Parts(evaluate, together=1)([torch.zeros(2, 1)], slice(4, 6))
    assert seen[1:] == [slice(4, 5), slice(5, 6)]


def test_one_trial_that_does_not_fit_is_an_error():
    """If it fails, a search that can never fit tries for ever."""
    asked = []

    def evaluate(variables, trials):
        asked.append(len(variables[0]))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Parts(evaluate, together=1)([torch.zeros(5, 1)], slice(None))
    assert asked == [5, 2, 1]
