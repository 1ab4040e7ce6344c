"""Training a victim: it learns real faces, repeats bit for bit, and its cache never answers for something else."""

import copy
import importlib
import inspect
import math
import os
import re
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from gia import data, models
from gia.federated import training
from gia.federated.training import fit
from gia.models import cached_net


def generator(seed=0):
    """A new generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)


def made(count=12, classes=3, seed=0):
    """Random 4 px images in three classes."""
    return data.Images(
        images=torch.rand(count, 1, 4, 4, generator=generator(seed)),
        labels=torch.arange(count) % classes,
        source="made",
        licence="none",
        num_classes=classes,
    )


@pytest.fixture
def net():
    """A small network with BatchNorm, so that modes and buffers matter."""
    layers = {
        "conv1": nn.Conv2d(1, 2, 3, padding=1),
        "bn1": nn.BatchNorm2d(2),
        "relu": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(32, 3),
    }
    with torch.no_grad():
        for name in ("conv1", "fc"):
            for parameter in layers[name].parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator())
    return nn.Sequential(OrderedDict(layers))


def run(net, images=None, **settings):
    """A fit of three epochs."""
    given = {"epochs": 3, "batch_size": 4, "lr": 0.01, "generator": generator(1), "held_out": 0.25}
    return fit(net, images or made(), **(given | settings))


def same(first, second):
    """Whether two models hold the same tensors bit for bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_net_learns_forty_faces(seed):
    """If this fails, a "trained" victim has learned nothing: held-out accuracy here is 0.95-0.97, chance is 0.025."""
    faces = data.load("faces", image_size=16)
    victim = models.build("convnet", num_classes=40, image_size=16, channels=1, width=16, generator=generator(seed))
    victim = models.standardize(victim, mean=0.5, std=0.25)
    result = fit(victim, faces, epochs=20, batch_size=32, lr=2e-3, generator=generator(seed), checkpoints=(0,))
    assert result.accuracy >= 0.85
    assert len(result.held_out) == 80
    assert torch.equal(torch.bincount(faces.labels[result.held_out]), torch.full((40,), 2))
    test = faces.take(result.held_out)
    with torch.no_grad():
        assert float((result.model(test.images).argmax(1) == test.labels).double().mean()) == result.accuracy
        assert float((result.checkpoints[0](test.images).argmax(1) == test.labels).double().mean()) < 0.15


def test_plain_sgd_steps_are_those_of_the_textbook():
    """If this fails, a local step is not lr times the mean gradient (one full batch, no momentum, two epochs)."""
    images = made(8)
    victim = models.build("mlp", num_classes=3, image_size=4, channels=1, hidden=(), generator=generator())
    settings = {"epochs": 2, "batch_size": 8, "lr": 0.5, "optimizer": "sgd", "momentum": 0.0, "held_out": images}
    result = fit(victim, images, generator=generator(), **settings)
    weight, bias = (p.detach().clone() for p in victim.parameters())
    pixels, onehot = images.images.flatten(1), nn.functional.one_hot(images.labels, 3)
    for _ in range(2):
        error = (pixels @ weight.T + bias).softmax(1) - onehot
        weight, bias = weight - 0.5 * error.T @ pixels / 8, bias - 0.5 * error.mean(0)
    for trained, expected in zip(result.model.parameters(), (weight, bias), strict=True):
        assert torch.allclose(trained, expected, atol=1e-6)
    assert result.held_out is None


def test_adamw_takes_its_share_of_the_weights_apart_from_the_step():
    """One full batch: Adam's step without decay, less lr times decay of the old weights. If this fails, it is Adam."""
    images = made(8)
    victim = models.build("mlp", num_classes=3, image_size=4, channels=1, hidden=(), generator=generator())
    settings = {"epochs": 1, "batch_size": 8, "lr": 0.1, "held_out": images}
    plain = fit(victim, images, generator=generator(), **settings).model
    decayed = fit(victim, images, generator=generator(), optimizer="adamw", weight_decay=0.2, **settings).model
    for one, other, old in zip(plain.parameters(), decayed.parameters(), victim.parameters(), strict=True):
        torch.testing.assert_close(other, one - 0.1 * 0.2 * old)


@pytest.mark.parametrize("shape", [(1, 3), (4, 4, 4), (3, 2)], ids=str)
def test_outputs_that_are_no_logits_are_named(shape):
    """A token for each image, maps of logits, two vectors. If it fails, torch's words are all that a user reads, or
    labels are compared along another axis."""
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, math.prod(shape)), nn.Unflatten(1, shape))
    for call in (lambda: run(other), lambda: training.accuracy(other, made())):
        with pytest.raises(ValueError, match=r"model: expected logits \(N, classes\), got \(\d+, "):
            call()


def test_labels_without_a_logit_are_named():
    """If it fails, torch's words name neither the labels nor how many logits there are."""
    small = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match="labels: expected 0 to 1 for 2 logits, got 0 to 2"):
        run(small)


def test_the_model_given_and_the_global_state_are_left_alone(net):
    """If this fails, the "untrained" victim of a comparison has been trained."""
    before, state, images = copy.deepcopy(net), torch.get_rng_state(), made()
    pixels = images.images.clone()
    result = run(net, images)
    assert same(net, before)
    assert net.training
    assert not same(result.model, net)
    assert torch.equal(images.images, pixels)
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_generator_gives_the_same_victim_bit_for_bit(net):
    """If this fails, a block's victim cannot be made again."""
    assert same(run(net).model, run(net).model)
    assert not same(run(net).model, run(net, generator=generator(2)).model)


def test_its_repr_has_the_accuracy_and_no_tensor(net):
    """If this fails, a user sees the layers of every checkpoint, or not how good the victim is."""
    result = run(net, checkpoints=(0, 2))
    assert repr(result) == (
        f"Fit(Sequential with 123 parameters, accuracy {result.accuracy:.3f}, 3 images held out, "
        "checkpoints: 0, 2, trained)"
    )
    assert "held-out images given, checkpoints: none" in repr(run(net, held_out=made(3)))


def test_checkpoints_are_the_stages_of_one_training(net):
    """If this fails, "after two epochs" is another training than the final victim's, or is left in train mode."""
    result = run(net, checkpoints=(0, 2, 3))
    assert list(result.checkpoints) == [0, 2, 3]
    assert same(result.checkpoints[0], net)
    assert same(result.checkpoints[2], run(net, epochs=2).model)
    assert same(result.checkpoints[3], result.model)
    assert not any(model.training for model in (result.model, *result.checkpoints.values()))
    with torch.no_grad():
        next(result.checkpoints[3].parameters()).zero_()
    assert not same(result.checkpoints[3], result.model)


def test_no_batch_is_larger_than_asked_and_none_is_a_lone_leftover(net, monkeypatch):
    """If this fails, a last batch of one image gives BatchNorm nothing to normalize by, or images are left out."""
    sizes = []
    victim = copy.deepcopy(net)
    victim.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    run(victim, made(9), held_out=made(3, seed=5), epochs=2)
    assert sizes[:6] == [3, 3, 3] * 2


def test_held_out_images_are_not_trained_on(net):
    """If this fails, held-out accuracy is training accuracy: other pixels in held-out images must change nothing."""
    images = made(24)
    first = run(net, images)
    pixels = images.images.clone()
    pixels[first.held_out] = 0.5
    changed = data.Images(images=pixels, labels=images.labels, source="", licence="", num_classes=3)
    second = run(net, changed)
    assert torch.equal(first.held_out, second.held_out)
    assert torch.equal(torch.bincount(images.labels[first.held_out]), torch.tensor([2, 2, 2]))
    assert same(first.model, second.model)


def test_frozen_parameters_stay(net):
    """If this fails, fine-tuning a part of a victim trains all of it."""
    net.conv1.weight.requires_grad_(False)
    result = run(net)
    assert torch.equal(result.model.conv1.weight, net.conv1.weight)
    assert not torch.equal(result.model.fc.weight, net.fc.weight)


def test_a_second_fit_comes_from_the_cache_unchanged(net, tmp_path):
    """If this fails, victims are trained again each time, or a cached one differs from the trained one."""
    source, again = generator(1), generator(1)
    victim = models.standardize(net, mean=0.4, std=0.2)
    first = run(victim, cache=tmp_path, checkpoints=(1,), generator=source)
    second = run(victim, cache=str(tmp_path), checkpoints=(1,), generator=again)
    assert (first.cached, second.cached) == (False, True)
    assert same(first.model, second.model)
    assert same(first.checkpoints[1], second.checkpoints[1])
    assert first.accuracy == second.accuracy
    assert torch.equal(first.held_out, second.held_out)
    assert torch.equal(source.get_state(), again.get_state()), "the next draw may not depend on the cache"
    assert torch.equal(models.standardization(second.model)[0], torch.tensor([0.4]))
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"], "no partial file may stay"


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 4},
        {"batch_size": 3},
        {"lr": 0.02},
        {"held_out": 0.5},
        {"optimizer": "sgd"},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"checkpoints": (1,)},
        {"generator": generator(2)},
        {"images": made(seed=1)},
        {"images": made(classes=2)},
    ],
    ids=[
        "epochs",
        "batch_size",
        "lr",
        "share",
        "optimizer",
        "momentum",
        "weight_decay",
        "checkpoints",
        "seed",
        "pixels",
        "labels",
    ],
)
def test_the_cache_does_not_answer_for_another_setting_or_other_data(net, tmp_path, change):
    """If this fails, a stale victim hides a change: the worst bug that this project can have."""
    run(net, cache=tmp_path)
    assert not run(net, cache=tmp_path, **change).cached


@pytest.mark.parametrize("change", ["dtype", "standardization", "frozen", "activation", "buffer", "weight"])
def test_the_cache_does_not_answer_for_another_model(net, tmp_path, change):
    """If this fails, a victim with another input layer, activation or start is taken from the cache."""
    run(net, cache=tmp_path)
    other = copy.deepcopy(net)
    if change == "dtype":
        other.double()
    elif change == "standardization":
        other = models.standardize(other, mean=0.5, std=0.5)
        run(net=models.standardize(net, mean=0.4, std=0.5), cache=tmp_path)
    elif change == "frozen":
        other.conv1.weight.requires_grad_(False)
    elif change == "activation":
        other.relu = nn.Tanh()
    elif change == "buffer":
        other.bn1.running_mean.add_(1)
    else:
        other.fc.weight.data.add_(1e-3)
    assert not run(other, cache=tmp_path).cached


@pytest.mark.parametrize("room", ["federated", "models", "class"])
def test_the_cache_does_not_answer_after_the_code_has_changed(net, tmp_path, monkeypatch, room):
    """If this fails, an edit of the training loop or of a network goes unnoticed."""
    package = Path(training.__file__).parents[1]
    sources = cached_net._sources
    known = {
        "federated": package / "federated" / "training.py",
        "models": package / "models" / "standardization.py",
        "class": Path(inspect.getfile(nn.Conv2d)),
    }[room]
    run(net, cache=tmp_path)
    edited = tmp_path / "edited.py"
    edited.write_bytes(known.read_bytes() + b"# edited\n")
    os.utime(edited, (0, 0))  # before this process imported it
    monkeypatch.setattr(
        cached_net, "_sources", lambda *of: [edited if path == known else path for path in sources(*of)]
    )
    assert not run(net, cache=tmp_path).cached


def test_the_cache_does_not_answer_on_another_machine(net, tmp_path, monkeypatch):
    """If this fails, a victim trained by other arithmetic (torch version, processor, threads) is passed off as ours."""
    run(net, cache=tmp_path)
    monkeypatch.setattr(cached_net, "fingerprint", lambda: "000000000000")
    assert not run(net, cache=tmp_path).cached


def test_a_model_whose_source_cannot_be_read_is_not_cached(tmp_path):
    """If this fails, an edited class typed into a session is answered from the cache of its former self."""
    space = {}
    exec("from torch import nn\nclass Typed(nn.Sequential): pass", space)
    typed = space["Typed"](nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ValueError, match=r"cache: expected classes with a source file, got Typed, .* pass cache=None"):
        run(typed, cache=tmp_path)
    assert run(typed).cached is False


@pytest.fixture(scope="module")
def trained_elsewhere(tmp_path_factory):
    """A stored fit of other images."""
    folder = tmp_path_factory.mktemp("elsewhere")
    layers = OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(16, 3))
    run(nn.Sequential(layers), made(seed=7), cache=folder)
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("damage", ["truncated", "empty", "signs", "no checksum", "accuracy", "foreign", "text"])
def test_a_damaged_file_of_a_trained_net_is_noticed_and_replaced(net, tmp_path, trained_elsewhere, caplog, damage):
    """If this fails, a net with other weights is attacked, and the accuracy of the trained one is printed for it."""
    first = run(net, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage in ("signs", "no checksum", "accuracy"):
        with safe_open(path, "pt") as file:
            tensors, facts = {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118
        if damage == "signs":
            tensors = {name: -value for name, value in tensors.items()}
        elif damage == "accuracy":
            facts["facts"] = '{"accuracy": 0.99}'
        else:
            del facts["sha256"]
        save_file(tensors, path, metadata=facts)
    else:
        foreign = trained_elsewhere.read_bytes()
        path.write_bytes({"truncated": whole[:-1], "empty": b"", "foreign": foreign, "text": b"{" * 2000}[damage])
    again = run(net, cache=tmp_path)
    assert not again.cached
    assert same(first.model, again.model)
    (warning,) = caplog.messages
    assert warning.startswith(f"trained net {path.name} is damaged (")
    assert warning.endswith("); it is trained again")
    assert run(net, cache=tmp_path).cached


def test_only_the_user_can_read_a_trained_net(net, tmp_path):
    """If this fails, everybody in the group can read what was trained on private images."""
    before = os.umask(0)
    try:
        run(net, cache=tmp_path / "nets")
    finally:
        os.umask(before)
    (path,) = (tmp_path / "nets").iterdir()
    assert [each.stat().st_mode & 0o777 for each in (path.parent, path)] == [0o700, 0o600]


def test_the_key_of_a_process_whose_source_was_edited_is_its_own(tmp_path, monkeypatch):
    """If this fails, what the old code in memory trained is taken in a later run for a net of the edited code."""
    source = tmp_path / "gia_victim.py"
    source.write_text("from torch import nn\n\nclass Victim(nn.Sequential):\n    pass\n", encoding="utf-8")
    os.utime(source, (0, 0))
    monkeypatch.syspath_prepend(tmp_path)
    victim = importlib.import_module("gia_victim").Victim(nn.Linear(2, 1))
    data = {"images": torch.zeros(1, 2)}

    def in_two_processes():
        keys = []
        for process in (b"one", b"other"):
            monkeypatch.setattr(cached_net, "_PROCESS", process)
            keys.append(cached_net.key(victim, data, {}))
        return keys

    one, other = in_two_processes()
    assert one == other
    source.write_text(source.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    edited = in_two_processes()
    assert len({one, *edited}) == 3
    del sys.modules["gia_victim"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"lr": float("nan")}, "lr: expected a positive step size, got nan"),
        ({"optimizer": "lbfgs"}, "optimizer: expected one of ['adam', 'adamw', 'sgd'], got 'lbfgs'"),
        ({"checkpoints": (4,)}, "checkpoints: expected epochs from 0 to 3, got [4]"),
        ({"held_out": 1.0}, "held_out: expected Images or a share between 0 and 1, got 1.0"),
        ({"held_out": 0.01}, "held_out: expected a share that holds out an image, got 0.01 of 12 images"),
        (
            {"lr": 3e38, "optimizer": "sgd"},
            "lr: expected a step size that keeps weights finite, got 3e+38 (not finite after epoch 1)",
        ),
    ],
    ids=["epochs", "lr", "optimizer", "checkpoints", "share 1", "share 0", "divergence"],
)
def test_bad_arguments_are_named(net, change, message):
    """If this fails, a victim is trained otherwise than asked for, or holds NaNs."""
    with pytest.raises(ValueError, match=re.escape(message)):
        run(net, **change)
