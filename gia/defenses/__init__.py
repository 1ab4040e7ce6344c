"""Defenses: what a client does to what it shares, before anybody sees it.

Those in `gia.defenses.perturbation` change a finished answer and are called as defense(observation, generator=...).
Those in `gia.defenses.training` take the place of the client's gradient in each step, since they need the private
images. `gia.federated.Client(defenses=..., defense_generator=...)` takes both. They are values: frozen, with equality
and a short `repr`. Their names are in lower case because they are used as functions, as `functools.partial` is.

>>> import torch, gia
>>> seed = torch.Generator().manual_seed(0)
>>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=seed)
>>> defenses = [gia.defenses.dp_sgd(clip=1.0, noise=0.1), gia.defenses.prune(keep=0.1)]
>>> images, labels = torch.rand(2, 3, 4, 4, generator=seed), torch.tensor([0, 2])
>>> client = gia.federated.Client(images, labels, defenses=defenses, defense_generator=seed)
>>> sum(int((g != 0).sum()) for g in client.answer(model).gradients.values())
28
"""

from __future__ import annotations

from gia.defenses.aggregation import secure_aggregation
from gia.defenses.parsing import DEFENSES, parse
from gia.defenses.perturbation import clip, noise, prune, quantize
from gia.defenses.training import dp_sgd, soteria

__all__ = ["DEFENSES", "clip", "dp_sgd", "noise", "parse", "prune", "quantize", "secure_aggregation", "soteria"]
