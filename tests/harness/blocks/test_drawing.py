"""The blocks of a claim: the same everywhere, all different, uniform, each with its own random numbers."""

import inspect
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import Phase, settings
from scipy import stats

from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import PROFILES, claim_seed, draw_blocks

SPACE = {
    "data": ["cifar10", "cifar100", "faces"],
    "victim.width": [16, 24, 32],
    "bias": [True, False],
    "lr": [0.1, 1.0],
}

FRESH = """
from gia.harness.blocks.drawing import draw_blocks
for block in draw_blocks("op.batch_size", {space!r}, 16):
    print(block, block.generator("images", 3).initial_seed())
"""


def settings_of(blocks):
    """What was drawn, without claim and index."""
    return [block.setting for block in blocks]


def test_a_fresh_process_draws_the_same_blocks_whatever_its_hash_seed_and_profile():
    """If this fails, a resumed or repeated run measures other blocks than the first and the store is worthless."""
    here = [
        f"{block} {block.generator('images', 3).initial_seed()}" for block in draw_blocks("op.batch_size", SPACE, 16)
    ]
    code = FRESH.format(space=dict(reversed(SPACE.items())))  # nor does the order of the factors matter
    environment = {**os.environ, "PYTHONHASHSEED": "1", "CI": "1"}  # CI loads Hypothesis's own profile
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert process.stdout.splitlines() == here


def test_fewer_blocks_are_the_beginning_of_more():
    """If this fails, the second look throws away the first look's blocks and so looks three times."""
    all_blocks = draw_blocks("op.batch_size", SPACE, 20)
    for count in (1, 7, 8, 9, 16):
        assert draw_blocks("op.batch_size", SPACE, count) == all_blocks[:count]


def test_blocks_of_different_claims_differ():
    """If this fails, all claims share one set of settings and fail or hold together."""
    assert settings_of(draw_blocks("op.batch_size", SPACE, 8)) != settings_of(draw_blocks("op.resolution", SPACE, 8))


def test_every_setting_is_drawn_once_when_the_space_is_just_large_enough():
    """If this fails, blocks repeat a setting, or the setting that Hypothesis tries first can never be drawn."""
    blocks = draw_blocks("op.batch_size", {"a": [0, 1, 2, 3, 4, 5, 6, 7, 8], "b": [False, True]}, 18)
    assert sorted((block.setting["a"], block.setting["b"]) for block in blocks) == [
        (a, b) for a in range(9) for b in (False, True)
    ]
    assert [block.index for block in blocks] == list(range(18))


def test_a_space_that_is_too_small_is_an_error_that_gives_both_numbers():
    """If this fails, a small space ends in fewer blocks than the statistics count on, or in an endless loop."""
    with pytest.raises(ValueError, match=r"space: expected at least 8 settings for the blocks of 'c', got 6"):
        draw_blocks("c", {"a": [1, 2, 3], "b": [True, False]}, 8)


def test_without_factors_blocks_differ_by_their_index_alone():
    """If this fails, a claim that varies nothing but victims and images cannot be tried."""
    blocks = draw_blocks("c", {}, 3)
    assert settings_of(blocks) == [{}, {}, {}]
    assert len({block.generator("images").initial_seed() for block in blocks}) == 3


def test_settings_are_drawn_uniformly_at_every_position():
    """If this fails, blocks lean to the simplest setting, where Hypothesis likes to begin, or away from it.

    The first four blocks of 100 claims, chi-squared per position and factor: fair draws fail once in 600 changes of
    the ids.
    """
    drawn = [settings_of(draw_blocks(f"claim {claim}", SPACE, 4)) for claim in range(100)]
    for position in range(4):
        for name, values in SPACE.items():
            observed = [sum(settings[position][name] == value for settings in drawn) for value in values]
            assert stats.chisquare(observed).pvalue > 1e-4, (position, name, observed)


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ({1: [1, 2]}, TypeError, "space: expected strings as factors, got 1"),
        ({"a": [1, (2,)]}, TypeError, r"space\['a'\]: expected JSON scalars, got \(2,\)"),
        ({"a": []}, ValueError, r"space\['a'\]: expected 1 to 100 values, got 0"),
        ({"a": range(101)}, ValueError, "expected 1 to 100 values, got 101"),
        ({"a": [1, 2, 1]}, ValueError, r"space\['a'\]: expected different values, got \[1, 2, 1\]"),
        ({"a": [1.0, float("nan")]}, ValueError, r"space\['a'\]: expected finite numbers, got nan"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused_by_name(space, error, message):
    """If this fails, a slip in a protocol surfaces as an error inside Hypothesis, or not at all."""
    with pytest.raises(error, match=message):
        draw_blocks("c", space, 1)


def test_a_count_below_one_is_refused():
    """If this fails, a runner that asks for no blocks gets a verdict from nothing."""
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        draw_blocks("c", SPACE, 0)


def test_the_generator_of_a_purpose_is_pinned_on_every_machine():
    """If this fails, victims, images and starts of stored blocks can no longer be drawn again.

    Seed: first 8 bytes of sha256 of '["op.batch_size", 3, "victim"]', taken with the sha256sum program.
    """
    generator = Block("op.batch_size", 3, {}).generator("victim")
    assert generator.initial_seed() == 0x709136B98AB73D1E
    assert generator.device.type == "cpu"


def test_generators_differ_by_claim_index_and_every_part_of_the_purpose():
    """If this fails, two blocks share their images, or a victim and an attack start from the same noise."""
    generators = [
        Block("a", 0, {}).generator(),
        Block("a", 0, {}).generator("x"),
        Block("a", 0, {}).generator("x", 1),
        Block("a", 0, {}).generator("x", "1"),
        Block("a", 0, {}).generator("x1"),
        Block("a", 1, {}).generator("x"),
        Block("b", 0, {}).generator("x"),
    ]
    draws = {tuple(torch.rand(4, generator=generator).tolist()) for generator in generators}
    assert len(draws) == len(generators)


def test_a_generator_starts_again_at_each_call_and_leaves_the_global_one_alone():
    """If this fails, what a block measures depends on what was drawn before."""
    before = torch.get_rng_state()
    first, second = (torch.rand(4, generator=Block("a", 0, {}).generator("x")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("purpose", [1.0, None, True, ("x",)])
def test_a_purpose_of_another_type_is_refused(purpose):
    """If this fails, a float or an object with an address in its text seeds a block."""
    with pytest.raises(TypeError, match="expected strings and integers"):
        Block("a", 0, {}).generator(purpose)


def test_a_block_survives_the_way_to_another_process():
    """If this fails, no worker can be given its block."""
    block = draw_blocks("c", SPACE, 1)[0]
    assert pickle.loads(pickle.dumps(block)) == block


def test_every_profile_states_every_field_of_hypothesis_settings():
    """If this fails, a field comes from the profile that is loaded, which on CI is Hypothesis's own."""
    known = set(inspect.signature(settings.__init__).parameters) - {"self", "parent"}
    for name, fields in PROFILES.items():
        assert set(fields) == known, name
        profile = settings.get_profile(name)
        assert {field: getattr(profile, field) for field in ("database", "deadline")} == {
            "database": None,
            "deadline": None,
        }
    assert settings.get_profile("claims").phases == (Phase.generate,)


def test_the_seed_of_a_claim_is_the_crc32_of_its_id():
    """If this fails, an edit of the code or another hash seed gives a claim other examples.

    The number is the published check value of CRC-32/ISO-HDLC.
    """
    assert claim_seed("123456789") == 0xCBF43926
