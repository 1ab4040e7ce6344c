"""A process that attacks with the model as sent and the saved observation, and holds nothing else.

Started once, as `python -m claims.outsider`, it reads a line of JSON for each attack and answers with a line:

    {"folder", "victim", "dtype", "seed", "settings"} folder holds model.safetensors and observation.safetensors
    "done"                                            and folder holds images.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import gia


def attacked(folder: Path, *, victim: dict[str, Any], dtype: str, seed: int, settings: dict[str, Any]) -> torch.Tensor:
    """The images that Inverting Gradients finds with what lies in `folder`."""
    some = torch.Generator().manual_seed(0)  # weights that the file replaces
    model = gia.models.build(generator=some, dtype=getattr(torch, dtype), **victim)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    observation = gia.Observation.load(folder / "observation.safetensors")
    with gia.numerics.reproducible():
        return gia.attacks.inverting_gradients(
            model, observation, generator=torch.Generator().manual_seed(seed), **settings
        ).images


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request.pop("folder"))
        save_file({"images": attacked(folder, **request)}, folder / "images.safetensors")
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
