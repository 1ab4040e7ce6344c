"""What an audit found, as values, as JSON, and as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gia.audit.kinds import KINDS
from gia.errors import expected_one_of

__all__ = ["ENOUGH", "MARK", "AuditReport", "Leak", "TooMuchLeaks", "Validated", "WhatIf"]

#: By this the audit knows its own files again.
MARK = "gia audit"
#: Steps of a search below which it proves nothing that it finds nothing.
ENOUGH = 300


class TooMuchLeaks(AssertionError):
    """A set-up leaks more than its owner allows, or it is not known whether it does."""


@dataclass(frozen=True, eq=False)
class Leak:
    """What one attack type made of the private images.

    Attributes:
        name: of the type in `gia.audit.KINDS`.
        leak: PSNR above that of the best placebo in dB, averaged over images and then not below 0; None where the
            originals of a captured gradient are not known.
        interval: of 95 %, over batches where there are at least four, else over images; None for a single one.
        facts: everything else, as `audit.json` has it.
        arrays: "originals" and "reconstructions" of the first images, uint8 (n, C, H, W).

    >>> from gia.audit import Leak
    >>> Leak("op", leak=3.14159, interval=None, facts={}).title
    'search over pixels [OP-GIA]'
    """

    name: str
    leak: float | None
    interval: tuple[float, float] | None
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """What the type is, in words."""
        return KINDS[self.name].title

    @property
    def malicious(self) -> bool:
        """Whether its server changes the model before it sends it."""
        return KINDS[self.name].malicious

    @property
    def searches(self) -> bool:
        """Whether the attack has steps."""
        return KINDS[self.name].searches

    @property
    def searched_enough(self) -> bool:
        """Whether it proves something that nothing was found: a closed form, or a search of `ENOUGH` steps."""
        return not self.searches or int(self.facts.get("steps") or 0) >= ENOUGH

    @property
    def known(self) -> bool:
        """Whether the number says something: an attack that leaks shows it, one that does not has passed a control."""
        path = self.facts.get("path")
        return path is None or bool(path["works"])


@dataclass(frozen=True)
class WhatIf:
    """One change of the set-up, and what the attack types that leaked make of it.

    Attributes:
        change: in words.
        leaks: attack type -> (leak before, leak after) in dB, on the same number of steps.
        reason: why a type was not run again, if so.
    """

    change: str
    leaks: Mapping[str, tuple[float, float]]
    reason: str | None = None

    @property
    def largest(self) -> float:
        """The largest leak after the change; infinite where nothing was run."""
        return max((after for _, after in self.leaks.values()), default=float("inf"))


@dataclass(frozen=True)
class Validated:
    """What `gia.validate_model` says to one model.

    Attributes:
        server: what the server does, in words; "honest" for the model as it is.
        findings: sentences, none where the model is accepted.
        error: why the model could not be made or checked, if so.
    """

    server: str
    findings: tuple[str, ...]
    error: str | None = None


@dataclass(frozen=True, eq=False)
class AuditReport:
    """The result of `gia.audit.audit`.

    Attributes:
        setup: the facts of the set-up.
        results: attack type -> what it made of the images.
        not_tried: attack type -> why not, in one line.
        what_if: one entry for each change.
        validation: one entry for each malicious server, and the honest one first.
        limits: sentences about what this audit cannot say.
        seconds: that it took.
        cpu_seconds: of all cores that it used.

    >>> from gia.audit import AuditReport, Leak
    >>> report = AuditReport(setup={}, results={"op": Leak("op", leak=3.0, interval=(1.0, 5.0), facts={})})
    >>> report.leak
    {'op': 3.0}
    >>> report.check(max_leak={"op": 1.0})
    Traceback (most recent call last):
    gia.audit.report.TooMuchLeaks: max_leak: expected at most 1 dB of op (search over pixels [OP-GIA]), got 3 dB
    """

    setup: Mapping[str, Any]
    results: Mapping[str, Leak]
    not_tried: Mapping[str, str] = field(default_factory=dict)
    what_if: tuple[WhatIf, ...] = ()
    validation: tuple[Validated, ...] = ()
    limits: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def leak(self) -> dict[str, float]:
        """Attack type -> dB above the placebo."""
        return {name: each.leak for name, each in self.results.items() if each.leak is not None}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Attack type -> the interval of its leak, where there is one."""
        return {name: each.interval for name, each in self.results.items() if each.interval is not None}

    @property
    def exact(self) -> dict[str, float]:
        """Attack type -> share of images that came back exactly (to 1e-3)."""
        return {name: each.facts["exact_share"] for name, each in self.results.items() if each.leak is not None}

    @property
    def worst(self) -> tuple[str, Mapping[str, Any]] | None:
        """The attack type and the image that leaks most, with "image", "leak" and "psnr"; None without a leak."""
        known = {name: each.facts["worst"] for name, each in self.results.items() if each.leak is not None}
        return max(known.items(), key=lambda pair: float(pair[1]["leak"])) if known else None

    @property
    def best_change(self) -> WhatIf | None:
        """The change after which least leaks, if it lowers the largest leak by more than .5 dB."""
        run = [each for each in self.what_if if each.leaks]
        best = min(run, key=lambda each: each.largest, default=None)
        if best is None or max(before for before, _ in best.leaks.values()) - best.largest <= 0.5:
            return None
        return best

    def check(self, max_leak: float | Mapping[str, float]) -> None:
        """Raise `TooMuchLeaks` where a type leaks more than allowed, was not tried, or its attack did not work.

        Args:
            max_leak: dB for all types that were tried, or for each of some.

        Raises ValueError for a name that is no attack type.
        """
        asked = dict.fromkeys(self.results, max_leak) if isinstance(max_leak, int | float) else dict(max_leak)
        problems = []
        if not asked:
            problems.append(f"max_leak: expected an attack type that was tried, got none: {dict(self.not_tried)}")
        for name, limit in asked.items():
            if name not in KINDS:
                raise ValueError(expected_one_of("max_leak", name, list(KINDS)))
            if (result := self.results.get(name)) is None or result.leak is None:
                why = self.not_tried.get(name, "it was not asked for, or has no originals")
                problems.append(f"max_leak: expected {name} to be tried, got none: {why}")
            elif result.leak > limit:
                got = f"got {result.leak:.3g} dB"
                problems.append(f"max_leak: expected at most {limit:g} dB of {name} ({result.title}), {got}")
            elif not result.known:
                seen = result.facts["path"]["seen"]
                problems.append(f"max_leak: expected an attack {name} that works, got one that does not: {seen}")
        if problems:
            raise TooMuchLeaks("\n".join(problems))

    def to_json(self) -> str:
        """The report as JSON, without images."""
        return json.dumps(
            {
                "generator": MARK,
                "setup": dict(self.setup),
                "results": {
                    name: {"title": each.title, "leak": each.leak, "interval": each.interval, "known": each.known}
                    | {"searched_enough": each.searched_enough}
                    | dict(each.facts)
                    for name, each in self.results.items()
                },
                "not_tried": dict(self.not_tried),
                "what_if": [
                    {
                        "change": each.change,
                        "leaks": {name: {"before": a, "after": b} for name, (a, b) in each.leaks.items()},
                        "reason": each.reason,
                    }
                    for each in self.what_if
                ],
                "best_change": None if self.best_change is None else self.best_change.change,
                "validation": [
                    {"server": each.server, "findings": list(each.findings), "error": each.error}
                    for each in self.validation
                ],
                "limits": list(self.limits),
                "seconds": round(self.seconds, 1),
                "cpu_seconds": round(self.cpu_seconds, 1),
            },
            indent=1,
            allow_nan=False,
        )

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{name}: {value}" for name, value in self.setup.items()]
        lines += [
            "",
            *summary(self),
            "",
            "leak in dB above what an attacker has without the gradient",
            _COLUMNS.format(*_HEADS).rstrip(),
        ]
        for name, each in self.results.items():
            lines.append(_COLUMNS.format(name, *cells(each), each.title).rstrip())
            if not each.known:
                lines.append(f"  says nothing, since the attack did not work: {each.facts['path']['seen']}")
        lines += [f"{name:<11} not tried: {why}" for name, why in self.not_tried.items()]
        if self.what_if:
            ran = [changed for changed in self.what_if if changed.leaks]
            lines += ["", "what if (leak before -> after)" if ran else "what if"]
            for changed in ran:
                shown = ", ".join(f"{name} {a:.1f} -> {b:.1f}" for name, (a, b) in changed.leaks.items())
                lines.append(f"  {changed.change}: {'; '.join(filter(None, (shown, changed.reason)))}")
            if ran:
                lines += [f"  not run, {reason}: {'; '.join(changes)}" for reason, changes in not_run(self)]
            lines.append(f"  {advice(self)}")
        if self.validation:
            lines += ["", "what a client that validates models says (gia.validate_model)"]
            lines += [f"  {checked.server}: {said(checked)}" for checked in self.validation]
        lines += [
            "",
            *(f"note: {limit}" for limit in self.limits),
            f"took {self.seconds:.0f} s, {self.cpu_seconds:.0f} CPU seconds",
        ]
        return "\n".join(lines)


_COLUMNS = "{:<11} {:>6} {:>14} {:>6} {:>6} {:>6} {:>5} {:>6}  {}"
_HEADS = ("type", "leak", "95 %", "worst", "exact", "PSNR", "SSIM", "steps", "what it is")


def cells(each: Leak) -> tuple[str, ...]:
    """Leak, interval, leak of the worst image, exact share, PSNR, SSIM and steps of a row, as text."""
    steps = str(each.facts.get("steps") or "-")
    if each.leak is None:
        return "?", "-", "-", "-", "-", "-", steps
    interval = "-" if each.interval is None else f"{each.interval[0]:.1f} to {each.interval[1]:.1f}"
    facts = each.facts
    worst, exact, psnr = f"{facts['worst']['leak']:+.1f}", f"{facts['exact_share']:.0%}", f"{facts['psnr']:.1f}"
    ssim = "-" if facts["ssim"] is None else f"{facts['ssim']:.2f}"
    return f"{each.leak:.1f}", interval, worst, exact, psnr, ssim, steps


def summary(report: AuditReport) -> list[str]:
    """Sentences about an honest server, which are always there, and about a malicious one, where it was tried.

    Where nothing came back, they say so only after a search of `ENOUGH` steps that has passed its control.

    >>> from gia.audit import AuditReport
    >>> from gia.audit.report import summary
    >>> summary(AuditReport(setup={}, results={}))
    ['An honest server: not known, since nothing was tried.']
    """
    sentences: list[str] = []
    for server, malicious in (("An honest server", False), ("A malicious server", True)):
        tried = [each for each in report.results.values() if each.malicious is malicious]
        if tried:
            sentences += _found(server, tried)
        elif not malicious:
            sentences.append(f"{server}: not known, since nothing was tried.")
    return sentences


def _found(server: str, tried: Sequence[Leak]) -> Iterator[str]:
    """What the attacks of a server got, or why that is not known."""
    scored = [each for each in tried if each.leak is not None and each.known]
    silent = [each for each in tried if not each.known]
    short = [each for each in scored if not each.searched_enough]
    most = max(scored, key=lambda each: each.leak or 0.0, default=None)
    if most is None:
        without = "" if silent else ", since the originals are not known"
        yield f"{server}: not known{without}."
    elif most.leak and most.leak >= 0.05:  # what is printed as 0.0 is none
        exact = f", {most.facts['exact_share']:.0%} of them exactly" if most.facts["exact_share"] else ""
        yield (
            f"{server} gets {'at least ' if short else ''}{most.leak:.1f} dB closer to the private images than one "
            f"without the gradient{exact} ({most.name}: {most.title})."
        )
        short = [each for each in short if (each.leak or 0.0) < 0.05]
        if short:
            yield f"{_names(short)} found nothing, which proves nothing after so few steps."
    elif enough := [each for each in scored if each.searches and each.searched_enough]:
        yield f"On average {server[0].lower()}{server[1:]} gets nothing from {_names(enough)}."
        if short:
            yield f"{_names(short)} found nothing, which proves nothing after so few steps."
    elif short:
        yield (
            f"{server}: not known. {_names(short)} found nothing, which proves nothing after so few steps; use "
            f"--budget full or --steps N, with {ENOUGH} or more."
        )
    else:
        yield f"{server}: not known. {_names(scored)} got nothing, and no search was run."
    if scored and most is not None:
        single = max(scored, key=lambda each: float(each.facts["worst"]["leak"]))
        worst = single.facts["worst"]
        if not most.facts["exact_share"] and worst["leak"] > (most.leak or 0.0) + 3.0:
            yield (
                f"Of a single image it gets up to {worst['leak']:.1f} dB (image {worst['image'] + 1} under "
                f"{single.name}, PSNR {worst['psnr']:.1f} dB)."
            )
    if silent:
        yield f"What {_names(silent)} would get is not known, since the attack did not work here."


def _names(results: Sequence[Leak]) -> str:
    steps = [f" ({each.facts['steps']} steps)" if each.facts.get("steps") else "" for each in results]
    return ", ".join(f"{each.name}{few}" for each, few in zip(results, steps, strict=True))


def advice(report: AuditReport) -> str:
    """Which change helps most, in a sentence, or why none was run.

    >>> from gia.audit import AuditReport, WhatIf
    >>> from gia.audit.report import advice
    >>> advice(AuditReport(setup={}, results={}, what_if=(WhatIf("batches of 16", {}, "no time left"),)))
    'No change was run: no time left.'
    """
    if not any(each.leaks for each in report.what_if):
        return f"No change was run: {'; '.join(dict(not_run(report)))}."
    if (best := report.best_change) is None:
        return "No change that was tried lowers the largest leak by more than 0.5 dB."
    return f"Of these, one change helps most: {best.change} (at most {best.largest:.1f} dB left)."


def not_run(report: AuditReport) -> list[tuple[str, list[str]]]:
    """Each reason why changes were not run, with these changes."""
    reasons: dict[str, list[str]] = {}
    for each in report.what_if:
        if not each.leaks:
            reasons.setdefault(each.reason or "no reason is known", []).append(each.change)
    return list(reasons.items())


def said(each: Validated) -> str:
    """What validation found, in words."""
    if each.error is not None:
        return f"not checked: {each.error}"
    if not each.findings:
        return "accepted, no findings"
    more = len(each.findings) - 1
    return f"refused: {each.findings[0]}" + (f" ({more} more finding{'s' if more > 1 else ''})" if more else "")
