"""Everything that an attack must leave as it found it, as plain values that can be compared bit for bit."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gia


def bits(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """A tensor's values, shape, strides, dtype and device."""
    if tensor is None:
        return None
    values = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    return values.numpy().tobytes(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def model_state(model: nn.Module) -> dict[str, Any]:
    """Parameters, buffers, gradients, flags, modes and hooks."""
    return {
        "parameters": {k: (id(p), bits(p), bits(p.grad), p.requires_grad) for k, p in model.named_parameters()},
        "buffers": {k: (id(b), bits(b)) for k, b in model.named_buffers()},
        "modules": {
            k: (id(m), m.training, *(list(getattr(m, kind)) for kind in vars(m) if kind.endswith("_hooks")))
            for k, m in model.named_modules()
        },
    }


def observation_state(observation: gia.Observation) -> dict[str, Any]:
    """All fields of an observation."""
    statistics = observation.batch_norm
    return {
        "gradients": {name: bits(value) for name, value in observation.gradients.items()},
        "labels": bits(observation.labels),
        "batch_norm": statistics and {name: tuple(map(bits, pair)) for name, pair in statistics.items()},
        "rest": [
            getattr(observation, name) for name in ("image_shape", "batch_size", "training", "local", "trainable")
        ],
    }


def global_state() -> dict[str, Any]:
    """Random states, modes, flags, threads and the environment of this process."""
    numpy_state = np.random.get_state()  # noqa: NPY002 (the global state is what is watched)
    return {
        "torch": bits(torch.get_rng_state()),
        "numpy": (numpy_state[0], numpy_state[1].tobytes(), *numpy_state[2:]),
        "random": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "cudnn": [
            getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
        ],
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "mkldnn": torch.backends.mkldnn.enabled,
        # torch.optim imports torch's compiler at its first step, and that writes TORCHINDUCTOR_CACHE_DIR: not ours.
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR_")},
    }


def same_reconstruction(one: gia.Reconstruction, other: gia.Reconstruction) -> bool:
    """Whether two reconstructions agree bit for bit in every field."""
    return all(
        bits(a) == bits(b) if isinstance(a, Tensor) else a == b
        for a, b in ((getattr(one, name), getattr(other, name)) for name in vars(one))
    )
