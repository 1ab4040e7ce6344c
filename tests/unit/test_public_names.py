"""The inventory of public names. A name that moves breaks users: change it on purpose."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gia
from gia.integrations import flower, opacus

ROOT = Path(gia.__file__).parent

#: Where users look -> what they find there. More may be there; none of these may go.
PUBLIC = {
    gia: {
        "LocalTraining",
        "Observation",
        "Reconstruction",
        "ValidationReport",
        "attacks",
        "audit",
        "data",
        "defenses",
        "federated",
        "metrics",
        "models",
        "numerics",
        "pictures",
        "share_gradient",
        "share_update",
        "theory",
        "validate_model",
    },
    gia.attacks: {
        "ATTACKS",
        "CARDS",
        "Attack",
        "Card",
        "Inverter",
        "NothingFound",
        "Reconstruction",
        "card_of",
        "checkpointing",
        "ci_net",
        "data_term",
        "data_terms",
        "dlg",
        "find",
        "fish",
        "fishing",
        "ggl",
        "gias",
        "gradinversion",
        "idlg",
        "inverting_gradients",
        "labels",
        "learning_to_invert",
        "linear_layer",
        "patch_embedding",
        "patch_span",
        "registered",
        "robbing_the_fed",
        "run_many",
        "train_inverter",
        "trap_weights",
    },
    gia.audit: {"KINDS", "AuditReport", "Leak", "audit", "to_html"},
    gia.data: {"Images", "load", "sample"},
    gia.defenses: {
        "DEFENSES",
        "DesignFinding",
        "Pipeline",
        "clip",
        "design_findings",
        "dp_sgd",
        "noise",
        "parse",
        "prune",
        "quantize",
        "secure_aggregation",
        "soteria",
    },
    gia.federated: {
        "Client",
        "Finding",
        "LastAccepted",
        "LocalTraining",
        "Observation",
        "RefusedModel",
        "ValidationReport",
        "fit_limits",
        "server",
        "set_mode",
        "share_gradient",
        "share_update",
        "validate_model",
    },
    gia.federated.server: {"Imprint", "fish_class", "fish_feature", "flatten_blocks", "imprint", "trap_weights"},
    flower: {"observation", "validation_mod"},
    opacus: {"observation"},
    gia.metrics: {
        "align",
        "blind_guess",
        "cw_ssim",
        "jaccard",
        "lpips",
        "match",
        "psnr",
        "rdlv",
        "ssim",
    },
    gia.models: {
        "OverParameterized",
        "add_classifier",
        "build",
        "lora",
        "pretrained",
        "standardization",
        "standardize",
    },
    gia.theory: {"corrected_bound", "expected_exact_recoveries", "theorem1_bound"},
}

#: Function -> its positional parameters, and keywords that must stay. Keyword-only ones may be added freely.
SIGNATURES = {
    "Observation": ("gradients image_shape batch_size training labels local batch_norm trainable", ""),
    "Observation.from_tensors": ("model tensors", "image_shape batch_size training labels local batch_norm trainable"),
    "Observation.save": ("self path", ""),
    "Observation.load": ("path", ""),
    "Observation.to": ("self device", ""),
    "LocalTraining": ("epochs batch_size lr momentum", ""),
    "Reconstruction": ("images labels exact objective gradient_evaluations converged", ""),
    "share_gradient": ("model images labels", "reveal loss training"),
    "share_update": ("model images labels", "local reveal order loss training"),
    "federated.Client": ("images labels", "local reveal defenses validate loss training"),
    "federated.Client.answer": ("self model", ""),
    "audit.audit": (
        "model",
        "data image_size channels classes batch_size epochs lr momentum local_batch_size defenses against budget steps "
        "batches what_if validate training loss device gradient originals labels root seed parts progress",
    ),
    "audit.AuditReport.check": ("self max_leak", ""),
    "attacks.labels.restore": ("model observation", "rule"),
    "validate_model": ("received expected", "batch"),
    "federated.LastAccepted": ("agreed", "batch"),
    "federated.server.imprint": ("model", "image_shape bins probe quantiles sparse generator"),
    "federated.server.fish_class": ("model", "target"),
    "federated.server.fish_feature": ("model", "decoy cutoff"),
    "federated.server.flatten_blocks": ("model", "scale sharpness generator"),
    "federated.server.trap_weights": ("model", "scale generator"),
    "attacks.fish": ("model client", "target queries generator"),
    "attacks.train_inverter": (
        "model images labels",
        "batch_size generator hidden epochs lr training_batch hashed by_label held_out patience local training loss "
        "cache progress",
    ),
    "attacks.Inverter.save": ("self path", ""),
    "attacks.Inverter.load": ("path", ""),
    "attacks.run_many": ("attack model observations", "generators"),
    "attacks.data_term": ("attack model observation images labels", ""),
    "attacks.data_terms": ("attack model observation images labels", ""),
    "attacks.find": ("attack", ""),
    "attacks.card_of": ("attack", ""),
    "attacks.registered": ("", ""),
    "models.OverParameterized": ("", "image_shape batch_size generator"),
    "models.build": ("name", "num_classes image_size channels width activation init generator dtype"),
    "models.lora": ("model", "rank alpha targets head generator"),
    "models.add_classifier": ("trunk", "num_classes generator"),
    "models.standardize": ("net", "mean std"),
    "models.pretrained": ("name", ""),
    "data.load": ("name", "image_size root"),
    "data.sample": ("images count", "pattern batch_size generator"),
    "metrics.psnr": ("reconstruction reference", ""),
    "metrics.ssim": ("reconstruction reference", ""),
    "metrics.lpips": ("reconstruction reference", "net"),
    "metrics.match": ("reconstruction reference", "by"),
    "theory.theorem1_bound": ("", "mu smoothness iterations initial_error kappa batch_size image_shape"),
    "theory.expected_exact_recoveries": ("batch_size bins", "model"),
    "theory.corrected_bound": ("", "mu smoothness step_size iterations initial_error kappa"),
    "numerics.reproducible": ("", "threads"),
}

ATTACK_SETTINGS = {
    "ci_net": "steps lr signed schedule converged objective total_variation priors decoder loss callback",
    "dlg": "steps lr history converged objective restarts init loss callback",
    "idlg": "steps lr history converged objective restarts init loss callback",
    "gias": (
        "steps latent_steps latent_lr weight_lr schedule converged objective total_variation divergence decoder loss "
        "callback"
    ),
    "ggl": "decoder optimizer steps population lr bound converged objective mirror loss callback",
    "gradinversion": (
        "steps lr schedule converged noise objective total_variation l2 batch_norm seeds group radius init space box "
        "loss callback"
    ),
    "inverting_gradients": (
        "steps lr signed schedule converged objective total_variation priors restarts init space box loss callback"
    ),
    "learning_to_invert": "inverter loss",
    "linear_layer": "layer agreement loss",
    "patch_embedding": "smoothness loss",
    "patch_span": "smoothness loss",
    "robbing_the_fed": "layer loss",
    "trap_weights": "layer agreement loss",
    "fishing": "target steps converged total_variation restarts space loss callback",
}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_stay_where_users_found_them(module):
    """If it fails, `from gia import ...` of somebody's script breaks, or `__all__` lists what is not there."""
    assert PUBLIC[module] <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)) == module.__all__


@pytest.mark.parametrize("path", SIGNATURES)
def test_pinned_signatures_stay(path):
    """If it fails, calls that users have written stop working; more keyword-only arguments are welcome."""
    function = gia
    for name in path.split("."):
        function = getattr(function, name)
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert positional == SIGNATURES[path][0].split()
    assert set(SIGNATURES[path][1].split()) <= keywords


@pytest.mark.parametrize("name", sorted(gia.attacks.ATTACKS))
def test_attacks_take_a_model_an_observation_a_generator_and_keyword_settings(name):
    """If it fails, attacks can no longer be exchanged for each other, or a setting was renamed."""
    parameters = inspect.signature(gia.attacks.ATTACKS[name]).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["model", "observation"]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert keywords[0] == "generator"
    assert set(ATTACK_SETTINGS[name].split()) <= set(keywords)


def test_it_is_imported_without_the_test_tools_and_without_a_trace():
    """In a fresh process where pytest and hypothesis cannot be imported and sockets cannot be opened. If it fails,
    users need test tools, or an import moves random states, threads or flags, or downloads something."""
    code = """
import random, socket, sys
import numpy, torch
sys.modules["pytest"] = sys.modules["hypothesis"] = None
def no(*_, **__): raise AssertionError("a socket")
socket.socket.connect = no
def state():
    return (torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()), torch.get_num_threads(),
            torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled())
before = state()
import gia
for name in gia.__all__:
    getattr(gia, name)
assert state() == before
assert "gia.harness" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)
