"""Where a row stands in the report."""

from __future__ import annotations

from gia.harness.report.layout import group_of

GROUPS = [
    {"prefixes": ["op", "gen_z"]},
    {"prefixes": ["gen_z.noise"]},
    {"title": "figures alone"},
    {"prefixes": ["ana"]},
]


def test_the_longest_prefix_decides_where_a_row_stands() -> None:
    """A mechanism of an attack would stand among the cells of its line, or nowhere."""
    assert group_of("gen_z.batch_size/2", GROUPS) == 0
    assert group_of("gen_z.noise/2", GROUPS) == 1
    assert group_of("gen_z.noises", GROUPS) == 0
    assert group_of("ana_arch.bins", GROUPS) is None
    assert group_of("ana.malicious", GROUPS) == 3
