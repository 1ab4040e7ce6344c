"""Searches that do not fit into memory: they go on with fewer trials at a time, and find the same."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

import gia
from gia.attacks import checkpointing
from gia.attacks.matching import Point
from gia.attacks.matching.memory import peak_bytes
from gia.attacks.matching.parts import Parts, is_out_of_memory
from gia.attacks.matching.plain import matching_gradient
from gia.attacks.objectives import Cosine
from gia.models.decoders import ClassDecoder
from tests.unit.attacks.killed_searches import Killed, killer


class Crowded(torch.nn.Module):
    """A victim whose graph fits into memory with `room` images at a time."""

    def __init__(self, room, error, net="mlp"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = (
            normalized(generator)
            if net == "normalized"
            else gia.models.build(net, num_classes=4, image_size=4, width=8, dtype=torch.float64, generator=generator)
        )
        self.room, self.error, self.most = room, error, 0

    def forward(self, images):
        """Logits."""
        if images.dim() == 4 and len(images) > self.room and torch.is_grad_enabled():
            raise self.error
        return self.net(images)


def normalized(generator):
    """A network whose batch statistics, in train mode, mix the images of a batch."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 4)
    ).double()
    for parameter in net.parameters():
        parameter.data.uniform_(-0.5, 0.5, generator=generator)
    return net


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


def attacked_batch(room, *, net="mlp", training=False, scale=1.0, labels=True, name="inverting_gradients", **settings):
    """What an attack finds for one client of five images on a victim with room for this many."""
    model = Crowded(100, ERRORS["cuda"], net)
    draw = torch.Generator().manual_seed(1)
    images, private = torch.rand(5, 3, 4, 4, generator=draw, dtype=torch.float64), torch.arange(5) % 4
    reveal = ("labels",) if labels else ()
    observation = gia.share_gradient(model, images, private, training=training, reveal=reveal)
    gradients = {key: gradient * scale for key, gradient in observation.gradients.items()}
    model.room = room
    return gia.attacks.ATTACKS[name](
        model,
        dataclasses.replace(observation, gradients=gradients),
        generator=torch.Generator().manual_seed(2),
        **{"steps": 8, **settings},
    )


@pytest.mark.parametrize(
    "case",
    [{}, {"net": "convnet"}, {"scale": 1e-200}, {"restarts": 2}, {"labels": False, "name": "dlg", "steps": 3}],
    ids=["mlp", "convnet", "tiny gradient", "restarts", "soft labels"],
)
def test_a_batch_that_does_not_fit_goes_on_in_parts_and_gives_the_same(case, caplog):
    """Five images, with room for three, then for two. If it fails, a GPU that is too small for one batch cannot run
    the attack, or the images of one part are moved without those of the others."""
    whole = attacked_batch(100, **case)
    for room in (3, 2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="gia.memory"):
            found = attacked_batch(room, **case)
        assert torch.allclose(whole.images, found.images, atol=1e-9)
        assert found.objective == pytest.approx(whole.objective, rel=1e-7)
        assert "a batch of 5 images is evaluated 3 at a time" in caplog.text
        assert ("images is evaluated 2 at a time" in caplog.text) == (room == 2)
        assert found.gradient_evaluations == whole.gradient_evaluations


def test_parts_of_a_batch_hold_less_memory():
    """Measured: 50.6 MB for 16 images at once, 22.7 for four at a time. If it fails, a split does not help."""
    seed = torch.Generator().manual_seed(0)
    model = gia.models.build("resnet18", num_classes=10, image_size=32, width=16, generator=seed).eval()
    images, labels = torch.rand(16, 3, 32, 32, generator=seed), torch.arange(16) % 10
    observed = gia.share_gradient(model, images, labels).gradients
    settings = {"objective": Cosine(), "loss": torch.nn.functional.cross_entropy, "local": None}

    def peak(at_once):
        return peak_bytes(lambda: matching_gradient(model, observed, images, labels, at_once=at_once, **settings))

    assert peak(4) < peak(8) < peak(None)
    assert peak(4) < 0.5 * peak(None)


def test_a_batch_whose_images_are_mixed_is_not_split():
    """By batch statistics. If it fails, the search follows the gradient of another batch than the client's."""
    assert len(attacked_batch(100, net="normalized", training=True, steps=1).images) == 5
    with pytest.raises(torch.OutOfMemoryError):
        attacked_batch(4, net="normalized", training=True)
    assert len(attacked_batch(4, net="normalized", steps=1).images) == 5


def test_a_resumed_search_keeps_the_parts_of_its_batch(tmp_path, caplog):
    """If it fails, sums of other parts round otherwise, and the resumed search is not the same to the last bit."""
    whole = attacked_batch(3)
    with pytest.raises(Killed), checkpointing(tmp_path / "run", every=0):
        attacked_batch(3, callback=killer(4))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="gia.memory"), checkpointing(tmp_path / "run", every=0):
        found = attacked_batch(3)
    assert caplog.text == ""
    assert torch.equal(whole.images, found.images)


def test_candidates_of_a_latent_search_are_evaluated_in_parts(caplog):
    """If it fails, only searches that follow a gradient survive a lack of memory."""
    decoder = ClassDecoder(image_shape=(3, 4, 4), num_classes=4, latent=4, width=8).double()
    whole = attacked_batch(100, name="ggl", steps=6, population=4, decoder=decoder)
    with caplog.at_level(logging.WARNING, logger="gia.memory"):
        found = attacked_batch(2, name="ggl", steps=6, population=4, decoder=decoder)
    assert "images is evaluated 2 at a time" in caplog.text
    assert torch.allclose(whole.images, found.images, atol=1e-9)


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
