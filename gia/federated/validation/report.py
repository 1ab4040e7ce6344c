"""What a check of a model found: findings, values, and sentences about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: The note on D-SNR; the numbers are those of docs/pilots.md#detect.
_NOTE = (
    "D-SNR {value:.3g} (advisory): in a layer's gradient one image of the batch weighs this many times as much as all "
    "others together. Class fishing reaches 79; accurate honest models reach that in a quarter of all batches of 8."
)
#: check -> the sentence about a finding; `{layer}`, `{value}` and `{limit}` are filled in.
SENTENCES: Mapping[str, str] = {
    "structure": "The model is not built as agreed: {layer}.",
    "finite": "{layer} holds {value:.0f} weights that are NaN or infinite.",
    "similar_rows": "Rows of {layer} are nearly multiples of each other (cosine {value:.4f}, at most {limit:.4f} in "
    "honest layers): the difference of neighbouring rows that measure the same can reveal a single image.",
    "ordered_biases": "The biases of {layer} rise or fall with their index ({value:.1f} standard deviations, at most "
    "{limit:.1f} in honest layers), as the cut-offs of bins do.",
    "outlier_biases": "A bias of {layer} is {value:.3g} times the mean weight of the layer, per unit of input (at most "
    "{limit:.3g} in honest layers): it decides which inputs have an effect.",
    "zeroed_rows": "The largest row of {layer} is {value:.3g} times its median row (at most {limit:.3g} in honest "
    "layers), both without the part that all rows share: only images that activate that row have a gradient.",
    "drift": "{layer} moved by {value:.3g} of its size since the last accepted round (at most {limit:.3g} in honest "
    "rounds).",
    "statistics": "The running statistics of {layer} are not those of the data: a channel in twenty has its threshold "
    "{value:.3g} standard deviations away from what the batch or an earlier model explains (at most {limit:.3g} in "
    "honest models): few images pass it.",
    "dsnr": "In the gradient of {layer} one image of the batch weighs {value:.3g} times as much as all others together "
    "(at most {limit:.3g} in honest models).",
    "transmit_snr": "A kernel of the first layer, {layer}, passes on one input {value:.3g} times as strongly as all "
    "others together (at most {limit:.3g} in honest models).",
}


@dataclass(frozen=True)
class Finding:
    """One value of a model beyond that of all honest models; `str` is a sentence about it.

    Attributes:
        check: a key of `SENTENCES`.
        layer: where the value was measured, by the received model's name for it. No check depends on names.
        value: what was measured.
        limit: the largest accepted value.

    >>> from gia.federated import Finding
    >>> print(Finding(check="drift", layer="layers.0", value=2.0, limit=0.5))
    layers.0 moved by 2 of its size since the last accepted round (at most 0.5 in honest rounds).
    """

    check: str
    layer: str
    value: float
    limit: float

    def __str__(self) -> str:
        return SENTENCES[self.check].format(layer=self.layer, value=self.value, limit=self.limit)


@dataclass(frozen=True)
class ValidationReport:
    """The result of `validate_model`; `str` lists the findings in sentences, and what an advisory check measured.

    Attributes:
        findings: in the order of the checks.
        skipped: check -> why it, or a part of it, could not be made; `operators` are functions that were not judged.
        values: check -> largest value over layers, for every check that was made.
        training: whether batch normalization used the statistics of the batch in the checks that need one.

    >>> from gia.federated import Finding, ValidationReport
    >>> drift = Finding(check="drift", layer="layers.0", value=2.0, limit=0.5)
    >>> ValidationReport(findings=(drift,), skipped={"dsnr": "no batch was given"}, values={"drift": 2.0})
    ValidationReport(not ok, eval mode, findings: drift; values: drift 2; skipped: dsnr)
    >>> print(ValidationReport(findings=(), values={"dsnr": 2.0}))
    no findings. D-SNR 2 (advisory): in a layer's gradient one image of the batch weighs this many times ...
    """

    findings: tuple[Finding, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    training: bool = False

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        findings = " ".join(map(str, self.findings)) or "no findings"
        if "dsnr" not in self.values or any(finding.check == "dsnr" for finding in self.findings):
            return findings
        return f"{findings.removesuffix('.')}. {_NOTE.format(value=self.values['dsnr'])}"

    def __repr__(self) -> str:
        findings = ", ".join(dict.fromkeys(finding.check for finding in self.findings)) or "none"
        values = ", ".join(f"{check} {value:.3g}" for check, value in self.values.items()) or "none"
        return (
            f"ValidationReport({'ok' if self.ok else 'not ok'}, {'train' if self.training else 'eval'} mode, "
            f"findings: {findings}; values: {values}; skipped: {', '.join(self.skipped) or 'none'})"
        )


class Results:
    """Collects findings, values and skipped checks, for one report."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.findings: list[Finding] = []
        self.skipped: dict[str, str] = {}
        self.values: dict[str, float] = {}
        self._limits = limits

    def measured(self, check: str, layer: str, value: float) -> None:
        self.values[check] = max(value, self.values.get(check, 0.0))
        limit = self._limits[check]
        if not value <= limit:  # not `value > limit`, which is false for NaN
            self.findings.append(Finding(check, layer, value, limit))

    def wrong(self, check: str, layer: str, value: float, limit: float) -> None:
        self.findings.append(Finding(check, layer, value, limit))
