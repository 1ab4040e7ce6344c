"""Parameters, buffers and arguments are judged as they are applied, and against what was agreed upon."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy
from torch.nn.utils import spectral_norm

from gia import validate_model
from gia.federated import (
    per_example,
    share_gradient,
)
from gia.federated.server import imprint
from tests.contracts.cases import CLASSES, SIZE
from tests.unit.federated.validation.models import BATCH, IMAGES, LABELS, changed, found, seeded, victim


class Hidden(nn.Module):
    """An imprint whose rows lie in a buffer, behind a parameter of small honest numbers."""

    def __init__(self, block):
        super().__init__()
        honest = nn.Linear(*block.measure.weight.shape[::-1])
        self.small = nn.Parameter(honest.weight.detach() * 1e-3)
        self.register_buffer("rows", block.measure.weight.detach().clone())
        self.register_buffer("cut", block.measure.bias.detach().clone())

    def forward(self, images):
        """(N, C, H, W) -> (N, bins)."""
        return nn.functional.linear(images.flatten(1), self.small + self.rows, self.cut)


def test_rows_that_are_no_parameter_are_found_where_they_are_used():
    """If it fails, a server hides what it does in buffers."""
    block = imprint(victim(), image_shape=(3, SIZE, SIZE), bins=64, generator=seeded()).imprint
    model = nn.Sequential(Hidden(block), nn.ReLU(), nn.Linear(64, CLASSES))
    assert not found(model) & {"similar_rows", "ordered_biases"}
    assert {"similar_rows", "ordered_biases", "outlier_biases"} <= found(model, batch=BATCH)


def test_what_runs_on_the_model_s_own_weights_is_named_after_them():
    """If it fails, findings point at a numbered operation, and each weight is judged twice."""
    model = victim("mlp")
    first = model.get_parameter("layers.0.weight")
    record, _ = per_example.norms(model, *BATCH, loss=cross_entropy, training=True)
    assert record.uses[0].weight.data_ptr() == first.data_ptr()
    sent = changed(model, "layers.0.weight", lambda w: w[0, 0].fill_(1e3))
    report = validate_model(sent, batch=BATCH)
    assert {finding.layer for finding in report.findings if finding.check == "transmit_snr"} == {"layers.0"}


def test_a_bias_counts_by_what_enters_its_layer():
    """Pixels from 0 to 255 and weights 255 times smaller compute the same. If it fails, honest biases of such a net are
    outliers; or a constant beside the pixels, that a row ignores, hides a bias that is one."""
    model = changed(victim("mlp", width=100), "layers.0.bias", lambda b: b[3].fill_(1.0))
    scaled = changed(model, "layers.0.weight", lambda w: w.div_(255))
    values = [
        validate_model(nn.Sequential(Affine(scale, shift), sent), batch=BATCH).values["outlier_biases"]
        for scale, shift, sent in ((1, 0, model), (255, 0, scaled), (1, 1000, model))
    ]
    weight, bias = (model.get_parameter(f"layers.0.{part}").detach() for part in ("weight", "bias"))
    spread = float(IMAGES.std(correction=0))
    assert values[1] == pytest.approx(float(bias.abs().max() / weight.abs().mean()) / spread, rel=1e-4)
    assert values[2] == pytest.approx(values[0])
    assert validate_model(scaled).values["outlier_biases"] > 100 * values[0]


class Affine(nn.Module):
    """scale * images + shift."""

    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, images):
        """(N, C, H, W) of the same shape."""
        return self.scale * images + self.shift


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # slower, and right
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name_is_the_padding_that_torch_adds(padding):
    """An even kernel, dilated. If it fails, norms are those of another convolution."""
    conv = nn.Conv2d(3, 4, (2, 3), dilation=(1, 2), padding=padding)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)).double()
    images = IMAGES[:3].double()
    model(images)
    _, norms = per_example.norms(model, images, LABELS[:3], loss=cross_entropy, training=False)
    each = [share_gradient(model, images[i : i + 1], LABELS[i : i + 1]).gradients["0.weight"] for i in range(3)]
    torch.testing.assert_close(norms[0], torch.stack(each).flatten(1).norm(dim=1) / 3)


class Elsewhere(nn.Module):
    """A linear layer by another function, on a weight that is stored in another layout."""

    def __init__(self, how, weight, bias):
        super().__init__()
        self.how, self.bias = how, nn.Parameter(bias)
        stored = weight.T if how in ("view", "matmul", "addmm", "scaled") else weight
        self.stored = nn.Parameter((stored / 7 if how == "scaled" else stored).clone())

    def forward(self, images):
        """(N, C, H, W) -> (N, rows)."""
        x, stored = images.flatten(1), self.stored
        if self.how == "view":
            return nn.functional.linear(x, stored.T, self.bias)
        if self.how == "matmul":
            return x @ stored + self.bias
        if self.how == "addmm":
            return torch.addmm(self.bias, x, stored)
        if self.how == "scaled":
            return (x @ stored) * 7 + self.bias
        return (stored @ x.T).T + self.bias


@pytest.mark.parametrize("how", ["view", "matmul", "addmm", "scaled", "columns"])
@pytest.mark.parametrize("malicious", [False, True])
def test_a_weight_is_judged_by_the_rows_that_are_applied(how, malicious):
    """Against nn.Linear with the same weight. If it fails, a layout or another function hides a weight."""
    linear = nn.Linear(IMAGES[0].numel(), 70)
    with torch.no_grad():
        generated = torch.randn(linear.weight.shape, generator=seeded()) / 14
        linear.weight.copy_(generated)
        linear.bias.zero_()
        if malicious:
            linear.weight[0] *= 1e3
            linear.weight[4:8] = 2 * linear.weight[8:12]
            linear.bias.copy_(torch.arange(70.0))
    last = victim("mlp", width=70).layers[2]
    plain = nn.Sequential(nn.Flatten(), linear, nn.ReLU(), last)
    other = nn.Sequential(Elsewhere(how, linear.weight.detach(), linear.bias.detach()), nn.ReLU(), last)
    reports = [validate_model(model, batch=BATCH) for model in (plain, other)]
    checks = [{finding.check for finding in report.findings} for report in reports]
    wrong = {"similar_rows", "zeroed_rows", "ordered_biases", "outlier_biases"}
    assert checks == [wrong if malicious else set()] * 2
    for check in ("similar_rows", "zeroed_rows", "dsnr", "transmit_snr"):
        assert reports[1].values[check] == pytest.approx(reports[0].values[check], rel=1e-4), check
    assert "operators" not in reports[1].skipped


class Applying(nn.Module):
    """A network whose first layer applies a weight, stored transposed, by a function (images, weight) -> outputs."""

    def __init__(self, apply):
        super().__init__()
        self.apply_to = apply
        self.stored = nn.Parameter(torch.randn(IMAGES[0].numel(), 70, generator=seeded()) / 14)
        self.last = victim("mlp", width=70).layers[2]

    def forward(self, images):
        """(N, C, H, W) -> logits."""
        return self.last(self.apply_to(images.flatten(1), self.stored).relu())


def joined(x, w):
    """The product with what was put beside the images."""
    both = torch.cat([x, w.T])
    return torch.einsum("nd,kd->nk", both[: len(x)], both[len(x) :])


#: way -> the function that is named, and the first layer.
UNJUDGED = {
    "transposed": ("mul", lambda x, w: (x[:, None] * w.T).sum(-1)),
    "factors": ("mul", lambda x, w: (x[:, :, None] * w[None]).sum(1)),
    "broadcast": ("matmul", lambda x, w: (x[:, None] @ w[None])[:, 0]),
    "expanded": ("bmm", lambda x, w: torch.bmm(x[:, None], w.expand(len(x), -1, -1))[:, 0]),
    "batched": ("baddbmm", lambda x, w: torch.baddbmm(torch.zeros(1), x[None], w[None])[0]),
    "columns": ("mv", lambda x, w: torch.stack([x.mv(w[:, i]) for i in range(70)], 1)),
    "unbound": ("matmul", lambda x, w: torch.stack([x @ column for column in w.unbind(1)], 1)),
    "outputs": ("linear", lambda x, w: torch.stack([nn.functional.linear(x, w[:, i]) for i in range(70)], 1)),
    "swapped": ("linear", lambda x, w: nn.functional.linear(w.T, x).T),
    "scaled": ("mul", lambda x, w: torch.stack([(x * w[:, i]).sum(1) for i in range(70)], 1)),
    "copied": ("mul", lambda x, w: torch.stack([(x * w[:, i].clone()).sum(1) for i in range(70)], 1)),
    "joined": ("cat", joined),
}


@pytest.mark.parametrize("way", UNJUDGED)
def test_a_matrix_in_a_function_that_is_not_judged_stands_in_skipped(way):
    """As a whole, behind a dimension of size 1, column by column, or as what images are joined to. If it fails, what
    was not judged as it is applied looks as if it had been, or the check breaks with an error of torch."""
    name, apply = UNJUDGED[way]
    model = Applying(apply)
    expected = IMAGES.flatten(1) @ model.stored
    torch.testing.assert_close(apply(IMAGES.flatten(1), model.stored), expected, rtol=1e-4, atol=1e-5)
    assert validate_model(model, batch=BATCH).skipped["operators"].endswith(f"matrices in {name}")


class Tokens(nn.Module):
    """What honest transformers do with vectors and positions: a class token, layer scale, biases of attention."""

    def __init__(self):
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 64, 4, 4), nn.Linear(64, CLASSES)
        self.token, self.scale = nn.Parameter(torch.zeros(1, 1, 64)), nn.Parameter(torch.ones(64))
        self.positions, self.bias = nn.Parameter(torch.zeros(1, 65, 64)), nn.Parameter(torch.zeros(1, 2, 65, 65))

    def forward(self, images):
        """(N, C, H, W) -> logits."""
        x = self.patches(nn.functional.interpolate(images, 32)).flatten(2).mT
        token = (self.token + self.positions[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([token, x + self.positions[:, 1:]], 1) * self.scale.expand(len(x), 65, -1)
        heads = x.unflatten(2, (2, 32)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias)
        return self.last(mixed.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("model", [Tokens(), victim("resnet10")], ids=["tokens", "resnet10"])
def test_vectors_and_what_is_added_are_no_matrices(model):
    """If it fails, `skipped` names functions of every transformer, and nobody reads it."""
    assert "operators" not in validate_model(model, batch=BATCH).skipped


class Settings(nn.Module):
    """A network whose forward pass depends on settings that are neither parameters nor buffers."""

    def __init__(self, *, stride=1, eps=1e-5, momentum=0.1, slope=0.01, factor=1.0, trained=1.0, turned=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=stride), nn.BatchNorm2d(8, eps=eps, momentum=momentum)
        self.act, self.fc = nn.LeakyReLU(slope), nn.Linear(8, 8)
        self.constant, self.trained, self.turned = torch.tensor(factor), trained, turned
        self.last = nn.Linear(8, CLASSES)

    def forward(self, images):
        """(N, C, H, W) -> logits."""
        x = self.act(self.norm(self.conv(images))).mean((2, 3)) * self.constant
        x = x * self.trained if self.training else x
        weight = self.fc.weight.T if self.turned else self.fc.weight
        return self.last(nn.functional.linear(x, weight, self.fc.bias))


@pytest.mark.parametrize(
    "changed_setting",
    [
        {"stride": 2},
        {"eps": 10.0},
        {"momentum": 1.0},
        {"slope": 0.9},
        {"factor": 5.0},
        {"trained": 2.0},
        {"turned": True},
    ],
    ids=str,
)
def test_arguments_and_layouts_are_those_agreed_upon(changed_setting):
    """In the client's mode. If it fails, the same weights and buffers do something else than was agreed upon."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        agreed, sent = Settings(), Settings(**changed_setting)
    sent.load_state_dict(agreed.state_dict())
    again = Settings()
    again.load_state_dict(agreed.state_dict())
    assert "structure" not in found(again, agreed, batch=BATCH, training=True)
    assert "structure" in found(sent, agreed, batch=BATCH, training=True)
    assert {"operators", "structure"} <= set(validate_model(sent, agreed).skipped)
    assert "structure" not in validate_model(sent, agreed, batch=BATCH).skipped


def test_a_buffer_that_no_training_moves_is_the_agreed_one():
    """But for counters and the vectors of a spectral norm, whose weight is judged as it is applied. If it fails, a
    constant hides what the server does, or an honest spectral norm is refused."""
    hidden = nn.Sequential(Hidden(imprint(victim(), image_shape=(3, SIZE, SIZE), bins=8, generator=seeded()).imprint))
    moved = copy.deepcopy(hidden)
    moved[0].cut[0] += 1e-3
    assert "structure" in found(moved, hidden)
    assert "structure" not in found(copy.deepcopy(hidden), hidden)
    for norm in (nn.utils.parametrizations.spectral_norm, spectral_norm):
        agreed = nn.Sequential(nn.Flatten(), norm(nn.Linear(768, 64)), nn.BatchNorm1d(64), nn.Linear(64, CLASSES))
        sent = copy.deepcopy(agreed).train()
        sent(torch.rand(4, 768, generator=seeded()))  # moves all buffers a little
        assert "structure" not in found(sent.eval(), agreed, batch=(torch.rand(4, 3, 16, 16), LABELS[:4]))


class Own(nn.BatchNorm1d):
    """A batch normalization that calls no function for it."""

    def forward(self, inputs):
        """(N, channels) of the same shape."""
        return (inputs - self.running_mean) / (self.running_var + self.eps).sqrt() * self.weight + self.bias


def test_running_statistics_that_nobody_could_judge_are_the_agreed_ones():
    """The counter of batches may differ. If it fails, a server moves the statistics of a class of its own, and they are
    seen by no check."""
    agreed = nn.Sequential(
        nn.Flatten(), nn.Linear(IMAGES[0].numel(), 64), Own(64), nn.ReLU(), nn.Linear(64, CLASSES)
    ).eval()
    counted, moved = copy.deepcopy(agreed), copy.deepcopy(agreed)
    counted[2].num_batches_tracked += 5
    moved[2].running_mean += 0.1
    assert "structure" not in found(counted, agreed, batch=BATCH)
    assert "structure" in found(moved, agreed, batch=BATCH)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
def test_a_reparametrized_weight_is_judged_by_its_effective_rows(norm):
    """Not by the factors g of shape (rows, 1), 1 % apart but for one that is 1.5, nor by the size of a direction v: an
    honest network. If it fails, such networks are refused (github.com/pytorch/pytorch/issues/102981 sends users to
    them), or hide an imprint."""
    linear = nn.Linear(IMAGES[0].numel(), 64)
    with torch.no_grad():
        rows = nn.functional.normalize(torch.randn(linear.weight.shape, generator=seeded()), dim=1)
        sizes = 1 + 0.01 * torch.randn(64, 1, generator=seeded())
        sizes[5] = 1.5
        linear.weight.copy_(rows * sizes)
    honest = nn.Sequential(nn.Flatten(), norm(linear), nn.ReLU(), norm(nn.Linear(64, CLASSES)))
    direction = dict(honest.named_parameters())
    with torch.no_grad():  # its size has no effect
        direction.get("1.weight_v", direction.get("1.parametrizations.weight.original1"))[7] *= 1e3
    for settings in ({}, {"batch": BATCH}):
        report = validate_model(honest, **settings)
        assert report.ok, str(report)
        assert 1 < report.values["zeroed_rows"] < 3
    block = imprint(victim(), image_shape=(3, SIZE, SIZE), bins=64, generator=seeded()).imprint
    sent = nn.Sequential(nn.Flatten(), norm(block.measure), nn.ReLU(), norm(nn.Linear(64, CLASSES)))
    for settings in ({}, {"batch": BATCH}):
        assert "similar_rows" in found(sent, **settings)


def test_lazy_parameters_are_named_before_anything_draws_them():
    """If it fails, weights come from the global random state, and nobody else has them."""
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    for arguments, settings in (((lazy,), {}), ((lazy,), {"batch": BATCH}), ((victim(), lazy), {})):
        with pytest.raises(ValueError, match=r"model: expected initialized parameters, got the lazy '1\.weight'"):
            validate_model(*arguments, **settings)
    assert any(is_lazy(parameter) for parameter in lazy.parameters())
