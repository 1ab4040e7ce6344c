"""The easy case of each attack on a second device that a machine without a GPU has: torch-xla on the CPU.

    PJRT_DEVICE=CPU python -m tests.xla --seconds 120 --out second_device.json

An attack passes where its images on `xla:0` are those on the CPU to 1e-5. XLA compiles each new graph, so an attack
takes tens of seconds; each runs in a separate process, which is ended at its limit. Exit status 1 says that one
differs or fails. `nox -s second_device` runs this in a separate environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import gia
from tests.contracts.cases import CASES, build, share
from tests.contracts.fresh import equipped

#: How far images may differ.
TOLERANCE = 1e-5

#: Attacks that are left out, and why.
LEFT_OUT = dict.fromkeys(
    ("dlg", "idlg"), "its line search asks for a number at each evaluation, for which XLA compiles"
)


def compared(name: str, device: torch.device) -> dict[str, Any]:
    """How far an attack's images on a device are from those on the CPU, and what both took."""
    case, found, seconds = CASES[name], {}, {}
    for place in (torch.device("cpu"), device):
        began = time.perf_counter()
        model = build(case, torch.float32)
        observation = share(case, model, *case.batch(0, 1))
        settings = equipped({**case.settings, **case.quick}, model, observation)
        settings = {key: moved(value, place) for key, value in settings.items()}
        generator = torch.Generator().manual_seed(0)
        attack = gia.attacks.ATTACKS[name]
        found[place.type] = attack(model.to(place), observation.to(place), generator=generator, **settings).images.cpu()
        seconds[place.type] = round(time.perf_counter() - began, 1)
    one, other = found["cpu"], found[device.type]
    difference = float((one - other).abs().max()) if one.shape == other.shape else float("inf")
    return {"attack": name, "difference": difference, "equal": difference <= TOLERANCE, "seconds": seconds}


def moved(value: Any, place: torch.device) -> Any:
    """A setting on a device, where it is one that lies on one."""
    return value.to(place) if isinstance(value, torch.nn.Module | torch.Tensor | gia.attacks.Inverter) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all attacks, or one; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.xla", description=__doc__.splitlines()[0])
    parser.add_argument("--attack", choices=sorted(CASES), help="compare this one in this process")
    parser.add_argument("--seconds", type=float, default=250, help="the most that one attack may take")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args(arguments)
    if options.attack is not None:
        import torch_xla

        print(json.dumps(compared(options.attack, torch_xla.device())))  # noqa: T201
        return 0
    rows = []
    for name in sorted(CASES):
        if name in LEFT_OUT or CASES[name].missing:
            rows.append({"attack": name, "left out": LEFT_OUT.get(name, f"needs {CASES[name].package}")})
        else:
            rows.append(_alone(name, options.seconds))
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201
        if options.out is not None:
            options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(not row["equal"] for row in rows if "left out" not in row))


def _alone(name: str, seconds: float) -> dict[str, Any]:
    """`compared` in a separate process."""
    command = [sys.executable, "-m", "tests.xla", "--attack", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"attack": name, "equal": False, "failed": f"did not end in {seconds:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"attack": name, "equal": False, "failed": lines[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


if __name__ == "__main__":
    raise SystemExit(main())
