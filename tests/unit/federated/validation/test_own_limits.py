"""Limits of one's own in the place of ours."""

from __future__ import annotations

import math

import pytest

from gia import validate_model
from gia.federated import (
    LastAccepted,
    fit_limits,
)
from tests.unit.federated.validation.models import changed, victim


def test_a_client_s_own_limits_replace_ours_check_by_check(tmp_path):
    """From a mapping or a file. If it fails, models that the default limits do not fit cannot be judged."""
    model = changed(victim("mlp", width=100), "layers.2.bias", lambda b: b[3].fill_(20.0))
    report = validate_model(model)
    assert {finding.check for finding in report.findings} == {"outlier_biases"}
    own = fit_limits([report, validate_model(victim("mlp"))])
    assert own["outlier_biases"] == 2 * report.values["outlier_biases"]
    assert own["similar_rows"] == 1 - (1 - report.values["similar_rows"]) / 2
    path = tmp_path / "limits.toml"
    path.write_text("[limits]\n" + "".join(f"{check} = {limit!r}\n" for check, limit in own.items()), encoding="utf-8")
    for limits in (own, path, str(path)):
        assert validate_model(model, limits=limits).ok
        assert LastAccepted(limits=limits)(model).ok
    tight = {"zeroed_rows": 0.0}
    assert {f.check for f in validate_model(model, limits=tight).findings} == {"zeroed_rows", "outlier_biases"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"similar_row": 1.0}, "limits: expected one of .* got 'similar_row'; did you mean 'similar_rows'"),
        ({"finite": 1.0}, "limits: expected one of .* got 'finite'"),
        ({"dsnr": math.nan}, r"limits\['dsnr'\]: expected a number of at least 0, got nan"),
        ({"dsnr": "high"}, r"limits\['dsnr'\]: expected a number of at least 0, got 'high'"),
        ({"dsnr": True}, r"limits\['dsnr'\]: expected a number of at least 0, got True"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits, message):
    """If it fails, a misspelt check keeps its default in silence, or a limit lets everything pass."""
    with pytest.raises(ValueError, match=message):
        validate_model(victim(), limits=limits)


def test_a_file_without_limits_is_refused(tmp_path):
    """If it fails, another TOML file is taken for one with limits."""
    (tmp_path / "other.toml").write_text("dsnr = 1.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"limits: expected a table \[limits\] in .*other.toml"):
        validate_model(victim(), limits=tmp_path / "other.toml")
