"""`python -m gia audit`: what a set-up leaks, in the terminal, as audit.json and as the page audit.html."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gia.audit.kinds import KINDS
from gia.audit.report import MARK, AuditReport, TooMuchLeaks
from gia.errors import expected_one_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["add_arguments", "run"]

#: The files in the folder of `--out`, and the folder of finished parts there.
JSON, HTML, PARTS = "audit.json", "audit.html", "audit.parts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and the options of its set-up."""
    parser.add_argument("model", metavar="package.module:make_model", help="a function or class that makes your model")
    of = parser.add_argument
    of("--image-size", metavar="N|HxW", default="32", help="pixels of an image, such as 32 or 24x32")
    of("--channels", type=int, choices=(1, 3), help="of an image; by default what the model takes")
    of("--classes", type=int, metavar="N", help="by default the outputs of the model")
    of("--batch-size", type=int, metavar="N", default=8, help="private images of a client (8)")
    of("--epochs", type=int, metavar="N", default=1, help="of local training; with --lr")
    of("--lr", type=float, metavar="RATE", help="of local training; without it the gradient of the batch is shared")
    of("--momentum", type=float, metavar="M", default=0.0, help="of local training")
    of("--local-batch-size", type=int, metavar="N", help="of local training; by default the whole batch")
    of("--data", metavar="NAME|FOLDER", help="images of clients and attacker: a data set of gia, or your own pictures")
    of("--data-root", "--root", dest="root", metavar="FOLDER", help="folder of the full data sets (python -m gia data)")
    of("--defense", metavar="NAME=VALUE", action="append", default=[], help="such as clip=1.0; may be given again")
    of("--against", metavar="TYPES", default="all", help=f"all, or some of {','.join(KINDS)}")
    of("--budget", choices=("quick", "full"), default="quick", help="about two minutes, or until searches converge")
    of("--steps", type=int, metavar="N", help="of each search, in place of those of the budget")
    of("--eval-mode", action="store_true", help="batch normalization with running statistics")
    of("--loss", metavar="module:function", default="cross_entropy", help="or cross_entropy, bce, mse")
    of("--gradient", metavar="FILE", help="a captured gradient: .safetensors, .pt or .npz")
    of("--originals", metavar="FOLDER", help="the images behind --gradient")
    of("--device", help="such as cuda")
    of("--seed", type=int, default=0, help="of the model, of the choice of images and of the attacks (0)")
    of("--max-leak", metavar="TYPE=DB", action="append", default=[], help="exit with 1 above it; may be given again")
    of("--out", type=Path, metavar="DIR", default=Path(), help="folder of audit.json and audit.html (this one)")


def run(options: argparse.Namespace) -> int:
    """Audit, print the report, and write it; return 0, 1 above `--max-leak`, 2 for wrong options, 130 if stopped.

    Options are checked before torch is imported, which takes seconds.
    """
    if "torch" not in sys.modules:  # threads that wait for each other would use up a loaded machine
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options.image_size = _size(options.image_size)
        limits = dict(map(_limit, options.max_leak))
        _check_own(options.out)
        report = _audited(options)

        from gia.audit.page import to_html
        from gia.numerics import replacing
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"python -m gia audit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on, from {options.out / PARTS}", file=sys.stderr)
        return 130
    print(report.text())
    for name, text in ((JSON, report.to_json()), (HTML, to_html(report))):
        with replacing(options.out / name, private=True) as partial:
            partial.write_text(text, encoding="utf-8")
    print(f"written: {options.out / JSON} and {options.out / HTML}, a page that contains private images")
    try:
        if limits:
            report.check(limits)
    except TooMuchLeaks as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _audited(options: argparse.Namespace) -> AuditReport:
    import torch

    from gia.audit.auditing import audit
    from gia.audit.parts import Parts
    from gia.audit.progress import Progress

    options.out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=()):  # a user's function draws its weights from the global state
        torch.manual_seed(options.seed)
        model = _made(options.model)
    parts = options.out / PARTS
    with Progress() as progress:
        report = audit(
            model,
            data=options.data,
            image_size=options.image_size,
            channels=options.channels,
            classes=options.classes,
            batch_size=options.batch_size,
            epochs=options.epochs,
            lr=options.lr,
            momentum=options.momentum,
            local_batch_size=options.local_batch_size,
            defenses=options.defense,
            against=options.against,
            budget=options.budget,
            steps=options.steps,
            training=not options.eval_mode,
            loss=_imported("loss", options.loss) if ":" in options.loss else options.loss,
            device=options.device,
            gradient=options.gradient,
            originals=options.originals,
            root=options.root,
            seed=options.seed,
            parts=parts,
            progress=progress,
        )
    Parts(parts).remove()
    return report


def _made(path: str) -> nn.Module:
    """The model of "package.module:make_model": what the function returns, or a module that has this name."""
    from torch import nn

    from gia.audit.setup import one_line

    found = _imported("model", path)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise TypeError(f"model: expected a function that makes a module at {path!r}, got {type(found).__name__}")
        try:
            found = found()
        except Exception as error:  # the user's own code
            raise ValueError(f"model: expected {path} to make a module, got {one_line(error)}") from error
    if not isinstance(found, nn.Module):
        raise TypeError(f"model: expected {path} to make a torch.nn.Module, got {type(found).__name__}")
    return found


def _imported(argument: str, path: str) -> Any:
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{argument}: expected package.module:name, got {path!r}")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{argument}: expected a module that can be imported in {path!r}, got {error}") from error
    if not hasattr(found, name):
        raise ValueError(expected_one_of(argument, name, [key for key in vars(found) if not key.startswith("_")][:20]))
    return getattr(found, name)


def _check_own(folder: Path) -> None:
    """Raise ValueError where a file of the folder would be overwritten that no audit has made."""
    for name in (JSON, HTML):
        if (path := folder / name).exists() and not _is_own(path):
            raise ValueError(f"out: expected a folder without a foreign {name}, got {folder}; it is not overwritten")


def _is_own(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            return f'<meta name="generator" content="{MARK}">' in text
        found = json.loads(text)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("generator") == MARK


def _size(text: str) -> int | tuple[int, int]:
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"image-size: expected N or HxW, such as 32 or 24x32, got {text!r}")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in KINDS:
        raise ValueError(expected_one_of("max-leak", name, list(KINDS)))
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"max-leak: expected TYPE=DB, got {text!r}") from None
