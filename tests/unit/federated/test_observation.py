"""The observation: a detached copy of what leaked, held to the model, and the same again from a file."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from gia import LocalTraining, Observation
from tests.contracts.snapshots import observation_state
from tests.malformed import changed_safetensors

LOCAL = LocalTraining(epochs=2, batch_size=3, lr=0.1, momentum=0.5)


def network(dtype=torch.float32):
    """A convolution, a batch normalization and a linear layer."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).to(dtype)


def gradients(model, seed=0):
    """Random tensors in the place of gradients."""
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=g).to(p.dtype) for name, p in model.named_parameters()}


def observed(model, **changes):
    """An observation of two images of 3 x 4 x 4."""
    return Observation(**{"gradients": gradients(model), "image_shape": (3, 4, 4), "batch_size": 2, **changes})


def test_it_holds_detached_copies_of_everything():
    """If it fails, an attack reaches into the client's tensors, or the client changes what was already sent."""
    model = network()
    given_, labels = gradients(model), torch.tensor([1, 3])
    statistics = {"1": (torch.zeros(4, requires_grad=True), torch.ones(4))}
    for value in given_.values():
        value.requires_grad_()
    observation = observed(model, gradients=given_, labels=labels, batch_norm=statistics)
    held = [*observation.gradients.values(), *observation.batch_norm["1"], observation.labels]
    assert not any(value.requires_grad for value in held)
    before = observation_state(observation)
    with torch.no_grad():
        for value in (*given_.values(), labels, *statistics["1"]):
            value.fill_(7)
    given_.clear()
    statistics.clear()
    assert observation_state(observation) == before


def test_labels_come_sorted():
    """If it fails, the order of the labels tells an attacker which image is which."""
    assert observed(network(), batch_size=4, labels=torch.tensor([4, 0, 2, 0])).labels.tolist() == [0, 0, 2, 4]


def test_it_cannot_be_reassigned_and_is_compared_by_identity():
    """If it fails, an attack can overwrite what was observed, or comparing two of them compares tensors."""
    one, other = observed(network()), observed(network())
    with pytest.raises(FrozenInstanceError):
        one.batch_size = 3
    assert one in [one]
    assert one not in [other]


def test_nothing_optional_is_known_by_default():
    """If it fails, the threat model is stronger than it says."""
    observation = observed(network())
    optional = ("labels", "local", "batch_norm", "trainable")
    assert [getattr(observation, name) for name in optional] == [None] * 4
    assert observation.training is False


def test_its_repr_says_what_is_known_on_one_line():
    """If it fails, a user sees tensors by the page, or not what leaked."""
    assert repr(observed(network())) == (
        "Observation(6 tensors with 205 entries in float32, 2 images of 3x4x4, eval mode, known: nothing more)"
    )
    assert repr(observed(network(), training=True, local=LOCAL)).endswith("train mode, known: local)")
    assert repr(LOCAL) == "LocalTraining(epochs=2, batch_size=3, lr=0.1, momentum=0.5)"


BAD = {
    "no gradients": ({"gradients": {}}, ValueError, "gradients: expected at least one"),
    "gradients in a list": ({"gradients": [torch.zeros(2)]}, TypeError, "gradients: expected a mapping"),
    "a list": ({"gradients": {"w": [0.0, 1.0]}}, TypeError, r"gradients\['w'\]: expected a tensor or a NumPy array"),
    "an array of objects": ({"gradients": {"w": np.array([{}])}}, TypeError, r"gradients\['w'\]: expected an array of"),
    "integers": (
        {"gradients": {"w": torch.zeros(2, dtype=torch.int64)}},
        ValueError,
        r"gradients\['w'\]: expected float16, bfloat16, float32 or float64",
    ),
    "eight bits": (
        {"gradients": {"w": torch.zeros(2).to(torch.float8_e4m3fn)}},
        ValueError,
        r"gradients\['w'\]: expected float16, bfloat16, float32 or float64, got torch.float8_e4m3fn",
    ),
    "NaN": (
        {"gradients": {"w": torch.tensor([0, torch.nan])}},
        ValueError,
        r"gradients\['w'\]: expected finite values",
    ),
    "infinity": (
        {"gradients": {"w": torch.tensor([torch.inf])}},
        ValueError,
        r"gradients\['w'\]: expected finite values",
    ),
    "flat images": ({"image_shape": (4, 4)}, ValueError, "image_shape: expected"),
    "images of no width": ({"image_shape": (3, 4, 0)}, ValueError, "image_shape: expected at least 1, got 0"),
    "half pixels": ({"image_shape": (3, 4, 4.5)}, TypeError, "image_shape: expected a whole number, got 4.5"),
    "no images": ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    "half images": ({"batch_size": 1.5}, TypeError, "batch_size: expected a whole number, got 1.5"),
    "too few labels": ({"labels": torch.tensor([1])}, ValueError, r"labels: expected \(2,\) of int64, got"),
    "labels of another integer": (
        {"labels": torch.tensor([1, 2]).int()},
        ValueError,
        r"labels: expected \(2,\) of int64",
    ),
    "too few targets": ({"labels": torch.tensor([1.0])}, ValueError, r"labels: expected \(2, ...\) targets, got"),
    "a word for training": ({"training": "false"}, TypeError, "training: expected True or False, got 'false'"),
    "a word for trainable": (
        {"trainable": "w"},
        TypeError,
        "trainable: expected a sequence of parameter names, got 'w'",
    ),
    "a negative label": (
        {"labels": torch.tensor([-1, 2])},
        ValueError,
        "labels: expected class indices from 0, got -1",
    ),
    "labels in a list": ({"labels": [1, 2]}, TypeError, "labels: expected a tensor or a NumPy array, got list"),
    "a dict for local": ({"local": {"epochs": 1}}, TypeError, "local: expected a LocalTraining, got dict"),
    "negative variances": (
        {"batch_norm": {"1": (torch.zeros(4), -torch.ones(4))}},
        ValueError,
        r"batch_norm\['1'\]: expected a variance of at least 0, got -1",
    ),
    "NaN statistics": (
        {"batch_norm": {"1": (torch.zeros(4), torch.full((4,), torch.nan))}},
        ValueError,
        r"batch_norm\['1'\]: expected finite values",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_field_that_makes_no_sense_is_named(kind):
    """If it fails, a broken capture is found only when an attack has already run on it."""
    changes, error, message = BAD[kind]
    with pytest.raises(error, match=message):
        observed(network(), **changes)


def test_large_entries_are_not_taken_for_infinite_ones():
    """If it fails, a finite gradient whose sum is beyond float32 is refused."""
    model = network()
    gradients = {name: torch.full_like(value, 3e38) for name, value in model.named_parameters()}
    assert observed(model, gradients=gradients).gradients.keys() == gradients.keys()


BAD_LOCAL = {
    "no epochs": ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
    "half an epoch": ({"epochs": 0.5}, TypeError, "epochs: expected a whole number, got 0.5"),
    "no images": ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    "no step": ({"lr": 0.0}, ValueError, "lr: expected a positive finite step size, got 0"),
    "a NaN step": ({"lr": float("nan")}, ValueError, "lr: expected a positive finite"),
    "a step that no float can hold": ({"lr": 10**400}, ValueError, "lr: expected a positive finite"),
    "an endless step": ({"lr": float("inf")}, ValueError, "lr: expected a positive finite"),
    "momentum 1": ({"momentum": 1.0}, ValueError, r"momentum: expected \[0, 1\), got 1.0"),
    "negative momentum": ({"momentum": -0.1}, ValueError, r"momentum: expected \[0, 1\), got -0.1"),
}


@pytest.mark.parametrize("kind", BAD_LOCAL)
def test_local_training_that_makes_no_sense_is_named(kind):
    """If it fails, a simulation of local training runs on numbers that no client could have used."""
    changes, error, message = BAD_LOCAL[kind]
    with pytest.raises(error, match=message):
        LocalTraining(**{"epochs": 1, "batch_size": 2, "lr": 0.1, **changes})


@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    labels=st.none() | st.lists(st.integers(0, 4), min_size=2, max_size=2).map(torch.tensor),
    local=st.none()
    | st.builds(
        LocalTraining,
        epochs=st.integers(1, 9),
        batch_size=st.integers(1, 9),
        lr=st.floats(1e-9, 1e9, exclude_min=True),
        momentum=st.floats(0, 0.99),
    ),
    statistics=st.none() | st.sampled_from([{}, {"1": (torch.rand(4), torch.rand(4))}]),
    names=st.none() | st.permutations(list(dict(network().named_parameters()))).map(lambda names: tuple(names[:3])),
    training=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_file_brings_back_the_same_observation(tmp_path_factory, dtype, labels, local, statistics, names, training):
    """If it fails, an attack on a saved observation is an attack on something else."""
    model = network(dtype)
    shared = gradients(model) if names is None else {name: gradients(model)[name] for name in names}
    observation = observed(
        model,
        gradients=shared,
        labels=labels,
        local=local,
        batch_norm=statistics,
        trainable=names,
        training=training,
    )
    path = tmp_path_factory.mktemp("observation") / "it.safetensors"
    observation.save(path)
    loaded = Observation.load(path)
    assert observation_state(loaded) == observation_state(observation)
    assert list(loaded.gradients) == list(observation.gradients)


def test_strides_survive_a_file(tmp_path):
    """If it fails, sums over a gradient captured with channels last run in another order after loading, and the attack
    gives other bits."""
    shared = gradients(network())
    shared["0.weight"] = shared["0.weight"].to(memory_format=torch.channels_last)
    observation = observed(network(), gradients=shared)
    observation.save(tmp_path / "it.safetensors")
    assert observation_state(Observation.load(tmp_path / "it.safetensors")) == observation_state(observation)


def test_a_failed_save_leaves_the_older_file(tmp_path, monkeypatch):
    """If it fails, a full disk destroys the observation that was saved before."""

    def fails(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    path = tmp_path / "it.safetensors"
    first = observed(network())
    first.save(path)
    monkeypatch.setattr("gia.federated.observation.save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        observed(network(), batch_size=3).save(path)
    assert observation_state(Observation.load(path)) == observation_state(first)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_an_observation_is_refused(tmp_path):
    """If it fails, a file of weights is read as a gradient."""
    save_file(gradients(network()), tmp_path / "weights.safetensors")
    with pytest.raises(
        ValueError, match=r"path: expected .*gia.Observation/1.*, got .*weights.safetensors; .*from_tensors"
    ):
        Observation.load(tmp_path / "weights.safetensors")


def test_it_moves_as_a_whole():
    """If it fails, labels or statistics stay behind on another device."""
    observation = observed(network(), labels=torch.tensor([1, 3]), batch_norm={"1": (torch.zeros(4), torch.ones(4))})
    assert observation_state(observation.to("cpu")) == observation_state(observation)
    assert observation.to(torch.device("cpu")) is not observation


def test_captured_tensors_enter_by_name_or_in_order():
    """If it fails, a user's own gradient is assigned to the wrong parameters."""
    model = network()
    named = gradients(model)
    facts = {"image_shape": (3, 4, 4), "batch_size": 2}
    by_name = Observation.from_tensors(model, dict(reversed(named.items())), **facts)
    by_order = Observation.from_tensors(model, list(named.values()), labels=torch.tensor([4, 1]), **facts)
    for observation in (by_name, by_order):
        assert observation.trainable is None
        assert all(observation.gradients[name].equal(value) for name, value in named.items())
    assert by_order.labels.tolist() == [1, 4]


def test_captured_tensors_of_some_parameters_say_which():
    """If it fails, an attack takes the frozen parameters for missing ones, or a list is read in another order."""
    model = network()
    facts = {"image_shape": (3, 4, 4), "batch_size": 2}
    chosen = ("3.bias", "0.bias")
    listed = Observation.from_tensors(model, [gradients(model)[n] for n in chosen], trainable=chosen, **facts)
    assert listed.trainable == chosen
    assert listed.gradients["0.bias"].equal(gradients(model)["0.bias"])
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    rest = {name: value for name, value in gradients(model).items() if not name.startswith("0.")}
    for tensors in (rest, list(rest.values())):
        assert Observation.from_tensors(model, tensors, **facts).trainable == tuple(rest)
    with pytest.raises(ValueError, match=r"gradients: expected the trainable parameters .* got '0.weight' too"):
        Observation.from_tensors(model, gradients(model), **facts)


def test_captured_tensors_must_fit():
    """If it fails, one tensor too few shifts all the others to their neighbours' names."""
    model = network()
    facts = {"image_shape": (3, 4, 4), "batch_size": 2}
    tensors = list(gradients(model).values())
    with pytest.raises(
        ValueError, match=r"tensors: expected 6, one per shared parameter, or 9 with buffers, .*, got 5"
    ):
        Observation.from_tensors(model, tensors[1:], **facts)
    with pytest.raises(ValueError, match=r"gradients\['0.weight'\]: .* shape \(4, 3, 3, 3\), got \(5,\)"):
        Observation.from_tensors(model, tensors[::-1], **facts)
    with pytest.raises(ValueError, match=r"gradients\['0.weight'\]: .* dtype torch.float32, got torch.float64"):
        Observation.from_tensors(model, [tensor.double() for tensor in tensors], **facts)
    with pytest.raises(ValueError, match=r"gradients: expected parameters of the model, '0.weight'.* got '4.weight'"):
        Observation.from_tensors(model, tensors, trainable=[*list(gradients(model))[:5], "4.weight"], **facts)


def test_leaked_statistics_are_held_to_the_model():
    """If it fails, statistics of another layer steer a prior."""
    model = network()
    observation = observed(model, batch_norm={"1": (torch.zeros(4), torch.ones(4))})
    observation.check(model)
    with pytest.raises(ValueError, match="batch_norm: expected batch normalizations '1', got '0'"):
        replace(observation, batch_norm={"0": (torch.zeros(4), torch.ones(4))}).check(model)
    with pytest.raises(ValueError, match=r"batch_norm\['1'\]: expected a mean and a variance \(4,\), got"):
        replace(observation, batch_norm={"1": (torch.zeros(4), torch.ones(3))}).check(model)


FORMS = {
    "arrays": lambda model, given: [value.numpy() for value in given.values()],
    "arrays in a state_dict's order": lambda model, given: [v.numpy() for v in whole(model, given).values()],
    "a state_dict": lambda model, given: whole(model, given),
    "a generator": lambda model, given: iter(given.values()),
    "sparse": lambda model, given: [value.to_sparse() for value in given.values()],
}


def whole(model, given):
    """Gradients in the form of a state_dict, with something in the place of buffers."""
    return {name: given.get(name, value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("form", FORMS)
def test_captured_gradients_are_taken_in_every_form(form):
    """What frameworks hand over. If it fails, a buffer is taken for a gradient, or torch's words end the capture."""
    model = network()
    given = gradients(model)
    facts = {"image_shape": (3, 4, 4), "batch_size": 2}
    taken = Observation.from_tensors(model, FORMS[form](model, given), **facts).gradients
    assert list(taken) == list(given)
    assert all(torch.equal(taken[name], value) for name, value in given.items())


def test_whole_numbers_of_numpy_are_taken():
    """If it fails, what a NumPy loop counts is no number; a truth value is none."""
    assert observed(network(), batch_size=np.int64(2), labels=np.array([3, 1])).labels.tolist() == [1, 3]
    assert LocalTraining(epochs=np.int32(1), batch_size=np.int64(2), lr=0.1).batch_size == 2
    with pytest.raises(TypeError, match="batch_size: expected a whole number, got True"):
        observed(network(), batch_size=True)


def test_targets_come_sorted_row_by_row(tmp_path):
    """If it fails, the order of a regression's targets says which image had which."""
    targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    observation = observed(network(), labels=targets)
    assert observation.labels.tolist() == [[0.0, 2.0], [1.0, 0.0]]
    observation.save(tmp_path / "file")
    assert Observation.load(tmp_path / "file").labels.tolist() == [[0.0, 2.0], [1.0, 0.0]]


def stored(folder):
    """The bytes of a file with every optional field."""
    model = network()
    statistics = {"1": (torch.zeros(4), torch.ones(4))}
    local = LocalTraining(epochs=1, batch_size=1, lr=0.1)
    known = {"labels": torch.tensor([1, 0]), "local": local, "trainable": tuple(gradients(model))}
    observed(model, batch_norm=statistics, **known).save(folder / "file")
    return (folder / "file").read_bytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_changed_is_a_value_error_or_loads(data, tmp_path):
    """If it fails, a damaged or forged file ends in an error of some library, or is read as something else."""
    (tmp_path / "changed").write_bytes(data.draw(changed_safetensors(stored(tmp_path), "gia")))
    try:
        read = Observation.load(tmp_path / "changed")
    except ValueError:
        return
    assert isinstance(read.training, bool)
    read.save(tmp_path / "again")
    assert observation_state(Observation.load(tmp_path / "again")) == observation_state(read)
