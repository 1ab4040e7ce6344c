"""From protocol to score: levels share what they must, and the attack sees no image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gia import metrics
from gia.attacks.matching import Interrupted
from gia.data import Images, load
from gia.defenses import dp_sgd, noise
from gia.experiment import Exchange, Fishing, Protocol, Round, exchange, measure, prepared
from gia.experiment.controls import path_works
from gia.federated import LocalTraining, Observation, share_gradient, share_update
from gia.harness.blocks.block import Block
from tests.unit.experiment.toy import BLOCK, FACES, PROTOCOL, Spy, black, bright

LOCAL = LocalTraining(epochs=3, batch_size=1, lr=0.5)
WRONG = LocalTraining(epochs=1, batch_size=4, lr=0.1)


def test_every_batch_size_attacks_the_same_images_on_the_same_victim(spy: Spy) -> None:
    """The levels would differ in their data or net, and the slope would measure that."""
    seen = {size: measure(PROTOCOL.with_({"batch.size": size}), BLOCK) for size in (1, 2, 4)}
    for size, call in zip(seen, spy.calls, strict=True):
        assert [o.batch_size for o in call["observations"]] == [size] * (4 // size)
        assert np.array_equal(seen[size].arrays["originals"], seen[1].arrays["originals"])
        for name, value in call["state"].items():
            assert torch.equal(value, spy.calls[0]["state"][name])


def test_another_block_has_another_victim_other_images_and_other_starts(spy: Spy) -> None:
    """Blocks would be copies of one another, and eight of them as good as one."""
    one, other = measure(PROTOCOL, BLOCK), measure(PROTOCOL, replace(BLOCK, index=1))
    assert not np.array_equal(one.arrays["originals"], other.arrays["originals"])
    name = "layers.0.weight"
    assert not torch.equal(spy.calls[0]["state"][name], spy.calls[1]["state"][name])
    assert not set(spy.calls[0]["seeds"]) & set(spy.calls[1]["seeds"])
    assert len(set(spy.calls[0]["seeds"])) == 4


def test_an_attack_is_given_the_model_observations_generators_and_settings_only(spy: Spy) -> None:
    """An attack could read the answer."""
    private = load("digits", image_size=8).images
    measure(PROTOCOL.with_({"batch.size": 2}), BLOCK)
    (call,) = spy.calls
    assert call["settings"] == PROTOCOL.attacker.settings
    for observation in call["observations"]:
        assert isinstance(observation, Observation)
        assert not any(value.shape[-2:] == private.shape[-2:] for value in observation.gradients.values())
        assert observation.batch_norm is None


def test_what_leaks_is_what_the_protocol_reveals(spy: Spy) -> None:
    """The threat model of a table would not be the one that was measured."""
    local = LocalTraining(epochs=1, batch_size=1, lr=0.01)
    client = PROTOCOL.with_({"client.local": local})
    measure(client.with_({"client.reveal": ()}), BLOCK)
    measure(client.with_({"client.reveal": ("labels", "local"), "client.training": True}), BLOCK)
    hidden, shown = (call["observations"][0] for call in spy.calls)
    assert (hidden.labels, hidden.local, hidden.training) == (None, None, False)
    assert (shown.labels is not None, shown.local, shown.training) == (True, local, True)


def test_attackers_of_one_update_differ_in_what_they_take_for_the_local_training_only(spy: Spy) -> None:
    """The compared knowledge would come with another update, or a wrong assumption would be corrected."""
    shared = PROTOCOL.with_({"client.local": LOCAL, "batch.size": 4})
    strong = shared.with_({"client.reveal": ("labels", "local")})
    for protocol in (strong, shared.with_({"attacker.assumed": WRONG}), shared):
        measure(protocol, BLOCK)
    observations = [call["observations"][0] for call in spy.calls]
    assert [o.local for o in observations] == [LOCAL, WRONG, None]
    for observation in observations:
        for name, gradient in observation.gradients.items():
            assert torch.equal(gradient, observations[0].gradients[name])


def test_the_order_of_local_training_is_new_in_each_epoch_and_stays_with_the_client(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker could simulate step by step what it cannot know, or a client would train in one order only."""
    clients: list[dict[str, Any]] = []

    class Watched(exchange.federated.Client):
        def __init__(self, images: Tensor, labels: Tensor, **options: Any) -> None:
            clients.append({"images": images, "labels": labels, **options})
            super().__init__(images, labels, **options)

    monkeypatch.setattr(exchange.federated, "Client", Watched)
    protocol = PROTOCOL.with_({"client.local": LOCAL, "client.reveal": ("labels", "local"), "batch.size": 4})
    measure(protocol, BLOCK)
    (client,), (call,) = clients, spy.calls
    (observation,) = call["observations"]
    victim = Round(protocol, BLOCK).victim
    generator = BLOCK.generator("order", 0)
    drawn = torch.stack([torch.randperm(4, generator=generator) for _ in range(LOCAL.epochs)])
    assert len(drawn.unique(dim=0)) > 1
    known = {"local": LOCAL, "reveal": ("labels", "local")}
    replayed = share_update(victim, client["images"], client["labels"], order=drawn, **known)
    by_label = client["labels"].argsort()
    guessed = share_update(victim, client["images"][by_label], client["labels"][by_label], **known)
    name = "layers.0.weight"
    assert torch.equal(observation.gradients[name], replayed.gradients[name])
    assert not torch.allclose(observation.gradients[name], guessed.gradients[name], rtol=1e-2)
    assert torch.equal(observation.labels, client["labels"].sort().values)
    held = {field.name for field in fields(observation) if isinstance(getattr(observation, field.name), Tensor)}
    assert held == {"labels"}
    assert call["settings"] == PROTOCOL.attacker.settings
    assert client["generator"].initial_seed() not in call["seeds"]


def test_clients_defend_with_noise_of_their_own_that_a_block_can_draw_again(spy: Spy) -> None:
    """Two clients would share one noise, or a block would not be reproducible."""
    for defense in (noise(std=0.5), dp_sgd(clip=1e9, noise=1e-9)):
        protocol = PROTOCOL.with_({"client.defenses": (defense,), "batch.size": 2})
        for _ in range(2):
            measure(protocol, BLOCK)
    for call, again in (spy.calls[:2], spy.calls[2:]):
        for one, other in zip(call["observations"], again["observations"], strict=True):
            assert all(torch.equal(g, other.gradients[name]) for name, g in one.gradients.items())
    measure(PROTOCOL.with_({"batch.size": 2}), BLOCK)
    plain, defended = spy.calls[-1]["observations"], spy.calls[0]["observations"]
    first, second = (
        d.gradients["layers.0.weight"] - p.gradients["layers.0.weight"] for p, d in zip(plain, defended, strict=True)
    )
    assert float(first.std()) == pytest.approx(0.5, rel=0.1)
    assert not torch.allclose(first, second, atol=0.1)


def test_an_image_without_a_reconstruction_scores_as_its_best_placebo(spy: Spy) -> None:
    """An attack that returns nothing would raise, or be averaged over the images that it chose to return."""
    spy.answer = lambda observation: black(observation)[:0]
    seen = measure(PROTOCOL, BLOCK)
    assert seen.counts["unmatched"] == 4
    assert seen.values["psnr"] == pytest.approx(seen.details["placebo"]["psnr"], abs=1e-9)
    assert seen.values["rmse"] == pytest.approx(seen.details["placebo"]["rmse"], abs=1e-9)
    assert seen.values["leak"] == 0


def test_values_are_means_over_images_of_gias_metrics(spy: Spy) -> None:
    """The table would hold something else than its column says."""
    seen = measure(PROTOCOL, BLOCK)
    # Digits have 17 gray levels: 8 bits cost 1/510 at most.
    private = torch.from_numpy(seen.arrays["originals"]).float() / 255
    expected = metrics.psnr(torch.zeros_like(private), private)
    assert seen.values["psnr"] == pytest.approx(float(expected.mean()), abs=0.1)
    assert seen.values["psnr"] == pytest.approx(math.fsum(seen.details["per_image"]["psnr"]) / 4)
    assert seen.counts == {"gradient_evaluations": 4 * 7, "unmatched": 0}
    assert seen.details["objective"] == 0.5


def test_a_real_attack_measures_the_same_twice_in_either_precision() -> None:
    """A resumed table would differ from an uninterrupted one."""
    for dtype in ("float32", "float64"):
        one, two = (measure(PROTOCOL.with_({"victim.dtype": dtype}), BLOCK) for _ in range(2))
        assert one.values == two.values
        assert np.array_equal(one.arrays["reconstructions"], two.arrays["reconstructions"])


def test_an_interrupted_attack_is_not_scored(spy: Spy) -> None:
    """The best image so far would be stored as a finished block."""

    def interrupted(observation: Observation) -> Tensor:
        warnings.warn("interrupted at step 3 of 5", Interrupted, stacklevel=2)
        return black(observation)

    spy.answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        measure(PROTOCOL, BLOCK)


def test_a_drawn_setting_reaches_the_victim_the_attack_and_the_data(spy: Spy) -> None:
    """Hypothesis would vary nothing, and eight blocks would be one setting."""
    setting = {
        "victim.width": 8,
        "attacker.settings.steps": 3,
        "batch.data": "cifar10-samples",
        "batch.image_size": 32,
    }
    drawn = PROTOCOL.drawn(setting)
    assert (drawn.victim.options["width"], drawn.attacker.settings["steps"]) == (8, 3)
    assert (drawn.batch.data, drawn.attacker.settings["total_variation"]) == ("cifar10-samples", 0.0)
    measure(PROTOCOL, replace(BLOCK, setting=setting))
    (call,) = spy.calls
    assert call["state"]["layers.0.weight"].shape == (8, 3 * 32 * 32)
    assert call["settings"]["steps"] == 3


def test_standardized_space_and_victim_go_together(spy: Spy) -> None:
    """The paper's scale would be run in another space than it says."""
    standardized = PROTOCOL.with_({"victim.standardize": {"mean": (0.5,), "std": (0.25,)}})
    measure(standardized.with_({"attacker.settings.space": "standardized"}), BLOCK)
    assert spy.calls[0]["settings"]["space"] == "standardized"
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = Round(PROTOCOL, BLOCK).victim
    assert torch.allclose(Round(standardized, BLOCK).victim(images), plain((images - 0.5) / 0.25))


def test_what_a_timing_is_given_is_what_the_attack_is_given(spy: Spy) -> None:
    """A step would be timed on another victim or batch than the one that is measured."""
    protocol = PROTOCOL.with_({"batch.size": 2})
    measure(protocol, BLOCK)
    model, observations = prepared(protocol, BLOCK)
    (call,) = spy.calls
    assert len(observations) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(call["state"][name], value)
    for timed, attacked in zip(observations, call["observations"], strict=True):
        assert all(torch.equal(gradient, attacked.gradients[name]) for name, gradient in timed.gradients.items())


FISHED = PROTOCOL.with_(
    {
        "attacker.attack": "fishing",
        "attacker.settings": {"steps": 0},
        "victim.fish": Fishing(targets=3),
        "batch.size": 4,
        "scoring.metrics": ("psnr",),
    }
)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_each_fished_target_is_the_first_of_its_own_batch_and_stays_so(batch_size: int) -> None:
    """Levels of the batch size would compare different targets, or a target would be scored on its neighbour."""
    round = Round(FISHED.with_({"batch.size": batch_size}), BLOCK)
    chosen, data = Round(FISHED, BLOCK).private, round.data
    answers = Exchange(round, round.private).answers
    assert [int(each.chosen) for each in answers] == chosen[:3].tolist()
    assert [each.target for each in answers] == data.labels[chosen[:3]].tolist()
    for each in answers:
        assert each.observation.batch_size == batch_size
        weight = each.model.get_parameter("layers.2.weight")
        assert weight.any(1).nonzero().tolist() == [[each.target]], "the model is fished for this target"
        alone = share_gradient(each.model, each.reference, data.labels[each.chosen])
        assert torch.allclose(
            batch_size * each.observation.gradients["layers.0.weight"], alone.gradients["layers.0.weight"], atol=1e-6
        )


def test_a_fished_image_of_several_with_its_label_is_scored_as_the_one_that_was_caught() -> None:
    """The score would be against an image whose gradient the server did not isolate."""
    protocol = FISHED.with_(
        {
            "batch.data": "faces",
            "batch.image_size": 16,
            "batch.pattern": "equal",
            "victim.fish": Fishing(kind="feature", targets=1),
        }
    )
    for index in range(3):
        round = Round(protocol, Block("toy.fish", index, {}))
        (each,) = Exchange(round, round.private).answers
        alone = share_gradient(each.model, each.reference, round.data.labels[each.chosen])
        whole, own = 4 * each.observation.gradients["layers.0.weight"], alone.gradients["layers.0.weight"]
        assert torch.allclose(whole, own, atol=1e-3 * float(own.abs().max()))


def flattened(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defence that shares one random number in place of each entry."""
    value = float(torch.rand((), generator=generator))
    return replace(observation, gradients={k: torch.full_like(g, value) for k, g in observation.gradients.items()})


def halved(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defence that needs no randomness."""
    return replace(observation, gradients={k: g / 2 for k, g in observation.gradients.items()})


def test_what_a_client_shares_passes_its_defences_in_order_and_each_draws_its_own_numbers(spy: Spy) -> None:
    """A defended level would be an undefended one, or all clients would draw one and the same noise."""
    for defenses in ((), (flattened,), (flattened, halved), (flattened, flattened)):
        measure(PROTOCOL.with_({"client.defenses": defenses}), BLOCK)
    plain, flat, half, twice = ([next(iter(o.gradients.values())) for o in c["observations"]] for c in spy.calls)
    assert all(len(g.unique()) > 1 for g in plain)
    assert all(len(g.unique()) == 1 for g in flat)
    assert len({float(g.flatten()[0]) for g in flat}) == len(flat)
    assert all(torch.equal(a / 2, b) for a, b in zip(flat, half, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(flat, twice, strict=True))


@pytest.mark.parametrize("pattern", ["distinct", "equal"])
def test_what_isolation_loses_is_measured_by_attacking_the_same_image_alone(pattern: Any) -> None:
    """Against batches of one image each. Images mixed into the isolated gradient would cost nothing."""
    protocol = FISHED.with_(
        {
            "batch.data": "faces",
            "batch.image_size": 16,
            "batch.pattern": pattern,
            "batch.pattern_batch": 4,
            "attacker.settings.steps": 5,
            "victim.dtype": "float64",
        }
    )
    seen = measure(protocol.with_({"scoring.metrics": ("psnr", "psnr_lost")}), BLOCK).details["per_image"]
    alone = measure(protocol.with_({"batch.size": 1}), BLOCK).details["per_image"]["psnr"]
    lost = [before - after for before, after in zip(alone, seen["psnr"], strict=True)]
    assert seen["psnr_lost"] == pytest.approx(lost, abs=1e-9)
    assert (max(map(abs, lost)) > 1e-3) == (pattern == "equal"), lost


def equipment(protocol: Protocol, model: nn.Module, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """Settings that say what an attacker was given."""
    return {"victim": model, "public": public, "draw": int(torch.randint(2**31, (1,), generator=generator))}


def test_the_attacker_s_equipment_is_made_from_public_images_only(spy: Spy) -> None:
    """A generator or an inverter would be trained on the images, or people, that it is to reveal."""
    people = FACES.with_({"attacker.equip": equipment, "attacker.disjoint": "labels", "scoring.control_images": 4})
    measure(people, BLOCK)
    measure(people.with_({"attacker.disjoint": "images"}), BLOCK)
    measure(people.with_({"attacker.public": "digits"}), BLOCK)
    disjoint, all_but, digits = (call["settings"]["public"] for call in spy.calls)
    round = Round(people, BLOCK)
    data, attacked = round.data, torch.cat([round.private, round.control])
    assert not set(data.labels[attacked].tolist()) & set(disjoint.labels.tolist())
    assert len(all_but) == len(data) - len(attacked)
    pixels = all_but.images.flatten(1)
    assert not any(bool((pixels == data.images[index].flatten()).all(1).any()) for index in attacked)
    assert digits.source == load("digits", image_size=16).source
    assert len({call["settings"]["draw"] for call in spy.calls}) == 1


def test_scores_beyond_the_original_are_against_class_and_neighbours(spy: Spy) -> None:
    """An image's own PSNR would pass for that of another, or a judge would judge the originals."""
    protocol = PROTOCOL.with_(
        {
            "batch.images": 8,
            "batch.pattern_batch": 8,
            "scoring.metrics": ("psnr", "psnr_other", "label_agreement"),
            "scoring.judge": bright,
        }
    )
    per_image = measure(protocol, BLOCK).details["per_image"]
    round = Round(protocol, BLOCK)
    data, chosen = round.data, round.private
    assert per_image["label_agreement"] == [float(label == 3) for label in data.labels[chosen]]
    others = round.others_of_their_class(chosen)
    assert torch.equal(data.labels[others], data.labels[chosen])
    expected = metrics.psnr(torch.zeros(8, 1, 8, 8), data.images[others])
    assert per_image["psnr_other"] == pytest.approx(expected.tolist())


def test_the_nearest_real_image_is_one_that_nobody_attacked(spy: Spy) -> None:
    """A perfect reconstruction would score 0 by its own original, and not by how real it looks."""
    one = {"batch.images": 1, "batch.pattern_batch": 1, "scoring.metrics": ("lpips_nearest",)}
    protocol = FACES.with_({**one, "batch.image_size": 32})
    for index in range(8):
        round = Round(protocol, Block("toy.nearest", index, {}))
        spy.answer = showing(round.data.images[round.private])
        assert measure(protocol, round.block).values["lpips_nearest"] > 0.01
    round = Round(protocol, BLOCK)
    spy.answer = showing(round.data.images[round.bystanders[:1]])
    assert measure(protocol, BLOCK).values["lpips_nearest"] < 1e-6
    spy.answer = black
    assert measure(protocol.with_({"batch.image_size": 16}), BLOCK).values["lpips_nearest"] is None


def showing(images: Tensor) -> Callable[[Observation], Tensor]:
    """An attack that returns these images, whatever it sees."""
    return lambda observation: images


def test_a_metric_that_is_not_defined_at_this_size_is_none() -> None:
    """A made-up number, or a crash over a metric that only decorates, would stand in the table."""
    seen = measure(PROTOCOL.with_({"scoring.metrics": ("psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg")}), BLOCK)
    assert {name for name, value in seen.values.items() if value is None} == {"ssim", "lpips", "lpips_vgg"}
    assert set(seen.details["per_image"]) == {"psnr", "cw_ssim", "leak"}


@pytest.mark.parametrize("name", [name for name in metrics.METRICS if not name.startswith("lpips")])
def test_each_metric_is_scored_from_its_smallest_size_on(name: str, spy: Spy) -> None:
    """A metric would be n/a where it exists, or raise where it does not. The tests above cover LPIPS."""
    minimum = metrics.METRICS[name].minimum
    for size in {minimum, max(1, minimum - 1)}:
        protocol = FACES.with_({"batch.image_size": size, "scoring.metrics": (name,)})
        assert (measure(protocol, BLOCK).values[name] is None) == (size < minimum)


def test_all_metrics_score_one_pairing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If each metric paired images as suits it, a row of numbers would speak of different reconstructions."""
    names = ("psnr", "rmse", "ssim")

    def noise(observation: Observation) -> Tensor:
        shape = (observation.batch_size, *observation.image_shape)
        return torch.rand(shape, generator=torch.Generator().manual_seed(5))

    monkeypatch.setattr(exchange.attacks, "run_many", Spy(noise))
    protocol = FACES.with_({"batch.size": 4, "scoring.metrics": names})
    (answer,) = Exchange((round := Round(protocol, BLOCK)), round.private).answers
    aligned = metrics.align(noise(answer.observation), answer.reference, blind=answer.reference)
    assert not torch.equal(aligned, noise(answer.observation))
    measured = measure(protocol, BLOCK).details["per_image"]
    for name in names:
        assert measured[name] == metrics.METRICS[name].function(aligned, answer.reference).tolist(), name


def test_image_sizes_show_the_same_pictures() -> None:
    """If they did not, a claim about resolution would compare photos, not sizes."""
    small, large = (Round(FACES.with_({"batch.image_size": size}), BLOCK) for size in (16, 32))
    assert small.private.equal(large.private)
    assert small.control.equal(large.control)
    shown, halved = (each.data.images[each.private] for each in (small, large))
    halved = torch.nn.functional.avg_pool2d(halved, 2)
    apart = (halved[:, None] - shown).square().flatten(2).mean(-1)
    others = apart + torch.diag(torch.full((len(apart),), math.inf))
    assert apart.diagonal().max() < others.min() / 10


class Recording(Block):
    """A block that notes the purposes of its generators."""

    purposes: ClassVar[list[tuple[str | int, ...]]] = []

    def generator(self, *purpose: str | int) -> torch.Generator:
        """As that of the block."""
        self.purposes.append(purpose)
        return super().generator(*purpose)


def test_a_control_shares_no_random_number_with_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that begins where the attack begins, or trains its victim alike, would select lucky blocks."""
    protocol, block = PROTOCOL.with_({"attacker.settings.steps": 1}), Recording("toy.run", 0, {})
    drawn: list[set[tuple[str | int, ...]]] = []
    for run in (measure, path_works):
        monkeypatch.setattr(Recording, "purposes", [])
        run(protocol, block)
        drawn.append(set(Recording.purposes))
    attacked, controlled = drawn
    assert any(purpose[0] == "start" for purpose in attacked)
    assert {purpose for purpose in controlled if purpose[0] != "control"} == {("images",), ("control images",)}
    assert not {purpose for purpose in attacked if purpose[0] == "control"}
