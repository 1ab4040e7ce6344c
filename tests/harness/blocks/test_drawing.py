"""The blocks of a claim: the same everywhere, drawn factor by factor from a hash, each with its own random numbers."""

import hashlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_block, draw_blocks

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


def test_draws_are_pinned_on_every_machine():
    """If this fails, the blocks behind every published verdict can no longer be drawn again.

    The numbers are sha256 of '["claims", "op.batch_size", INDEX, "data"]' modulo 3, and of the same with "bias" modulo
    2, taken with the sha256sum program and bc.
    """
    drawn = draw_blocks("op.batch_size", {"data": SPACE["data"], "bias": SPACE["bias"]}, 6)
    assert [block.setting["data"] for block in drawn] == ["cifar100", "faces", "cifar10", "cifar10", "faces", "faces"]
    assert [block.setting["bias"] for block in drawn] == [True, False, False, False, True, True]


def test_a_draw_is_the_hash_of_lane_claim_index_and_factor():
    """If this fails, the rule that blocks are drawn by is not the one that was published before they were."""
    for lane in ("claims", "pilot", "confirm:0f"):
        for index in range(20):
            block = draw_block("thm1.empirical", index, SPACE, lane=lane)
            for factor, values in SPACE.items():
                text = json.dumps([lane, "thm1.empirical", index, factor])
                number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
                assert block.setting[factor] == values[number % len(values)]
            assert (block.claim, block.index, block.lane) == ("thm1.empirical", index, lane)


def test_a_fresh_process_draws_the_same_blocks_whatever_its_hash_seed():
    """If this fails, a resumed or repeated run measures other blocks than the first and the store is worthless."""
    here = [
        f"{block} {block.generator('images', 3).initial_seed()}" for block in draw_blocks("op.batch_size", SPACE, 16)
    ]
    code = FRESH.format(space=dict(reversed(SPACE.items())))
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert process.stdout.splitlines() == here


def test_fewer_blocks_are_the_beginning_of_more_and_any_part_can_be_drawn_alone():
    """If this fails, a later look throws away the first look's blocks, or a replaced void block is another one."""
    all_blocks = draw_blocks("op.batch_size", SPACE, 20)
    for count in (1, 7, 8, 16):
        assert draw_blocks("op.batch_size", SPACE, count) == all_blocks[:count]
    assert draw_blocks("op.batch_size", SPACE, 4, first=16) == all_blocks[16:]
    assert [block.index for block in all_blocks] == list(range(20))


def test_the_order_of_the_factors_does_not_matter():
    """If this fails, moving a line in a protocol changes every block."""
    turned = dict(reversed(SPACE.items()))
    blocks = draw_blocks("op.batch_size", turned, 16)
    assert blocks == draw_blocks("op.batch_size", SPACE, 16)
    assert all(list(block.setting) == sorted(SPACE) for block in blocks)


def test_a_new_factor_moves_no_other_factor():
    """If this fails, a wider space also changes what was drawn before, and nobody can say which of both mattered."""
    wider = draw_blocks("op.batch_size", {"steps": [60, 120, 480], **SPACE}, 32)
    for block, before in zip(wider, draw_blocks("op.batch_size", SPACE, 32), strict=True):
        assert {factor: value for factor, value in block.setting.items() if factor != "steps"} == before.setting


def test_claims_and_lanes_draw_blocks_of_their_own():
    """If this fails, settings that were tried on pilot blocks are the ones that decide, or all claims share theirs."""
    drawn = [
        draw_blocks(claim, SPACE, 16, lane=lane)
        for claim, lane in (("a", "claims"), ("b", "claims"), ("a", "pilot"), ("a", "confirm:1"), ("a", "confirm:2"))
    ]
    assert len({str(settings_of(blocks)) for blocks in drawn}) == len(drawn)
    seeds = [block.generator("images").initial_seed() for blocks in drawn for block in blocks]
    assert len(set(seeds)) == len(seeds)


def test_settings_are_drawn_uniformly():
    """If this fails, blocks lean to some values of a factor, and a verdict to the settings that these belong to.

    Chi-squared per factor and index over 600 claims, limit 1e-4: fair draws fail once in 600 changes of the ids.
    """
    drawn = [settings_of(draw_blocks(f"claim {claim}", SPACE, 4)) for claim in range(600)]
    for index in range(4):
        for factor, values in SPACE.items():
            observed = [sum(settings[index][factor] == value for settings in drawn) for value in values]
            assert stats.chisquare(observed).pvalue > 1e-4, (index, factor, observed)


def test_factors_and_indices_are_drawn_independently():
    """If this fails, two factors move together, and a verdict cannot say which of them it depends on."""
    space = {"a": list(range(6)), "b": list(range(6)), "c": list(range(4))}
    blocks = draw_blocks("independence", space, 4000)
    columns = {factor: np.array([block.setting[factor] for block in blocks]) for factor in space}
    pairs = [(columns[one], columns[other]) for one, other in (("a", "b"), ("a", "c"), ("b", "c"))]
    pairs += [(column[:-1], column[1:]) for column in columns.values()]
    for one, other in pairs:
        counts = np.zeros((6, 6), int)
        np.add.at(counts, (one, other), 1)
        counts = counts[counts.any(1)][:, counts.any(0)]
        assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_a_space_may_be_smaller_than_the_number_of_blocks():
    """If this fails, a claim about a single setting cannot be tried: its blocks differ by victims and images."""
    for space in ({}, {"a": [1]}):
        blocks = draw_blocks("c", space, 9)
        assert [block.setting for block in blocks] == [dict.fromkeys(space, 1)] * 9
        assert len({block.generator("images").initial_seed() for block in blocks}) == 9


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ({1: [1, 2]}, TypeError, "space: expected strings as factors, got 1"),
        ({"a": [1, (2,)]}, TypeError, r"space\['a'\]: expected JSON scalars, got \(2,\)"),
        ({"a": []}, ValueError, r"space\['a'\]: expected at least one value, got none"),
        ({"a": [1, 2, 1]}, ValueError, r"space\['a'\]: expected different values, got \[1, 2, 1\]"),
        ({"a": [1.0, float("nan")]}, ValueError, r"space\['a'\]: expected finite numbers, got nan"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused_by_name(space, error, message):
    """If this fails, a slip in a protocol surfaces as an error somewhere else, or not at all."""
    with pytest.raises(error, match=message):
        draw_blocks("c", space, 1)


def test_no_blocks_and_an_index_below_zero_are_refused():
    """If this fails, a runner that asks for no blocks gets a verdict from nothing."""
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        draw_blocks("c", SPACE, 0)
    with pytest.raises(ValueError, match="index: expected at least 0, got -1"):
        draw_blocks("c", SPACE, 4, first=-1)


def test_the_generator_of_a_purpose_is_pinned_on_every_machine():
    """If this fails, victims, images and starts of stored blocks can no longer be drawn again.

    Seed: first 8 bytes of sha256 of '["claims", "op.batch_size", 3, "victim"]', taken with the sha256sum program.
    """
    generator = Block("op.batch_size", 3, {}).generator("victim")
    assert generator.initial_seed() == 0x3804EAFD03635D48
    assert generator.device.type == "cpu"


def test_generators_differ_by_lane_claim_index_and_every_part_of_the_purpose():
    """If this fails, two blocks share their images, or a victim and an attack start from the same noise."""
    generators = [
        Block("a", 0, {}).generator(),
        Block("a", 0, {}).generator("x"),
        Block("a", 0, {}).generator("x", 1),
        Block("a", 0, {}).generator("x", "1"),
        Block("a", 0, {}).generator("x1"),
        Block("a", 1, {}).generator("x"),
        Block("b", 0, {}).generator("x"),
        Block("a", 0, {}, lane="pilot").generator("x"),
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
