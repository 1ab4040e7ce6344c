"""From protocol to score: levels share what they must, the attack sees no image."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gia import metrics
from gia.attacks.matching import Interrupted
from gia.data import Images, load
from gia.federated import LocalTraining, Observation, share_gradient, share_update
from gia.harness import casting, scene
from gia.harness.blocks import Block
from gia.harness.protocol import Fished, Protocol
from gia.harness.run import measure
from tests.harness.toy import BLOCK, PROTOCOL, Spy, black

LOCAL = LocalTraining(epochs=3, batch_size=1, lr=0.5)
WRONG = LocalTraining(epochs=1, batch_size=4, lr=0.1)


def test_every_batch_size_attacks_the_same_images_on_the_same_victim(spy: Spy) -> None:
    """The levels would differ in their data or net, and the slope would measure that."""
    seen = {size: measure(replace(PROTOCOL, batch_size=size), BLOCK) for size in (1, 2, 4)}
    for size, call in zip(seen, spy.calls, strict=True):
        assert [o.batch_size for o in call["observations"]] == [size] * (4 // size)
        assert np.array_equal(seen[size].originals, seen[1].originals)
        for name, value in call["state"].items():
            assert torch.equal(value, spy.calls[0]["state"][name])


def test_another_block_has_another_victim_other_images_and_other_starts(spy: Spy) -> None:
    """Blocks would be copies of one another, and eight of them as good as one."""
    one, other = measure(PROTOCOL, BLOCK), measure(PROTOCOL, replace(BLOCK, index=1))
    assert not np.array_equal(one.originals, other.originals)
    name = "layers.0.weight"
    assert not torch.equal(spy.calls[0]["state"][name], spy.calls[1]["state"][name])
    assert not set(spy.calls[0]["seeds"]) & set(spy.calls[1]["seeds"])
    assert len(set(spy.calls[0]["seeds"])) == 4


def test_an_attack_is_given_the_model_observations_generators_and_settings_only(spy: Spy) -> None:
    """An attack could read the answer."""
    private = load("digits", image_size=8).images
    measure(replace(PROTOCOL, batch_size=2), BLOCK)
    (call,) = spy.calls
    assert call["settings"] == PROTOCOL.settings
    for observation in call["observations"]:
        assert isinstance(observation, Observation)
        assert not any(value.shape[-2:] == private.shape[-2:] for value in observation.gradients.values())
        assert observation.batch_norm is None


def test_what_leaks_is_what_the_protocol_reveals(spy: Spy) -> None:
    """The threat model of a table would not be the one that was measured."""
    local = LocalTraining(epochs=1, batch_size=1, lr=0.01)
    measure(replace(PROTOCOL, reveal=(), local=local), BLOCK)
    measure(replace(PROTOCOL, reveal=("labels", "local"), local=local, training=True), BLOCK)
    hidden, shown = (call["observations"][0] for call in spy.calls)
    assert (hidden.labels, hidden.local, hidden.training) == (None, None, False)
    assert (shown.labels is not None, shown.local, shown.training) == (True, local, True)


def test_attackers_of_one_update_differ_in_what_they_take_for_the_local_training_only(spy: Spy) -> None:
    """The compared knowledge would come with another update, or a wrong assumption would be put right."""
    shared = replace(PROTOCOL, local=LOCAL, batch_size=4)
    strong = replace(shared, reveal=("labels", "local"))
    for protocol in (strong, replace(shared, assumed=WRONG), shared):
        measure(protocol, BLOCK)
    observations = [call["observations"][0] for call in spy.calls]
    assert [o.local for o in observations] == [LOCAL, WRONG, None]
    for observation in observations:
        for name, gradient in observation.gradients.items():
            assert torch.equal(gradient, observations[0].gradients[name])


def test_the_order_of_local_training_is_drawn_anew_and_stays_with_the_client(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker could simulate step by step what it cannot know, or a client would train in one order for ever."""
    clients: list[dict[str, Any]] = []

    class Watched(scene.Client):
        def __init__(self, images: Tensor, labels: Tensor, **options: Any) -> None:
            clients.append({"images": images, "labels": labels, **options})
            super().__init__(images, labels, **options)

    monkeypatch.setattr(scene, "Client", Watched)
    protocol = replace(PROTOCOL, local=LOCAL, reveal=("labels", "local"), batch_size=4)
    measure(protocol, BLOCK)
    (client,), (call,) = clients, spy.calls
    (observation,) = call["observations"]
    victim = casting.victim(protocol, BLOCK, load("digits", image_size=8), torch.float32)
    generator = BLOCK.generator("order", 0)
    drawn = torch.stack([torch.randperm(4, generator=generator) for _ in range(LOCAL.epochs)])
    assert len(drawn.unique(dim=0)) > 1
    told = {"local": LOCAL, "reveal": ("labels", "local")}
    replayed = share_update(victim, client["images"], client["labels"], order=drawn, **told)
    by_label = client["labels"].argsort()
    guessed = share_update(victim, client["images"][by_label], client["labels"][by_label], **told)
    name = "layers.0.weight"
    assert torch.equal(observation.gradients[name], replayed.gradients[name])
    assert not torch.allclose(observation.gradients[name], guessed.gradients[name], rtol=1e-2)
    assert torch.equal(observation.labels, client["labels"].sort().values)
    held = {field.name for field in fields(observation) if isinstance(getattr(observation, field.name), Tensor)}
    assert held == {"labels"}
    assert call["settings"] == PROTOCOL.settings
    assert client["generator"].initial_seed() not in call["seeds"]


def test_an_image_without_a_reconstruction_scores_as_the_blind_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that returns nothing would raise, or be averaged over the images that it chose to return."""
    monkeypatch.setattr(scene.attacks, "run_many", Spy(lambda observation: black(observation)[:0]))
    seen = measure(PROTOCOL, BLOCK)
    assert seen.unmatched == 4
    assert seen.values["psnr"] == pytest.approx(seen.blind["psnr"], abs=1e-9)
    assert seen.values["rmse"] == pytest.approx(seen.blind["rmse"], abs=1e-9)


def test_values_are_means_over_images_of_gias_metrics(spy: Spy) -> None:
    """The table would hold something else than its column says."""
    seen = measure(PROTOCOL, BLOCK)
    private = torch.from_numpy(seen.originals).float() / 255  # digits have 17 gray levels: 8 bits cost 1/510 at most
    expected = metrics.psnr(torch.zeros_like(private), private)
    assert seen.values["psnr"] == pytest.approx(float(expected.mean()), abs=0.1)
    assert seen.values["psnr"] == pytest.approx(math.fsum(seen.per_image["psnr"]) / 4)
    assert seen.gradient_evaluations == 4 * 7


def test_a_real_attack_measures_the_same_twice_in_either_precision() -> None:
    """A resumed table would differ from an uninterrupted one."""
    for dtype in ("float32", "float64"):
        one, two = (measure(replace(PROTOCOL, dtype=dtype), BLOCK) for _ in range(2))
        assert one.values == two.values
        assert np.array_equal(one.reconstructions, two.reconstructions)


def test_an_interrupted_attack_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best image so far would be stored as a finished block."""

    def interrupted(observation: Observation) -> Tensor:
        warnings.warn("interrupted at step 3 of 5", Interrupted, stacklevel=2)
        return black(observation)

    monkeypatch.setattr(scene.attacks, "run_many", Spy(interrupted))
    with pytest.raises(KeyboardInterrupt):
        measure(PROTOCOL, BLOCK)


def test_a_drawn_setting_reaches_the_victim_the_attack_and_the_data(spy: Spy) -> None:
    """Hypothesis would vary nothing, and eight blocks would be one setting."""
    setting = {"victim.width": 8, "settings.steps": 3, "data": "cifar10-samples", "image_size": 32}
    drawn = PROTOCOL.drawn(setting)
    assert (drawn.victim["width"], drawn.settings["steps"], drawn.data) == (8, 3, "cifar10-samples")
    assert drawn.settings["total_variation"] == 0.0
    measure(PROTOCOL, replace(BLOCK, setting=setting))
    (call,) = spy.calls
    assert call["state"]["layers.0.weight"].shape == (8, 3 * 32 * 32)
    assert call["settings"]["steps"] == 3


def test_standardized_space_and_victim_go_together(spy: Spy) -> None:
    """The paper's scale would be run in another space than it says."""
    victim = {**PROTOCOL.victim, "standardize": {"mean": (0.5,), "std": (0.25,)}}
    measure(replace(PROTOCOL, victim=victim, space="standardized"), BLOCK)
    assert spy.calls[0]["settings"]["space"] == "standardized"
    seen = casting.victim(replace(PROTOCOL, victim=victim), BLOCK, load("digits", image_size=8), torch.float32)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = casting.victim(PROTOCOL, BLOCK, load("digits", image_size=8), torch.float32)
    assert torch.allclose(seen(images), plain((images - 0.5) / 0.25))


FISHED = replace(
    PROTOCOL, attack="fishing", fish=Fished(targets=3), batch_size=4, images=4, settings={"steps": 0}, score=("psnr",)
)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_each_fished_target_is_the_first_of_its_own_batch_and_stays_so(batch_size: int) -> None:
    """Levels of the batch size would compare different targets, or a target would be scored on its neighbour."""
    data = load("digits", image_size=8)
    chosen = casting.private(FISHED, BLOCK, data)
    seen = scene.Scene(replace(FISHED, batch_size=batch_size), BLOCK, data, chosen)
    assert [int(each.chosen) for each in seen.shared] == chosen[:3].tolist()
    assert [each.target for each in seen.shared] == data.labels[chosen[:3]].tolist()
    for each in seen.shared:
        assert each.observation.batch_size == batch_size
        weight = each.model.get_parameter("layers.2.weight")
        assert weight.any(1).nonzero().tolist() == [[each.target]], "the model is fished for this target"
        alone = share_gradient(each.model, each.reference, data.labels[each.chosen])
        assert torch.allclose(
            batch_size * each.observation.gradients["layers.0.weight"], alone.gradients["layers.0.weight"], atol=1e-6
        )


def test_a_fished_image_of_several_with_its_label_is_scored_as_the_one_that_was_caught() -> None:
    """The score would be against an image whose gradient the server did not isolate."""
    protocol = replace(FISHED, data="faces", image_size=16, pattern="equal", fish=Fished(kind="feature", targets=1))
    data = load("faces", image_size=16)
    for index in range(3):
        block = Block("toy.fish", index, {})
        (each,) = scene.Scene(protocol, block, data, casting.private(protocol, block, data)).shared
        alone = share_gradient(each.model, each.reference, data.labels[each.chosen])
        whole, own = 4 * each.observation.gradients["layers.0.weight"], alone.gradients["layers.0.weight"]
        assert torch.allclose(whole, own, atol=1e-3 * float(own.abs().max()))


def flattened(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defence that shares one random number in place of each entry."""
    value = float(torch.rand((), generator=generator))
    return replace(observation, gradients={k: torch.full_like(g, value) for k, g in observation.gradients.items()})


def halved(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defence that needs no randomness."""
    return replace(observation, gradients={k: g / 2 for k, g in observation.gradients.items()})


def test_what_a_client_shares_passes_its_defences_in_order_each_with_randomness_of_its_own(spy: Spy) -> None:
    """A defended level would be an undefended one, or all clients would draw one and the same noise."""
    for defenses in ((), (flattened,), (flattened, halved), (flattened, flattened)):
        measure(replace(PROTOCOL, defenses=defenses), BLOCK)
    plain, flat, half, twice = ([next(iter(o.gradients.values())) for o in c["observations"]] for c in spy.calls)
    assert all(len(g.unique()) > 1 for g in plain)
    assert all(len(g.unique()) == 1 for g in flat)
    assert len({float(g.flatten()[0]) for g in flat}) == len(flat)
    assert all(torch.equal(a / 2, b) for a, b in zip(flat, half, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(flat, twice, strict=True))


@pytest.mark.parametrize("pattern", ["distinct", "equal"])
def test_what_isolation_loses_is_told_by_the_same_image_alone(pattern: Any) -> None:
    """Against batches of one image each. Images mixed into the isolated gradient would cost nothing."""
    protocol = replace(
        FISHED, data="faces", image_size=16, pattern=pattern, pattern_batch=4, settings={"steps": 5}, dtype="float64"
    )
    seen = measure(replace(protocol, score=("psnr", "psnr_lost")), BLOCK).per_image
    alone = measure(replace(protocol, batch_size=1), BLOCK).per_image["psnr"]
    lost = [before - after for before, after in zip(alone, seen["psnr"], strict=True)]
    assert seen["psnr_lost"] == pytest.approx(lost, abs=1e-9)
    assert (max(map(abs, lost)) > 1e-3) == (pattern == "equal"), lost


def equipment(protocol: Protocol, model: nn.Module, public: Images, *, generator: torch.Generator, cache: Any) -> Any:
    """Settings that tell what an attacker was given."""
    return {"victim": model, "public": public, "draw": int(torch.randint(2**31, (1,), generator=generator))}


def test_the_attacker_s_equipment_is_made_from_public_images_only(spy: Spy) -> None:
    """A generator or an inverter would be trained on the images, or people, that it is to reveal."""
    people = replace(PROTOCOL, data="faces", image_size=16, equip=equipment, disjoint="labels", control_images=4)
    measure(people, BLOCK)
    measure(replace(people, disjoint="images"), BLOCK)
    measure(replace(people, public="digits"), BLOCK)
    disjoint, all_but, digits = (call["settings"]["public"] for call in spy.calls)
    data = load("faces", image_size=16)
    attacked = torch.cat([casting.private(people, BLOCK, data), casting.others(people, BLOCK, data)])
    assert not set(data.labels[attacked].tolist()) & set(disjoint.labels.tolist())
    assert len(all_but) == len(data) - len(attacked)
    pixels = all_but.images.flatten(1)
    assert not any(bool((pixels == data.images[index].flatten()).all(1).any()) for index in attacked)
    assert digits.source == load("digits", image_size=16).source
    assert len({call["settings"]["draw"] for call in spy.calls}) == 1


def bright(images: Images, *, generator: torch.Generator, cache: Any) -> nn.Module:
    """A judge that sees class 3 in a black image, else class 0."""

    class Bright(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            logits = torch.zeros(len(pictures), 10)
            logits[:, 3] = 1 - 2 * pictures.flatten(1).amax(1)
            return logits

    return Bright()


def test_scores_beyond_the_original_are_against_class_and_neighbours(spy: Spy) -> None:
    """An image's own PSNR would pass for that of another, or a judge would judge the originals."""
    protocol = replace(
        PROTOCOL, images=8, pattern_batch=8, score=("psnr", "psnr_other", "label_agreement"), judge=bright
    )
    seen = measure(protocol, BLOCK)
    data = load("digits", image_size=8)
    chosen = casting.private(protocol, BLOCK, data)
    assert seen.per_image["label_agreement"] == [float(label == 3) for label in data.labels[chosen]]
    others = casting.others_of_their_class(chosen, BLOCK, data)
    assert torch.equal(data.labels[others], data.labels[chosen])
    expected = metrics.psnr(torch.zeros(8, 1, 8, 8), data.images[others])
    assert seen.per_image["psnr_other"] == pytest.approx(expected.tolist())


def test_another_image_of_a_class_is_not_attacked_itself() -> None:
    """PSNR to the attacked image would be compared with that to another attacked one, or to itself."""
    faces = load("faces", image_size=16)  # ten of each person
    others = casting.others_of_their_class(torch.arange(8), BLOCK, faces)
    assert set(others.tolist()) <= {8, 9}
    with pytest.raises(ValueError, match="psnr_other: no other image in the data has label 0"):
        casting.others_of_their_class(torch.arange(10), BLOCK, faces)


def test_the_nearest_real_image_is_one_that_nobody_attacked(spy: Spy) -> None:
    """A perfect reconstruction would score 0 by its own original, and not by how real it looks."""
    protocol = replace(PROTOCOL, data="faces", image_size=32, images=1, pattern_batch=1, score=("lpips_nearest",))
    data = load("faces", image_size=32)
    for index in range(8):
        block = Block("toy.nearest", index, {})
        spy.answer = lambda observation, block=block: data.images[casting.private(protocol, block, data)]
        assert measure(protocol, block).values["lpips_nearest"] > 0.01
    other = casting.onlookers(protocol, BLOCK, data)[:1]
    spy.answer = lambda observation: data.images[other]
    assert measure(protocol, BLOCK).values["lpips_nearest"] < 1e-6
    spy.answer = black
    assert measure(replace(protocol, image_size=16), BLOCK).values["lpips_nearest"] is None
