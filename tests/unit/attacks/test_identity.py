"""The digest of what a search depends on: modules, functions and values, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gia
from gia.attacks.identity import digest_of_values


def test_a_digest_is_the_same_in_another_process():
    """If it fails, no killed search ever finds its file again."""
    code = (
        "import torch, gia, functools;"
        "from gia.attacks.identity import digest_of_values as d;"
        "g = torch.Generator().manual_seed(0);"
        "m = gia.models.build('resnet18', num_classes=3, image_size=8, width=2, generator=g);"
        "f = functools.partial(max, key={'b', 'a', 'c'}.__contains__) and functools.partial(sorted, frozenset('abc'));"
        "print(d(m, g, f, lambda x: x in {'u', 'v', 'w'}, gia.attacks.objectives.Cosine()))"
    )
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(gia.__file__).parents[1])}
        seen.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 16


def module(**changes):
    """A small module with a buffer, a child in a mode, and an attribute."""
    built = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(0.5)
    if "mode" in changes:
        built[1].eval()
    if "buffer" in changes:
        built[1].running_mean += 1
    if "attribute" in changes:
        built[1].momentum = 0.2
    if "hook" in changes:
        built[0].register_forward_hook(lambda *_: None)
    return built


@pytest.mark.parametrize("change", ["mode", "buffer", "attribute", "hook"])
def test_a_module_counts_by_all_that_its_output_depends_on(change):
    """If it fails, two victims share a checkpoint."""
    assert digest_of_values(module()) == digest_of_values(module())
    assert digest_of_values(module(**{change: True})) != digest_of_values(module())


def scaled(factor):
    """A function that has a value from outside."""
    return lambda value: factor * value


def test_a_function_counts_by_its_code_and_the_values_that_it_holds():
    """If it fails, a loss with another temperature goes on from the search with the first one."""
    assert digest_of_values(scaled(2)) == digest_of_values(scaled(2))
    assert len({digest_of_values(each) for each in (scaled(2), scaled(3), lambda value: value + 2, max)}) == 4


def test_values_in_a_circle_have_a_digest():
    """If it fails, a module that refers to itself ends in a recursion error."""
    circle = [1]
    circle.append(circle)
    assert digest_of_values(circle) == digest_of_values(circle)
