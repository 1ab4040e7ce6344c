"""Each attack again in a process that gets only what an attacker has: the model as sent and the saved observation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gia
from gia.attacks import ATTACKS
from tests.contracts.cases import CASES, CLASSES, SIZE, build, share
from tests.contracts.fresh import equipped
from tests.contracts.snapshots import bits

JOBS = [(name, dtype) for name in sorted(ATTACKS) if not CASES[name].missing for dtype in ("float32", "float64")]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The folder with the results of a fresh process, and what the attacks gave here."""
    folder, jobs, here = tmp_path_factory.mktemp("fresh"), [], {}
    for number, (name, dtype) in enumerate(JOBS):
        case = CASES[name]
        model = build(case, getattr(torch, dtype))
        observation = share(case, model, *case.batch(0, 1))
        save_file(model.state_dict(), folder / f"{number}.model.safetensors")
        observation.save(folder / f"{number}.observation.safetensors")
        victim = {"num_classes": CLASSES, "image_size": SIZE, **case.victim}
        settings = {**case.settings, **case.quick}
        job = {"attack": name, "dtype": dtype, "victim": victim, "edit": dict(case.edit)}
        jobs.append({**job, "settings": settings, "seed": number})
        with gia.numerics.reproducible():
            here[name, dtype] = ATTACKS[name](
                model,
                observation,
                generator=torch.Generator().manual_seed(number),
                **equipped(settings, model, observation),
            )
    (folder / "job.json").write_text(json.dumps(jobs), encoding="utf-8")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(gia.__file__).parents[1])}
    subprocess.run([sys.executable, Path(__file__).with_name("fresh.py"), folder], check=True, env=environment)
    return folder, here


def test_a_fresh_process_has_the_same_fingerprint(there):
    """If it fails, stored samples are never compared seed by seed, although the arithmetic is the same."""
    with gia.numerics.reproducible():
        assert (there[0] / "fingerprint").read_text(encoding="utf-8") == gia.numerics.fingerprint()


@pytest.mark.parametrize(("name", "dtype"), JOBS)
def test_a_fresh_process_gives_the_same_bits(there, name, dtype):
    """If it fails, an attack knows something that is neither in the model nor in the observation, such as the private
    batch, or hangs on the hash seed, the default dtype or the gradient mode of its process."""
    folder, here = there
    expected = here[name, dtype]
    with safe_open(folder / f"{JOBS.index((name, dtype))}.result.safetensors", framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        facts = file.metadata()
    kept = {key: value for key in ("images", "labels", "exact") if (value := getattr(expected, key)) is not None}
    assert {key: bits(value) for key, value in found.items()} == {
        key: bits(value.contiguous()) for key, value in kept.items()
    }
    assert facts == {
        "objective": repr(expected.objective),
        "gradient_evaluations": repr(expected.gradient_evaluations),
    }
