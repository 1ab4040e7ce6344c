"""Placebos: what an attacker returns without the gradient, what the gradient adds, and attackers that return them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gia import metrics
from gia.attacks import NothingFound, train_inverter
from gia.data import Images
from gia.experiment import PLACEBOS, Exchange, Fishing, Protocol, Round, measure, placebo
from gia.experiment.controls import path_works
from gia.experiment.placebos import Placebos
from gia.federated import Observation
from gia.harness.blocks.block import Block
from gia.models import build, train_decoder
from tests.unit.experiment.test_controls_by_family import imprinted
from tests.unit.experiment.toy import BLOCK, FACES, PROTOCOL, Spy, black


def decoder(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """A decoder of digits, trained for a moment."""
    return {"decoder": train_decoder(public, epochs=10, generator=generator, cache=cache)}


def inverter(protocol: Protocol, model: Any, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """An inverter of digits, trained for a moment."""
    settings = {"batch_size": 1, "hashed": 64, "hidden": (64,), "epochs": 3, "lr": 3e-3, "training_batch": 64}
    images, labels = public.images[:300], public.labels[:300]
    return {"inverter": train_inverter(model, images, labels, generator=generator, cache=cache, **settings)}


#: A protocol of each leaf of the taxonomy, on eight images.
EIGHT = PROTOCOL.with_({"batch.images": 8, "batch.pattern_batch": 8})
LEAVES: dict[str, Protocol] = {
    "OP": EIGHT,
    "GEN-W": EIGHT.with_({"attacker.attack": "ci_net", "attacker.settings": {"steps": 2}}),
    "GEN-z": EIGHT.with_(
        {"attacker.attack": "ggl", "attacker.settings": {"optimizer": "adam", "steps": 2}, "attacker.equip": decoder}
    ),
    "GEN-inverter": EIGHT.with_(
        {
            "attacker.attack": "learning_to_invert",
            "attacker.settings": {},
            "attacker.equip": inverter,
            "client.reveal": (),
        }
    ),
    "ANA-architecture": EIGHT.with_(
        {
            "attacker.attack": "robbing_the_fed",
            "attacker.settings": {},
            "victim.edit": imprinted,
            "client.reveal": (),
        }
    ),
    "ANA-parameters": EIGHT.with_(
        {
            "attacker.attack": "fishing",
            "attacker.settings": {"steps": 2},
            "victim.fish": Fishing(targets=8),
            "batch.size": 4,
            "client.reveal": (),
        }
    ),
}


@pytest.mark.parametrize("leaf", LEAVES)
def test_placebo_attackers_leak_nothing_and_the_truth_leaks(leaf: str, tmp_path: Path) -> None:
    """The metric would credit an attack with what it could have returned without a gradient."""
    for name in ("blind", "labels", "nearest", "noise", "unmoved"):
        seen = measure(placebo(name)(LEAVES[leaf], 0), BLOCK, cache=tmp_path)
        assert seen.values["leak"] <= 0.1, name
        if name in ("blind", "labels"):  # they are among the placebos
            assert max(seen.details["per_image"]["leak"]) <= 1e-5
    truth = measure(placebo("saboteur")(LEAVES[leaf], 0), BLOCK, cache=tmp_path)
    assert truth.values["leak"] == pytest.approx(metrics.pixels.PSNR_CAP - truth.details["placebo"]["psnr"])
    assert truth.values["leak"] > 60


def of(protocol: Protocol, block: Block = BLOCK) -> tuple[Round, Exchange]:
    """A round and the exchange of its private images."""
    round = Round(protocol, block)
    return round, Exchange(round, round.private)


def test_placebos_of_pixels_are_a_constant_the_mean_and_the_class_mean_where_labels_are_given() -> None:
    """A class mean would be subtracted that the attacker cannot know, or one that it knows would count as leaked."""
    given, hidden = of(PROTOCOL), of(PROTOCOL.with_({"client.reveal": ()}))
    assert list(hidden[1].guesses[0].kinds) == ["constant", "mean"]
    round, exchange = given
    for answer, guess in zip(exchange.answers, exchange.guesses, strict=True):
        assert list(guess.kinds) == ["constant", "mean", "class mean"]
        label, public = int(round.data.labels[answer.chosen]), round.public
        assert torch.allclose(guess.kinds["constant"], answer.reference.mean().expand(1, 1, 8, 8))
        assert torch.allclose(guess.kinds["mean"][0], public.images.mean(0))
        assert torch.allclose(guess.kinds["class mean"][0], public.images[public.labels == label].mean(0))
        best = max(float(metrics.psnr(images, answer.reference)) for images in guess.kinds.values())
        assert float(metrics.psnr(guess.best, answer.reference)) == pytest.approx(best)


def test_a_fished_class_and_an_inverter_s_own_labels_are_known(tmp_path: Path) -> None:
    """The class mean would count as leaked, although the server names the class, or the inverter has seen it."""
    round, exchange = of(LEAVES["ANA-parameters"])
    public = round.public
    for answer, guess in zip(exchange.answers, exchange.guesses, strict=True):
        mean = public.images[public.labels == answer.target].mean(0)
        assert torch.allclose(guess.kinds["class mean"][0], mean)
    assert "class mean" in of(LEAVES["GEN-inverter"])[1].guesses[0].kinds
    assert "class mean" not in of(LEAVES["ANA-architecture"])[1].guesses[0].kinds


def test_latent_search_is_compared_with_what_its_decoder_makes_without_a_gradient() -> None:
    """The label, which is given to the decoder, would count as leaked."""
    protocol = LEAVES["GEN-z"].with_({"batch.size": 4})
    _, exchange = of(protocol)
    (guess, _), labels = exchange.guesses, exchange.answers[0].labels
    assert list(guess.kinds)[3:] == ["sample", "zero latent", "mean of samples"]
    made = exchange.equipment["decoder"]
    with torch.no_grad():
        zero = made(torch.zeros(4, *made.latent_shape), labels)
        many = made(
            torch.randn(64, *made.latent_shape, generator=torch.Generator().manual_seed(0)), labels[:1].expand(64)
        )
    assert torch.allclose(guess.kinds["zero latent"], zero, atol=1e-6)
    assert float(metrics.psnr(guess.kinds["mean of samples"][:1], many.mean(0)[None])) > 25, "another draw's mean"
    assert not torch.allclose(guess.kinds["sample"], zero, atol=1e-2)


def test_without_public_images_the_mean_is_of_others_and_a_class_without_images_has_the_overall_mean() -> None:
    """A block of small data would fail, or be scored against an attacked image."""
    samples = PROTOCOL.with_(
        {"batch.data": "cifar10-samples", "batch.image_size": 32, "batch.images": 18, "batch.pattern_batch": None}
    ).with_({"batch.pattern": "any"})
    round, exchange = of(samples)
    others = torch.ones(20, dtype=torch.bool).index_fill(0, round.private, False)
    assert not len(round.remaining)
    assert torch.allclose(exchange.guesses[0].kinds["mean"][0], round.data.images[others].mean(0))
    gray = Exchange(round, torch.arange(20))
    assert bool((gray.placebos.kinds(gray.reference, round.data.labels, target=None, number=0)["mean"] == 0.5).all())
    people = FACES.with_({"attacker.disjoint": "labels"})
    kinds = of(people)[1].guesses[0].kinds
    assert torch.equal(kinds["class mean"], kinds["mean"])


def test_placebos_pass_through_the_same_matching_as_the_attack() -> None:
    """An attack on equal labels would be credited with the matching."""
    round, exchange = of(PROTOCOL.with_({"batch.size": 4}))
    (guess,), (answer,) = exchange.guesses, exchange.answers
    shuffled = Placebos(round, round.private, dict).kinds(
        answer.reference.flip(0), answer.labels.flip(0), target=None, number=0
    )
    for kind, images in shuffled.items():
        expected = metrics.align(images, answer.reference, blind=answer.reference)
        assert torch.allclose(guess.kinds[kind], expected)


def test_leaks_are_averaged_over_images_before_they_are_floored(spy: Spy) -> None:
    """Flooring each image would show a leak of about a decibel where nothing leaks."""
    private = Round(PROTOCOL, BLOCK).data.images[Round(PROTOCOL, BLOCK).private]
    numbers = iter(range(4))

    def one_of_four(observation: Observation) -> Tensor:
        number = next(numbers)
        return (private[number] + 0.1).clamp(0, 1)[None] if number == 0 else black(observation)

    spy.answer = one_of_four
    seen = measure(PROTOCOL, BLOCK)
    each = seen.details["per_image"]["leak"]
    assert max(each) > 0 > sum(each)
    assert seen.values["leak"] == 0
    psnr, guess = seen.details["per_image"]["psnr"], seen.details["placebo"]["psnr"]
    assert sum(each) / 4 == pytest.approx(sum(psnr) / 4 - guess)


def test_an_attack_that_finds_nothing_scores_as_its_placebos(spy: Spy) -> None:
    """A level at which the attack raises would void the row, or be left out of its mean."""
    asked: list[Observation] = []

    def some(observation: Observation) -> Tensor:
        asked.append(observation)
        if observation is asked[0]:
            raise NothingFound("bins: expected a signal, got none")
        return black(observation)

    spy.answer = some
    seen = measure(PROTOCOL, BLOCK)
    assert seen.counts["unmatched"] == 1
    assert seen.details["per_image"]["leak"][0] == 0
    assert seen.details["per_image"]["leak"][1] != 0, "the other answers were attacked"
    spy.answer = lambda observation: some(asked[0])
    nothing = measure(PROTOCOL, BLOCK)
    assert (nothing.values["leak"], nothing.counts["unmatched"]) == (0, 4)
    assert nothing.counts["gradient_evaluations"] == 0


def test_an_attack_whose_objective_is_not_finite_has_found_nothing(spy: Spy) -> None:
    """One block whose search overflows would end the whole row with a traceback."""

    def overflowing(observation: Observation) -> Tensor:
        raise FloatingPointError("objective: expected a finite value")

    spy.answer = overflowing
    seen = measure(PROTOCOL, BLOCK)
    assert (seen.values["leak"], seen.counts["unmatched"]) == (0, 4)


def test_exact_images_and_judged_labels_are_counted_above_those_of_the_placebos(spy: Spy) -> None:
    """A label that the decoder was given, or an image that is its own best constant, would count as leaked."""
    protocol = EIGHT.with_(
        {"scoring.metrics": ("exact_share", "exact_leak", "label_agreement", "agreement_leak"), "scoring.judge": judge}
    )
    round = Round(protocol, BLOCK)
    label = int(round.data.labels[round.private[0]])
    spy.answer = lambda observation: black(observation) + label / 10 + 0.05
    seen = measure(protocol, BLOCK).values
    assert seen["label_agreement"] == 1 / 8
    assert seen["agreement_leak"] == 0, "a placebo is judged to show a right label as often"
    truth = measure(placebo("saboteur")(protocol, 0), BLOCK).values
    assert (truth["exact_share"], truth["exact_leak"]) == (1.0, 1.0)
    plain = Round(placebo("saboteur")(protocol, 0), BLOCK)
    plain.__dict__["data"] = replace(round.data, images=torch.full_like(round.data.images, 0.5))
    same = Exchange(plain, plain.private).attack("start").values
    assert (same["exact_share"], same["exact_leak"]) == (1.0, 0.0)


def judge(images: Images, *, generator: torch.Generator, cache: Any) -> nn.Module:
    """A judge that reads the label off the brightness of the first pixel."""

    class Reading(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            seen = (10 * pictures[:, 0, 0, 0]).long().clamp(0, 9)
            return torch.nn.functional.one_hot(seen, 10).float()

    return Reading()


def test_under_a_placebo_nothing_of_the_attack_runs_unless_it_needs_no_step(spy: Spy) -> None:
    """A placebo would be what it is to be compared with, or cost as much."""
    made: list[str] = []

    def equip(*arguments: Any, **options: Any) -> dict[str, Any]:
        made.append("equipment")
        return {}

    equipped = PROTOCOL.with_({"attacker.equip": equip})
    for name in ("blind", "labels", "nearest", "noise", "truth"):
        measure(equipped.with_({"attacker.placebo": name}), BLOCK)
    assert (spy.calls, made) == ([], [])
    measure(equipped.with_({"attacker.placebo": "unmoved"}), BLOCK)
    (call,) = spy.calls
    assert call["settings"]["steps"] == 0
    stepless = equipped.with_({"attacker.attack": "linear_layer", "attacker.settings": {}})
    seen = measure(stepless.with_({"attacker.placebo": "unmoved"}), BLOCK)
    assert len(spy.calls) == len(made) == 1
    mean = Round(PROTOCOL, BLOCK).public.images.mean(0)
    private = Round(PROTOCOL, BLOCK).data.images[Round(PROTOCOL, BLOCK).private]
    assert seen.values["psnr"] == pytest.approx(float(metrics.psnr(mean.expand_as(private), private).mean()))


@pytest.mark.parametrize("leaf", LEAVES)
def test_placebos_measured_one_after_the_other_score_as_each_alone(leaf: str, tmp_path: Path) -> None:
    """A placebo would be scored on what an earlier one left in the exchange that they share."""
    protocol = LEAVES[leaf]
    for name in (*PLACEBOS, "blind"):
        level = placebo(name)(protocol, 0)
        round = Round(level, BLOCK, cache=tmp_path)
        alone = Exchange(round, round.private).attack("start")
        seen = measure(level, BLOCK, cache=tmp_path)
        assert (seen.values, seen.counts) == (alone.values, alone.counts), name
        assert seen.details["per_image"] == alone.details["per_image"], name


def test_only_the_placebos_of_one_level_and_block_share_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each placebo would build and ask the victim again, or be scored on the images of another block."""
    built: list[object] = []

    def counted(*arguments: Any, **options: Any) -> nn.Module:
        built.append(arguments)
        return build(*arguments, **options)

    monkeypatch.setattr("gia.experiment.round.build", counted)
    larger, other = EIGHT.with_({"batch.size": 2}), Block("placebos", 1, {})
    for expected, protocol, block in ((1, EIGHT, BLOCK), (2, larger, BLOCK), (3, larger, other), (4, EIGHT, BLOCK)):
        for name in PLACEBOS:
            measure(placebo(name)(protocol, 0), block)
        assert len(built) == expected
    for _ in range(2):
        measure(LEAVES["GEN-W"], BLOCK)
    assert len(built) == 6, "each attack has its own exchange"


def test_placebo_attackers_return_what_their_names_say() -> None:
    """A row would be tried with another placebo than the one in its report."""
    protocol = PROTOCOL.with_({"batch.size": 4, "batch.pattern": "any"})
    returned = {}
    for name in ("labels", "nearest", "noise", "blind", "truth"):
        round, exchange = of(protocol.with_({"attacker.placebo": name}))
        ((returned[name]),) = exchange.reconstructions(exchange.answers, "start")
    (answer,), public = exchange.answers, round.public
    truth, labels = answer.truth
    for each in returned.values():
        assert torch.equal(each.labels, labels)
        assert torch.equal(labels, answer.observation.labels)
    means = torch.stack([public.images[public.labels == label].mean(0) for label in labels])
    assert torch.equal(returned["truth"].images, truth)
    assert torch.allclose(returned["labels"].images, means)
    apart = (means[:, None] - public.images[None]).flatten(2).square().sum(2)
    assert torch.equal(returned["nearest"].images, public.images[apart.argmin(1)])
    assert torch.allclose(returned["blind"].images, truth.mean((2, 3), keepdim=True).expand_as(truth))
    noise = returned["noise"].images
    assert (float(noise.mean()), float(noise.std())) == (pytest.approx(0.5, abs=0.1), pytest.approx(0.29, abs=0.05))


def test_the_saboteur_returns_the_truth_first_and_noise_from_then_on() -> None:
    """Rule 4's control would not be tried where it matters."""
    assert set(PLACEBOS) == {"blind", "labels", "nearest", "noise", "unmoved", "saboteur"}
    names = [placebo("saboteur")(PROTOCOL, position).attacker.placebo for position in range(3)]
    assert names == ["truth", "noise", "noise"]
    scored = PROTOCOL.with_(
        {"scoring.metrics": ("psnr", "ssim", "cw_ssim", "lpips", "rmse"), "scoring.control": path_works}
    )
    cheap = {"attacker.placebo": "nearest", "scoring.metrics": ("psnr", "rmse")}
    assert placebo("nearest")(scored, 1) == scored.with_(cheap)
    assert placebo("nearest", controlled=False)(scored, 1) == scored.with_({**cheap, "scoring.control": None})
    with pytest.raises(ValueError, match=r"placebo: expected one of .* got 'truth'"):
        placebo("truth")
