"""A model as a client runs it: no random numbers, one tensor of outputs, initialized parameters, any loss."""

from __future__ import annotations

import copy
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import gia
from gia.federated.layers import set_mode
from gia.federated.victims import victim_of

IMAGES, LABELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 8])


class Attention(nn.Module):
    """Self-attention that applies dropout itself."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.2, batch_first=True)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).mT
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    """A GRU that applies dropout itself."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(48, 16, batch_first=True, num_layers=2, dropout=0.3), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.gru(x.transpose(1, 2).flatten(2))[0][:, -1])


class Dropping(nn.Module):
    """A convolution and whatever drops parts of its output."""

    def __init__(self, drop):
        super().__init__()
        self.conv, self.norm, self.head, self.drop = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Linear(128, 10), drop

    def forward(self, x):
        hidden = self.norm(self.conv(x)).sigmoid()
        hidden = self.drop(hidden) if isinstance(self.drop, nn.Module) else self.drop(self, hidden)
        return self.head(hidden.flatten(1))


def by_python(module, hidden):
    """Stochastic depth as some networks write it, by Python's and NumPy's generators."""
    kept = random.random() + np.random.rand() if module.training else 1.0  # noqa: NPY002
    return hidden * kept


RANDOM = {
    "attention": Attention,
    "recurrent": Recurrent,
    "functional dropout": lambda: Dropping(lambda module, hidden: F.dropout(hidden, 0.5, module.training)),
    "stochastic depth": lambda: Dropping(torchvision.ops.StochasticDepth(0.5, "row")),
    "Python's and NumPy's generators": lambda: Dropping(by_python),
}


def global_states():
    """The global random states of torch, NumPy and Python."""
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("kind", RANDOM)
def test_a_client_s_answer_draws_no_random_numbers(kind):
    """If it fails, no attacker can repeat the client's gradient, and one seed gives two attacks."""
    model = RANDOM[kind]()
    before = global_states()
    client = gia.federated.Client(IMAGES, LABELS, reveal=("labels",), training=True)
    first, second = client.answer(model), client.answer(model)
    assert all(torch.equal(value, second.gradients[name]) for name, value in first.gradients.items())
    found = [
        gia.attacks.inverting_gradients(model, first, generator=torch.Generator().manual_seed(0), steps=2).images
        for _ in range(2)
    ]
    assert torch.equal(*found)
    assert global_states() == before
    assert all(module.training for module in model.modules())


def test_only_the_modules_that_draw_leave_train_mode():
    """If it fails, batch normalization uses other statistics than the client's."""
    victim = victim_of(RANDOM["functional dropout"](), True)
    victim(IMAGES)
    assert not victim.training
    assert victim.norm.training


def test_random_numbers_in_evaluation_mode_are_refused_with_the_module_s_name():
    """`F.dropout(x)` without `self.training` is a known mistake; it cannot be switched off."""
    model = nn.Sequential(nn.Flatten(), Always(768, 10))
    with pytest.raises(ValueError, match=r"drawn in evaluation mode by 1 \(Always\)"):
        gia.share_gradient(model, IMAGES, LABELS)


OWN, OWN_OF_NUMPY = torch.Generator().manual_seed(0), np.random.default_rng(0)

#: Sources of random numbers whose state is not one of the global ones.
OF_ITS_OWN = {
    "a torch generator": lambda module, hidden: hidden * torch.rand(hidden.shape, generator=OWN),
    "a NumPy generator": lambda module, hidden: hidden * OWN_OF_NUMPY.random(),
    "the system": lambda module, hidden: hidden * (1 + int.from_bytes(os.urandom(4), "little") / 2**32),
}


@pytest.mark.parametrize("kind", OF_ITS_OWN)
def test_a_victim_that_draws_from_a_source_of_its_own_is_refused(kind):
    """If it fails, one client gives two answers, one seed gives two attacks, and no search can match a gradient."""
    observation = gia.share_gradient(Dropping(lambda _, hidden: hidden), IMAGES, LABELS, reveal=("labels",))
    model = Dropping(OF_ITS_OWN[kind])
    for name in ("share_gradient", "share_update", "a search"):
        with pytest.raises(ValueError, match="expected a forward pass without random numbers, got other outputs from"):
            everybody(model, observation)[name]()


class Normalized(nn.Module):
    """Has what is not random and may look so: moving statistics, singular vectors, a buffer that counts, and NaN."""

    def __init__(self, rate=0.0):
        super().__init__()
        self.conv, self.head = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 4, 4)), nn.Linear(128, 10)
        self.norm, self.rate = nn.BatchNorm2d(8), rate
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes = self.passes + 1
        hidden = F.dropout(self.norm(self.conv(x)).sigmoid(), self.rate, self.training and self.rate > 0)
        logits = self.head(hidden.flatten(1)) * self.passes
        return torch.where(torch.arange(10) == 9, torch.nan, logits)


def test_the_repeated_pass_changes_nothing_and_nobody_sees_it():
    """If it fails, running statistics move twice, hooks record two passes, or moving buffers are taken for noise."""
    model = Normalized()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain, victim, seen = set_mode(copy.deepcopy(model), True), victim_of(model, True), []
    victim.norm.register_forward_hook(lambda *_: seen.append(1))
    expected, outputs = plain(IMAGES), victim(IMAGES)
    assert torch.allclose(outputs, expected, rtol=0, atol=0, equal_nan=True)
    assert seen == [1]
    for name, value in plain.state_dict().items():
        assert victim.state_dict()[name].equal(value), name
    outputs[:, :9].sum().backward()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    victim(IMAGES)
    assert seen == [1, 1]
    victim_of(Normalized(rate=0.5), True)(IMAGES)  # for which more passes are made


class Always(nn.Linear):
    """Drops in both modes."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.5)


class Returning(nn.Module):
    """A linear model that wraps its logits."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


WRAPPED = {
    "an object": lambda z: SimpleNamespace(logits=z),
    "a tuple": lambda z: (z, z * 2),
    "a dict": lambda z: {"loss": None, "logits": z},
    "(N, K, 1, 1)": lambda z: z[:, :, None, None],
}


def everybody(model, observation):
    """Whoever runs a user's model, by name."""
    local = gia.LocalTraining(epochs=1, batch_size=1, lr=0.1)
    seed = torch.Generator().manual_seed(0)
    return {
        "share_gradient": lambda: gia.share_gradient(model, IMAGES, LABELS),
        "share_update": lambda: gia.share_update(model, IMAGES, LABELS, local=local),
        "validate_model": lambda: gia.validate_model(model, batch=(IMAGES, LABELS)),
        "a search": lambda: gia.attacks.inverting_gradients(model, observation, generator=seed, steps=1),
        "a closed form": lambda: gia.attacks.linear_layer(model, observation, generator=seed),
        "restore": lambda: gia.attacks.labels.restore(model, observation, rule="counts"),
    }


@pytest.mark.parametrize("kind", WRAPPED)
def test_logits_are_taken_out_of_what_a_model_returns(kind):
    """If it fails, models of common libraries end in an AttributeError."""
    model, plain = Returning(WRAPPED[kind]), Returning(lambda z: z)
    model.load_state_dict(plain.state_dict())
    observation = gia.share_gradient(plain, IMAGES, LABELS, reveal=("labels",))
    shared = gia.share_gradient(model, IMAGES, LABELS).gradients
    assert all(torch.equal(value, shared[name]) for name, value in observation.gradients.items())
    for call in everybody(model, observation).values():
        call()


OTHERS = {
    "a word": lambda z: "cat",
    "an empty list": lambda z: [],
    "a dict without logits": lambda z: {"out": z},
    "a map": lambda z: z[:, :, None] + z[0],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_outputs_are_named_alike_by_everybody(kind):
    """If it fails, one of them dies of torch's words, or checks labels along another axis."""
    plain = Returning(lambda z: z)
    observation = gia.share_gradient(plain, IMAGES, LABELS, reveal=("labels",))
    plain.wrap = OTHERS[kind]
    for call in everybody(plain, observation).values():
        with pytest.raises(ValueError, match=r"model: expected logits \(N, classes\)"):
            call()


def test_lazy_parameters_are_refused_by_everybody():
    """If it fails, a client answers for a net that nobody else has."""
    observation = gia.share_gradient(Returning(lambda z: z), IMAGES, LABELS, reveal=("labels",))
    for call in everybody(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), observation).values():
        with pytest.raises(ValueError, match=r"model: expected initialized parameters, got the lazy '1\.weight'"):
            call()


def test_inference_mode_changes_nothing():
    """If it fails, a caller's mode, or a model or images made under it, ends in torch's words about autograd."""
    model = Returning(lambda z: z)
    observation = gia.share_gradient(model, IMAGES, LABELS, reveal=("labels",))
    with torch.inference_mode():
        made = IMAGES * 1
        built = Returning(lambda z: z)
        built.load_state_dict(model.state_dict())
        inside = gia.share_gradient(model, made, LABELS, reveal=("labels",))
        for call in (*everybody(model, inside).values(), *everybody(built, inside).values()):
            call()
    for call in everybody(built, observation).values():
        call()
    assert all(torch.equal(value, inside.gradients[name]) for name, value in observation.gradients.items())
    gia.share_gradient(model, made, LABELS)


#: Losses without class labels: outputs, targets, and the loss written with torch.
OTHER = {
    "one logit": (1, torch.tensor([0, 1]), "bce", lambda z, t: F.binary_cross_entropy_with_logits(z[:, 0], t.float())),
    "many labels": (3, torch.tensor([[1.0, 0, 1], [0, 0, 1]]), "bce", F.binary_cross_entropy_with_logits),
    "regression": (3, torch.tensor([[0.5, -1, 2], [0, 3, 1]]), "mse", F.mse_loss),
}


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("local", [None, gia.LocalTraining(epochs=1, batch_size=2, lr=0.5)], ids=["gradient", "update"])
def test_other_losses_are_shared_and_attacked_with_given_targets(kind, local):
    """The gradient is that of the loss as torch writes it; at the private images a search's data term is zero."""
    outputs, targets, name, written = OTHER[kind]
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.Sigmoid(), nn.Linear(6, outputs))
    client = gia.federated.Client(IMAGES, targets, loss=name, local=local, reveal=("labels", "local"))
    observation = client.answer(model)
    by_hand = torch.autograd.grad(written(model(IMAGES), targets), list(model.parameters()))
    for got, expected in zip(observation.gradients.values(), by_hand, strict=True):
        torch.testing.assert_close(got, expected * (1 if local is None else local.lr), rtol=1e-4, atol=1e-7)
    settings = {"loss": name, "objective": gia.attacks.objectives.Cosine()}
    found = gia.attacks.dlg(model, observation, generator=torch.Generator().manual_seed(0), steps=2, **settings)
    assert found.labels.shape == targets.shape
    term = gia.attacks.data_term("dlg", model, observation, IMAGES, targets, **settings)
    assert abs(term) < 1e-5 < found.objective + 1


def test_attacks_that_need_class_labels_refuse_other_losses():
    """If it fails, labels are restored from a gradient that does not show them."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    observation = gia.share_gradient(model, IMAGES[:1], torch.rand(1, 3), loss="mse")
    with pytest.raises(ValueError, match="loss: expected one over class labels, which idlg needs, got 'mse'"):
        gia.attacks.idlg(model, observation, generator=torch.Generator(), loss="mse")
    with pytest.raises(ValueError, match="labels: expected targets, which a loss without class labels needs, got None"):
        gia.attacks.dlg(model, observation, generator=torch.Generator(), loss="mse")
    with pytest.raises(ValueError, match=r"labels: expected targets in \[0, 1\] for bce, got -1 to 2"):
        gia.share_gradient(model, IMAGES, torch.tensor([[-1.0, 0, 2], [0, 0, 0]]), loss="bce")
    with pytest.raises(ValueError, match=r"loss: expected one of .*did you mean 'bce'"):
        gia.share_gradient(model, IMAGES, LABELS, loss="bcee")


def test_a_copy_that_is_only_read_shares_the_parameters_and_nothing_else():
    """If it fails, an attack on an imprint module copies gigabytes, or moves the statistics or modes of the model."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 10)).eval()
    copied = victim_of(model, True, read_only=True)
    assert all(one is other for one, other in zip(copied.parameters(), model.parameters(), strict=True))
    assert not any(one is other for one, other in zip(copied.modules(), model.modules(), strict=True))
    copied(IMAGES)
    assert not model[1].running_mean.any()
    assert not model.training
    with torch.inference_mode():
        made = nn.Linear(3, 2)
    victim_of(made, False, read_only=True)(torch.ones(1, 3, requires_grad=True)).sum().backward()
