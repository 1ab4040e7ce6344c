"""What a GPU says of the attacks: the same images as the CPU's, and the cost of a step. At most 8 minutes.

    python -m tests.device --out device

Writes device.json, agreement.png and steps.png into the folder. Without a GPU it says so, and exits with status 2. What
does not fit into the time is listed as left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import gia
from tests.contracts.cases import CASES, build, share
from tests.contracts.fresh import equipped
from tests.xla import moved

#: The victims whose steps are timed: name -> arguments of `gia.models.build`, and the side of its images.
VICTIMS: dict[str, tuple[dict[str, Any], int]] = {
    "small": ({"name": "convnet", "width": 32}, 32),
    "resnet18": ({"name": "resnet18", "width": 64}, 32),
    "vit_tiny": ({"name": "vit_tiny"}, 32),
}
TRIALS = (1, 4, 16, 64)

#: How far images of a quick search may differ from the CPU's.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}


def now(device: torch.device) -> float:
    """Seconds, once the device has done what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The least time of some calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = now(device)
        work()
        times.append(now(device) - began)
    return min(times[1:])


def agreement(name: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """How far an attack's images on the device are from the CPU's."""
    case, found = CASES[name], []
    for place in (torch.device("cpu"), device):
        model = build(case, dtype)
        observation = share(case, model, *case.batch(0, 1))
        settings = equipped({**case.settings, **case.quick}, model, observation)
        settings = {key: moved(value, place) for key, value in settings.items()}
        generator = torch.Generator().manual_seed(0)
        result = gia.attacks.ATTACKS[name](model.to(place), observation.to(place), generator=generator, **settings)
        found.append(result.images.cpu())
    difference = float((found[0] - found[1]).abs().max()) if found[0].shape == found[1].shape else float("inf")
    row = {"attack": name, "dtype": str(dtype), "difference": difference}
    return {**row, "equal": difference <= TOLERANCE[dtype]}


def step(victim: str, trials: int, device: torch.device, *, steps: int = 10) -> dict[str, Any]:
    """Milliseconds of a step of the search over all trials, of seven forward passes, and of a plain closure's step."""
    arguments, side = VICTIMS[victim]
    generator = torch.Generator().manual_seed(0)
    model = gia.models.build(num_classes=10, image_size=side, generator=generator, **arguments).eval()
    images, labels = torch.rand(1, 3, side, side, generator=generator), torch.tensor([3])
    observation = gia.share_gradient(model, images, labels, reveal=("labels",)).to(device)
    model = model.to(device)

    def search(count: int) -> None:
        generators = [torch.Generator().manual_seed(i) for i in range(trials)]
        gia.attacks.run_many("inverting_gradients", model, [observation] * trials, generators=generators, steps=count)

    many, known = images.to(device).repeat(trials, 1, 1, 1), labels.to(device)
    target = [gradient.flatten() for gradient in observation.gradients.values()]

    def closure() -> None:
        guess = images.to(device).requires_grad_()
        gradients = torch.autograd.grad(cross_entropy(model(guess), known), list(model.parameters()), create_graph=True)
        products = sum((one.flatten() * other).sum() for one, other in zip(gradients, target, strict=True))
        torch.autograd.grad(products, guess)

    with torch.no_grad():
        forward = seconds_of(lambda: model(many), device)
    search(1)  # the engine is chosen, and the kernels are compiled
    long, short = (seconds_of(lambda count=count: search(count), device, 2) for count in (steps + 1, 1))
    row = {"victim": victim, "trials": trials, "step_ms": 1e3 * (long - short) / steps, "floor_ms": 7e3 * forward}
    return row | ({"closure_ms": 1e3 * seconds_of(closure, device)} if trials == 1 else {})


def draw(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Both pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = rows["agreement"]
    axes.barh([f"{row['attack']} {row['dtype'][6:]}" for row in shown], [row["difference"] + 1e-17 for row in shown])
    axes.set(xscale="log", xlabel="largest difference of a pixel from the CPU's")
    axes.tick_params(labelsize=6)
    figure.savefig(folder / "agreement.png", dpi=150)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, victim in enumerate(dict.fromkeys(row["victim"] for row in rows["steps"])):
        own = [row for row in rows["steps"] if row["victim"] == victim]
        trials = [row["trials"] for row in own]
        axes.plot(trials, [row["step_ms"] for row in own], f"C{number}o-", label=victim)
        axes.plot(trials, [row["floor_ms"] for row in own], f"C{number}:", label=f"{victim}, seven forward passes")
    axes.set(xscale="log", yscale="log", xlabel="trials", ylabel="ms per step")
    if rows["steps"]:
        axes.legend(fontsize=7)
    figure.savefig(folder / "steps.png", dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and return the exit status: 1 where images differ, 2 without a device."""
    parser = argparse.ArgumentParser(prog="python -m tests.device", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu only tries the script itself")
    parser.add_argument("--out", type=Path, default=Path("device"), help="a folder for the results")
    parser.add_argument("--seconds", type=float, default=450, help="nothing new begins after this time")
    parser.add_argument("--attacks", nargs="*", default=sorted(CASES))
    parser.add_argument("--victims", nargs="*", default=list(VICTIMS))
    parser.add_argument("--trials", nargs="*", type=int, default=list(TRIALS))
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"no CUDA device: torch {torch.__version__} sees none; nothing was measured")  # noqa: T201
        return 2
    device, began = torch.device(options.device), time.monotonic()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    rows: dict[str, list[dict[str, Any]]] = {"agreement": [], "steps": [], "failed": []}
    work: list[tuple[str, str, Callable[[], dict[str, Any]]]] = []
    for attack in options.attacks:
        for dtype in () if CASES[attack].missing else (torch.float32, torch.float64):
            label = f"{attack} in {dtype}"
            work.append(("agreement", label, lambda attack=attack, dtype=dtype: agreement(attack, dtype, device)))
    for victim in options.victims:
        for trials in options.trials:
            label = f"{victim} with {trials} trials"
            work.append(("steps", label, lambda victim=victim, trials=trials: step(victim, trials, device)))
    left_out = []
    options.out.mkdir(parents=True, exist_ok=True)
    for kind, label, measure in work:
        if time.monotonic() - began > options.seconds:
            left_out.append(label)
            continue
        try:
            with gia.numerics.reproducible():
                rows[kind].append(measure())
        except (RuntimeError, ValueError, ImportError) as error:  # one that fails must not cost the others
            rows["failed"].append({"what": label, "error": f"{type(error).__name__}: {error}"[:500]})
        content = {"device": name, "torch": torch.__version__, **rows, "left_out": left_out}
        (options.out / "device.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    content = {"device": name, "torch": torch.__version__, **rows, "left_out": left_out}
    (options.out / "device.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(options.out, rows)
    return int(bool(rows["failed"]) or not all(row["equal"] for row in rows["agreement"]))


if __name__ == "__main__":
    raise SystemExit(main())
