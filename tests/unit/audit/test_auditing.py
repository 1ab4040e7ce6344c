"""The audit of a set-up: what it finds, which models it takes, and how it says what it cannot do."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gia
from gia.audit import TooMuchLeaks, audit, run
from gia.audit import trial as trial_module
from gia.audit.setup import unwrapped
from gia.audit.trial import Trial
from gia.experiment.controls import searched

#: Sets, sizes and steps with which an audit takes about a second.
SMALL = {"data": "digits", "image_size": 8, "steps": 3, "what_if": False, "validate": False}


def mlp(width: int = 16, inputs: int = 64) -> nn.Sequential:
    """Whose first layer sees the image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 10))


class Pooled(nn.Module):
    """A convolution, a pooling and a classifier, for any size; `form` is how it returns its logits."""

    def __init__(self, channels: int = 1, form: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Linear(4, 10)

    def forward(self, images):
        logits = self.last(torch.sigmoid(self.first(images)).mean((2, 3)))
        return {"tensor": logits, "tuple": (logits, 0), "object": SimpleNamespace(logits=logits)}[self.form]


def test_an_image_behind_a_linear_layer_comes_back_exactly_and_behind_a_pooled_convolution_it_does_not():
    """If it fails, the audit calls a leaking set-up safe, or any set-up leaking."""
    leaky = audit(mlp(), batch_size=1, against="ana_linear", **SMALL)
    assert leaky.leak["ana_linear"] > 20
    assert leaky.exact["ana_linear"] == 1.0
    sound = audit(Pooled(), batch_size=8, against="ana_linear,op", **SMALL)
    assert sound.leak == {"op": 0.0}
    assert sound.not_tried["ana_linear"].startswith("this model has no linear layer that sees the image")


def test_every_type_is_scored_or_has_a_reason():
    """If it fails, a type is silently left out, which a reader takes for safe."""
    report = audit(mlp(), batch_size=2, batches=1, **SMALL)
    assert set(report.leak) | set(report.not_tried) == {*gia.audit.KINDS, "gen_z", "gen_inv"}
    assert not set(report.leak) & set(report.not_tried)


@pytest.mark.parametrize("form", ["tensor", "tuple", "object"])
@pytest.mark.parametrize("wrap", [nn.Identity, nn.DataParallel, torch.compile], ids=["plain", "parallel", "compiled"])
def test_wrapped_models_and_those_with_other_outputs_give_the_same_leak(form, wrap):
    """If it fails, a user of DataParallel, torch.compile or Hugging Face models gets an error or another number."""
    settings = {**SMALL, "batch_size": 1, "batches": 1, "against": "op"}
    model = Pooled(form=form)
    assert audit(model if wrap is nn.Identity else wrap(model), **settings).leak == audit(Pooled(), **settings).leak


def test_an_imprint_block_in_front_of_attention_is_tried():
    """Its check of exact images needs a second derivative. If it fails, no transformer is audited against it."""

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.last = nn.Linear(8, 10)

        def forward(self, images):
            rows = images.flatten(1, 2)[:, None]
            return self.last(nn.functional.scaled_dot_product_attention(rows, rows, rows).mean((1, 2)))

    report = audit(Attending(), batch_size=1, batches=1, against="ana_arch", **SMALL)
    assert report.leak["ana_arch"] > 20


def test_the_module_inside_wrappers_is_the_users_own():
    """If it fails, names of parameters have prefixes that no captured gradient has."""
    model = mlp()
    assert unwrapped(torch.compile(nn.DataParallel(model))) is model


def test_colour_and_images_that_are_not_square_are_taken():
    """If it fails, only square gray images can be audited."""
    report = audit(Pooled(channels=3), data="photos", image_size=(12, 16), batch_size=1, batches=1, **{
        key: SMALL[key] for key in ("steps", "what_if", "validate")
    })  # fmt: skip
    assert "12x16, 3 channels" in report.setup["images"]
    assert report.results["op"].arrays["originals"].shape == (1, 3, 12, 16)


def test_only_parameters_with_requires_grad_are_shared():
    """If it fails, the audit of a fine-tuned or adapted model attacks weights that no client sends."""
    model = mlp()
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    report = audit(model, batch_size=1, batches=1, against="ana_linear,op", **SMALL)
    assert "170 of them shared" in report.setup["model"]  # 16 * 10 + 10
    assert "ana_linear" in report.not_tried  # the layer that sees the image is frozen


def test_a_loss_of_the_user_reaches_client_and_attacker():
    """If it fails, the attacker simulates another loss than the client's, and finds less than it could."""

    def tripled(outputs, labels):
        return 3 * nn.functional.cross_entropy(outputs, labels)

    same = Trial("op", _setup(loss=tripled), steps=1)._exchange.observations[0].gradients
    plain = Trial("op", _setup(loss="cross_entropy"), steps=1)._exchange.observations[0].gradients
    assert all(torch.allclose(same[name], 3 * plain[name]) for name in plain)
    assert Trial("op", _setup(loss=tripled), steps=1)._exchange.protocol.attacker.settings["loss"] is tripled


def test_the_control_simulates_the_loss_of_the_user():
    """If it fails, a sound search under another loss is said not to work, and no gate can pass."""

    def shifted(outputs, labels):
        return nn.functional.cross_entropy(outputs, (labels + 1) % 10)

    checks, _ = searched(Trial("op", _setup(loss=shifted), steps=2)._exchange)
    assert list(checks.values())[:2] == [True, True]  # zero at the truth, and larger elsewhere


def _setup(**changes):
    from gia.audit.pictures import images_for
    from gia.audit.setup import Setup

    images = images_for("digits", shape=(1, 8, 8), classes=10, generator=torch.Generator().manual_seed(0))
    facts = {"local": None, "defenses": (), "training": True, "loss": "cross_entropy", "seed": 0}
    return Setup(model=mlp(), images=images, reserved=4, batch_size=1, batches=2, **{**facts, **changes})


def test_what_the_server_sees_has_passed_the_defenses_and_the_local_training():
    """If it fails, the audit attacks a set-up that is not the user's."""
    clipped = Trial("op", _setup(defenses=(gia.defenses.clip(norm=1e-3),)), steps=1)._exchange.observations[0]
    norm = sum(float(g.square().sum()) for g in clipped.gradients.values()) ** 0.5
    assert norm == pytest.approx(1e-3, rel=1e-4)
    local = gia.LocalTraining(epochs=2, batch_size=1, lr=0.1)
    assert Trial("op", _setup(local=local), steps=1)._exchange.observations[0].local == local


def test_an_error_of_the_model_is_one_line_about_it():
    """If it fails, a wrong size or a batch that cannot be trained on ends in a traceback of torch."""
    with pytest.raises(ValueError, match=r"^image_size: expected images that the model takes, got 9x9 \(.*\)$"):
        audit(mlp(), **{**SMALL, "image_size": 9})
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))
    with pytest.raises(ValueError, match=r"^model: expected one that a client can train, .*--eval-mode"):
        audit(single, batch_size=1, **SMALL)
    assert audit(single, batch_size=1, batches=1, against="ana_linear", training=False, **SMALL).leak["ana_linear"] > 20


def test_an_attack_that_fails_is_a_line_and_the_others_run():
    """If it fails, one layer without a second derivative ends the whole audit."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, gradient):
            return gradient

    class Stubborn(nn.Module):
        def forward(self, value):
            return Once.apply(value)

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Stubborn(), nn.ReLU(), nn.Linear(8, 10))
    report = audit(model, batch_size=1, batches=1, against="ana_linear,op", **SMALL)
    assert "ana_linear" in report.leak
    assert "\n" not in report.not_tried["op"]
    assert "differentiates twice" in report.not_tried["op"]


def test_the_what_if_table_has_each_change_and_names_the_one_after_which_least_leaks():
    """If it fails, a reader is not told what would help, or is told the wrong thing."""
    report = audit(mlp(), batch_size=1, batches=2, against="ana_linear", **{**SMALL, "what_if": True})
    by_words = {each.change: each for each in report.what_if}
    assert list(by_words)[:2] == ["batches of 2", "two local epochs at lr 0.01 instead of one gradient"]
    noisy = next(each for words, each in by_words.items() if "noise" in words)
    before, after = noisy.leaks["ana_linear"]
    assert before == report.leak["ana_linear"] > after + 20  # noise as large as the gradient itself
    assert report.best_change == min(report.what_if, key=lambda each: each.largest)
    assert report.best_change.change in report.text()


def test_where_nothing_leaks_no_change_is_run_again():
    """If it fails, a sound set-up is told to change, or hours are spent on nothing."""
    report = audit(Pooled(), batch_size=4, batches=1, against="op", **{**SMALL, "what_if": True})
    assert all(not each.leaks and "is known to leak" in each.reason for each in report.what_if)
    assert report.best_change is None


def test_validation_refuses_malicious_servers_and_accepts_the_honest_one():
    """If it fails, the report says nothing of what checks on the client's side would find."""
    report = audit(mlp(), batch_size=2, batches=1, against="ana_linear", **{**SMALL, "validate": True})
    honest, *others = report.validation
    assert honest.server == "honest server"
    assert not honest.findings
    assert len(others) == 3
    assert all(each.findings and each.error is None for each in others)


def test_a_quick_audit_takes_the_steps_that_its_time_allows_and_more_where_no_what_if_needs_it(monkeypatch):
    """If it fails, a quick audit takes hours for a large net, or searches for less than it could."""
    asked = {**SMALL, "steps": None, "what_if": True, "batch_size": 4, "batches": 1, "against": "op"}
    monkeypatch.setattr(Trial, "seconds_of_a_step", lambda self: 0.4)
    # 90 s for one search and four changes, which count as six: 32 steps of 0.4 s. Nothing leaks, so the other 77 s
    # go to one longer search, of 192 steps; both are rounded down on the ladder.
    seen = []
    report = audit(Pooled(), **asked, progress=lambda what, step, steps: seen.append(steps))
    assert [steps for steps in dict.fromkeys(seen) if steps] == [20, 160]
    assert report.results["op"].facts["steps"] == 160
    assert "Searches took 160 (op) steps" in report.limits[0]
    assert "A step takes 0.4 (op) CPU seconds on 4 images" in report.limits[1]


def test_a_quick_audit_always_tries_the_search_over_pixels_and_says_what_it_could_not_afford(monkeypatch):
    """If it fails, a large net or a slow machine leaves out the attack that matters most."""
    monkeypatch.setattr(Trial, "seconds_of_a_step", lambda self: 10.0)
    monkeypatch.setattr(run, "LADDER", (2, 4))
    monkeypatch.setattr(run, "QUICK_SECONDS", 15.0)
    asked = {**SMALL, "steps": None, "what_if": False, "batch_size": 1, "against": "op,gen_w"}
    report = audit(Pooled(), **asked)
    assert report.results["op"].facts["steps"] == 2
    assert report.setup["attacked"] == "1 client with 1 image each"
    assert "One client was attacked in place of 4" in report.text()
    # 10 s were measured on four clients, so a step of gen_w on one takes 2.5 s, and two of them fit into 15 s.
    assert report.results["gen_w"].facts["steps"] == 2
    monkeypatch.setattr(run, "QUICK_SECONDS", 4.0)
    report = audit(Pooled(), **asked)
    assert list(report.results) == ["op"]
    assert report.not_tried["gen_w"].startswith("2 steps take about 5 CPU seconds, too long for a quick audit")
    assert "2 steps, the least that are run, take about 5 CPU seconds of op: more than" in report.text()


def test_the_seconds_of_a_step_are_those_of_the_processor(monkeypatch):
    """If it fails, a quick audit on a loaded machine runs fewer steps than on an idle one."""
    trial, waited = Trial("op", _setup(), steps=0), []
    clock = time.perf_counter
    monkeypatch.setattr(trial_module.time, "perf_counter", lambda: waited.append(1) or clock() + 10 * len(waited))
    began = time.thread_time()
    assert 0 < trial.seconds_of_a_step() < time.thread_time() - began
    threads = torch.get_num_threads()
    monkeypatch.setattr(trial_module.time, "thread_time", _ticks(1.0, 2.5, 3.0, 9.0))
    assert trial.seconds_of_a_step() == 0.5  # the least of 1.5, 0.5 and 6, after which 3 s are over
    assert torch.get_num_threads() == threads


def _ticks(*times):
    left = iter(times)
    return lambda: next(left)


def test_what_ifs_end_with_the_time_of_a_quick_audit(monkeypatch):
    """If it fails, the changes of a large net take as long as they like."""
    monkeypatch.setattr(Trial, "seconds_of_a_step", lambda self: 0.5)
    monkeypatch.setattr(run, "QUICK_SECONDS", 11.0)  # 20 steps take 10 s; each change takes 10 or 20 more
    monkeypatch.setattr(run, "ROOM", 0.0)
    asked = {**SMALL, "steps": None, "what_if": True, "batch_size": 1, "batches": 1, "against": "op"}
    report = audit(mlp(), **asked)
    assert report.results["op"].facts["steps"] == 20
    assert [each.reason for each in report.what_if] == ["no time left in a quick audit"] * 4
    assert "what if\n  No change was run: no time left in a quick audit.\n" in report.text()
    monkeypatch.setattr(run, "QUICK_SECONDS", 35.0)  # one of 20 s fits, and then none
    report = audit(mlp(), **asked)
    assert [each.reason for each in report.what_if] == [None] + ["no time left in a quick audit"] * 3


def test_limits_are_kept_exceeded_or_unknown():
    """If it fails, a gate in a user's repository passes although more leaks, or although nothing was tried."""
    report = audit(mlp(), batch_size=1, batches=1, against="ana_linear", **SMALL)
    report.check(max_leak=1000)
    with pytest.raises(TooMuchLeaks, match=r"expected at most 1 dB of ana_linear .*, got \d+"):
        report.check(max_leak={"ana_linear": 1})
    with pytest.raises(TooMuchLeaks, match="expected op to be tried, got none: not asked for"):
        report.check(max_leak={"op": 1})
    with pytest.raises(ValueError, match=r"max_leak: expected one of \['ana_linear', .*did you mean 'op'"):
        report.check(max_leak={"opp": 1})


def test_a_search_that_finds_nothing_better_than_guesses_passes_no_gate():
    """If it fails, a broken search counts as proof of safety."""
    report = audit(Pooled(), batch_size=4, batches=1, against="op", **{**SMALL, "steps": 1})
    result = report.results["op"]
    assert (result.leak, result.known) == (0.0, False)
    with pytest.raises(TooMuchLeaks, match="expected an attack op that works"):
        report.check(max_leak={"op": 1})


def test_finished_parts_are_not_run_again_and_another_gradient_is_another_part(tmp_path, monkeypatch):
    """If it fails, a run that was stopped begins from the start, or shows the results of another model."""
    settings = {**SMALL, "batch_size": 1, "batches": 1, "against": "ana_linear,op", "parts": tmp_path / "parts"}
    first = audit(mlp(), **settings)
    ran = []
    result = Trial.result
    monkeypatch.setattr(Trial, "result", lambda self, *given: ran.append(self.name) or result(self, *given))
    again = audit(mlp(), **settings)
    assert (ran, again.leak) == ([], first.leak)
    other = mlp()  # its gradient is the same, since this pixel is black
    with torch.no_grad():
        other[1].weight[0, 0] += 1e-3
    audit(other, **settings)
    assert ran == ["ana_linear", "op"]
    (next((tmp_path / "parts").iterdir())).write_bytes(b"damaged")
    assert audit(mlp(), **settings).leak == first.leak


def test_the_json_of_a_report_is_plain_and_holds_no_image():
    """If it fails, audit.json cannot be read by other programs, or gives images away."""
    report = audit(mlp(), batch_size=1, batches=1, **SMALL)
    found = json.loads(report.to_json())
    assert found["generator"] == "gia audit"
    assert found["results"]["op"]["leak"] == report.leak["op"]
    assert not any("originals" in each for each in found["results"].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"against": "opp"}, "against: expected one of .*did you mean 'op'"),
        ({"against": "gen_z"}, "against: expected a type that an audit can try, got 'gen_z': it needs a generator"),
        ({"budget": "fast"}, "budget: expected one of"),
        ({"epochs": 2}, "lr: expected the step size of 2 epochs of local training, got None"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"classes": 11}, "classes: expected at most the 10 outputs of the model, got 11"),
        ({"data": "digit"}, "data: expected one of .*did you mean 'digits'"),
        ({"batch_size": 2000}, "data: expected at least the 2000 images that are attacked, got 1797"),
        ({"defenses": ["clop=1"]}, "defense: expected one of .*did you mean 'clip'"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    """If it fails, a mistyped option ends in a traceback, or is ignored."""
    with pytest.raises(ValueError, match=message):
        audit(mlp(), **{**SMALL, **change})
