"""The plugin from outside: inner pytest runs over planted claims, for every outcome and option."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401 (an inner run forgets what it imported first, and would import this anew each time)
import pytest
import torch

pytest_plugins = ["pytester"]

ROW = """
[[claim]]
id = "{id}"
statement = "Planted."
kind = "{kind}"
metric = "psnr"
unit = "dB"
margin = {margin}
{side}
source = "Fig. 0"
paper = "SSIM .9 to .1"
expected = {{ reduced = ["{expected}", "planted so"], paper = ["supported", "not run"] }}
"""

#: A measure whose number is `settings.base` less `settings.slope` per doubling, with noise of a tenth of a dB.
PLANTED = """
import math
from dataclasses import replace
from pathlib import Path

import torch

from gia.harness.protocol import Protocol
from gia.harness.run import Control, Measurement

PROTOCOL = Protocol(attack="dlg", victim={"name": "mlp"}, data="digits", image_size=8, settings={"slope": 2.0, "void": 0})


def with_slope(slope, **changes):
    return replace(PROTOCOL, settings={**PROTOCOL.settings, "slope": slope}, **changes)


def batch(protocol, size):
    return replace(protocol, batch_size=size)


def planted(protocol, block):
    with open("computed.txt", "a") as log:
        log.write(f"{block.claim} {block.index} {protocol.batch_size}\\n")
    noise = float(torch.rand((), generator=block.generator("noise", protocol.batch_size)))
    return Measurement(values={"psnr": 20 + 0.1 * noise - protocol.settings["slope"] * math.log2(protocol.batch_size)})


def first_six_undecided(protocol, block):
    if block.index >= 6:
        return planted(protocol, block)
    sign = 1 if block.index % 2 else -1
    return Measurement(values={"psnr": 20 + 3 * sign * math.log2(protocol.batch_size)})


def two_undecided(protocol, block):
    return planted(protocol if block.index not in (2, 5) else replace(protocol, settings={"slope": -1.0}), block)


def fails_at_first(protocol, block):
    return Control(block.index >= protocol.settings["void"], "planted")


def crashing(protocol, block):
    if block.index == 3:
        raise ZeroDivisionError("planted in block 3")
    return planted(protocol, block)
"""

HEAD = """
import math
from dataclasses import replace
import pytest
from planted import *
"""

TREND = """
@pytest.mark.claim("{id}")
def test_{name}(claims):
    claims.trend("{id}", with_slope({slope}), levels=(1, 2, 4), change=batch, x=math.log2, measure={measure})
"""


def row(id: str, expected: str = "supported", kind: str = "trend", margin: float = 0.5) -> str:
    side = 'side = "worse"' if kind in ("trend", "paired") else ""
    return ROW.format(id=id, kind=kind, margin=margin, side=side, expected=expected)


def trend(id: str, slope: float = 2.0, measure: str = "planted") -> str:
    return TREND.format(id=id, name=id.replace(".", "_"), slope=slope, measure=measure)


class Inner:
    """An inner project: its register, its claims, and how it is run."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        (self.path / "claims").mkdir()
        (self.path / "planted.py").write_text(PLANTED)
        (self.path / "pytest.ini").write_text(
            "[pytest]\naddopts = -p gia.harness.plugin -p no:cacheprovider\npythonpath = .\n"
        )

    def write(self, *rows: str, tests: str = "", module: str = "test_toy") -> None:
        register = self.path / "claims" / "claims.toml"
        before = register.read_text() if register.exists() else ""
        register.write_text(before + "".join(rows))
        (self.path / "claims" / f"{module}.py").write_text(HEAD + tests)

    def run(self, *options: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess("claims", "--workers=0", *options, no_reraise_ctrlc=True)

    @property
    def folder(self) -> Path:
        (folder,) = (self.path / ".gia" / "runs").iterdir()
        return folder

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in json.loads((self.folder / "verdicts.json").read_text())}

    @property
    def computed(self) -> list[str]:
        path = self.path / "computed.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    for name in ("CI", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    return Inner(pytester)


@pytest.mark.parametrize(
    ("slope", "outcome"), [(2.0, "supported"), (0.0, "refuted"), (-2.0, "refuted")], ids=["true", "null", "reversed"]
)
@pytest.mark.parametrize("expected", ["supported", "refuted", "inconclusive"])
def test_a_test_passes_exactly_when_its_outcome_is_the_expected_one(
    inner: Inner, slope: float, outcome: str, expected: str
) -> None:
    """A refuted claim of the paper would turn the run red, or an unforeseen refutation would pass."""
    inner.write(row("toy.trend", expected), tests=trend("toy.trend", slope))
    result = inner.run()
    agrees = outcome == expected
    result.assert_outcomes(passed=int(agrees), failed=int(not agrees))
    assert inner.verdicts["toy.trend"]["outcome"] == outcome
    words = outcome if agrees and outcome == "supported" else f"{outcome} (expected"
    result.stdout.fnmatch_lines([f"*toy.trend*{words}*"])
    if not agrees:
        result.stdout.fnmatch_lines([f"*the register expects '{expected}' because: planted so*"])


def test_an_inconclusive_first_look_is_followed_by_one_more_and_no_third(inner: Inner) -> None:
    """Looking until it is green would make every null hypothesis significant."""
    inner.write(
        row("toy.late"),
        row("toy.never", "inconclusive"),
        row("toy.early"),
        tests=trend("toy.late", measure="two_undecided")
        + trend("toy.never", measure="first_six_undecided")
        + trend("toy.early"),
    )
    inner.run().assert_outcomes(passed=3)
    found = {id: (v["outcome"], v["look"], v["blocks"]) for id, v in inner.verdicts.items()}
    assert found["toy.early"] == ("supported", 1, 8)
    assert found["toy.late"] == ("supported", 2, 16)
    assert found["toy.never"] == ("inconclusive", 2, 16)


def test_a_second_look_keeps_the_blocks_of_the_first(inner: Inner) -> None:
    """Blocks drawn anew would discard an unwelcome first look."""
    inner.write(row("toy.late"), tests=trend("toy.late", measure="two_undecided"))
    inner.run().assert_outcomes(passed=1)
    assert len(inner.computed) == len(set(inner.computed)) == 16 * 3


def test_void_blocks_are_left_out_and_shown(inner: Inner) -> None:
    """Dead networks would enter the statistic, or vanish from the report."""
    inner.write(
        row("toy.void"),
        tests="""
@pytest.mark.claim("toy.void")
def test_void(claims):
    base = with_slope(2.0, control=fails_at_first)
    base = replace(base, settings={**base.settings, "void": 3})
    claims.trend("toy.void", base, levels=(1, 2), change=batch, x=math.log2, measure=planted)
""",
    )
    result = inner.run()
    result.assert_outcomes(passed=1)
    verdict = inner.verdicts["toy.void"]
    assert (verdict["blocks"], verdict["void"], verdict["look"]) == (13, 3, 2)
    result.stdout.fnmatch_lines(["*13 blocks, 3 void*"])


def test_only_void_blocks_decide_nothing(inner: Inner) -> None:
    """A claim without one living network would be supported, or crash."""
    inner.write(
        row("toy.void", "inconclusive"),
        tests="""
@pytest.mark.claim("toy.void")
def test_void(claims):
    base = with_slope(2.0, control=fails_at_first)
    base = replace(base, settings={**base.settings, "void": 99})
    claims.trend("toy.void", base, levels=(1, 2), change=batch, x=math.log2, measure=planted)
""",
    )
    inner.run().assert_outcomes(passed=1)
    verdict = inner.verdicts["toy.void"]
    assert (verdict["outcome"], verdict["blocks"], verdict["void"]) == ("inconclusive", 0, 16)


@pytest.mark.parametrize("kind", ["paired", "affected", "equivalence", "count"])
def test_every_kind_of_block_claim_reaches_its_verdict(inner: Inner, kind: str) -> None:
    """A kind would be wired to another's statistic."""
    more = ", claimed=(20.0, 18.0)" if kind == "count" else ""
    expected = "refuted" if kind == "equivalence" else "supported"
    inner.write(
        row("toy.kind", expected, kind),
        tests=f"""
@pytest.mark.claim("toy.kind")
def test_kind(claims):
    claims.{kind}("toy.kind", with_slope(2.0), levels=(1, 2), change=batch, measure=planted{more})
""",
    )
    inner.run().assert_outcomes(passed=1)
    assert inner.verdicts["toy.kind"]["kind"] == kind


def test_a_crash_inside_a_claim_is_a_failure_without_a_verdict(inner: Inner) -> None:
    """A bug would count as evidence."""
    inner.write(
        row("toy.crash", "refuted"), row("toy.fine"), tests=trend("toy.crash", measure="crashing") + trend("toy.fine")
    )
    result = inner.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*ZeroDivisionError: planted in block 3*", "*NOT toy.crash: no verdict, its test failed*"]
    )
    assert set(inner.verdicts) == {"toy.fine"}


def test_an_interrupted_run_keeps_the_verdicts_that_are_finished(inner: Inner) -> None:
    """Ctrl-C in the last claim would cost the whole night."""
    stop = """
@pytest.mark.claim("toy.second")
def test_second(claims):
    raise KeyboardInterrupt
"""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + stop)
    result = inner.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert set(inner.verdicts) == {"toy.first"}
    assert "toy.first" in (inner.folder / "report.md").read_text()
    result.stdout.fnmatch_lines(
        ["*toy.first*supported*", "*NOT toy.second: no verdict, its test did not run to its end*"]
    )


def test_a_selection_runs_a_part_and_says_so(inner: Inner) -> None:
    """Claims that -k left out would be called untested, or passed."""
    inner.write(row("toy.first"), row("toy.second"), row("toy.none"), tests=trend("toy.first") + trend("toy.second"))
    result = inner.run("-k", "second")
    result.assert_outcomes(passed=1, deselected=1)
    assert set(inner.verdicts) == {"toy.second"}
    result.stdout.fnmatch_lines(["*selected a part of the claims*"])
    result.stdout.no_fnmatch_line("*not covered (*")


def test_a_full_run_names_the_rows_that_no_test_covers(inner: Inner) -> None:
    """The register's rows without a test would pass unseen."""
    other = "@pytest.mark.baseline\ndef test_other():\n    pass\n"
    inner.write(row("toy.first"), row("toy.none"), row("more.none"), tests=trend("toy.first") + other)
    result = inner.run("-m", "claim")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["*not covered (no test yet): 2 rows: toy.{none} more.{none}*"])
    assert "not covered" in (inner.folder / "report.md").read_text()
    assert set(inner.verdicts) == {"toy.first"}


def test_an_unknown_claim_stops_the_run_with_the_nearest_id(inner: Inner) -> None:
    """A misspelled id would be measured and never be held against the register."""
    inner.write(row("toy.first"), tests=trend("toy.frist"))
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no claim 'toy.frist'; did you mean 'toy.first'?*"])


def test_a_missing_or_broken_register_stops_the_run(inner: Inner) -> None:
    """Verdicts would be given without margins or expectations."""
    inner.write(tests=trend("toy.first"))
    result = inner.run("-o", "claims_register=nowhere.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no register at *nowhere.toml*"])
    (inner.path / "claims" / "claims.toml").write_text(row("toy.first").replace("margin = 0.5", ""))
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*claims.toml: claim 'toy.first': margin*"])


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("def test_it(claims):\n    claims.trend('toy.first', PROTOCOL, levels=(1, 2), change=batch, measure=planted)\n",
         "*must be marked claim('toy.first')*"),
        ("@pytest.mark.claim('toy.first')\ndef test_it(claims):\n    pass\n", "*without a verdict on 'toy.first'*"),
        (trend("toy.first").replace("claims.trend", "claims.paired").replace("(1, 2, 4)", "(1, 2)").replace("x=math.log2, ", ""),
         "*'toy.first' is of kind 'trend' in the register, not 'paired'*"),
        (trend("toy.first") + trend("toy.first").replace("test_toy_first", "test_again"), "*already has a verdict in this run*"),
    ],
    ids=["unmarked", "no verdict", "another kind", "two verdicts"],
)  # fmt: skip
def test_a_claim_and_its_test_belong_together(inner: Inner, test: str, message: str) -> None:
    """One row, one test, one verdict: else a row could pass by another's measurement or none."""
    inner.write(row("toy.first"), tests=test)
    result = inner.run()
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines([message])


def test_verdicts_json_holds_every_column_beside_the_register(inner: Inner) -> None:
    """Another program could not tell what was measured, how, and what the paper says."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    verdict = inner.verdicts["toy.first"]
    expected = {"outcome": "supported", "expected": "supported", "unit": "dB", "blocks": 8, "void": 0, "cached": 0}
    expected |= {
        "source": "Fig. 0",
        "paper": "SSIM .9 to .1",
        "scale": "reduced",
        "torch": torch.__version__,
        "margin": 0.5,
    }
    assert expected.items() <= verdict.items()
    assert verdict["effect"] == pytest.approx(2.0, abs=0.1)
    low, high = verdict["interval"]
    assert low <= verdict["effect"] <= high
    assert verdict["measured"]
    assert verdict["seconds"] > 0


def test_junit_carries_the_verdict_as_properties(inner: Inner) -> None:
    """A CI server would show a green bar and not one number."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run("--junitxml=junit.xml", "-o", "junit_family=xunit1")
    properties = ElementTree.parse(inner.path / "junit.xml").iter("property")
    found = {p.get("name"): p.get("value") for p in properties}
    assert found["claim.id"] == "toy.first"
    assert found["claim.outcome"] == found["claim.expected"] == "supported"
    assert float(str(found["claim.effect"])) == pytest.approx(2.0, abs=0.1)


def test_the_report_and_its_pictures_lie_in_the_run_folder(inner: Inner) -> None:
    """A link in the report would lead nowhere."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run("--run-dir=elsewhere")
    text = (inner.path / "elsewhere" / "report.md").read_text()
    assert "![toy.first](images/toy.first-levels.png)" in text
    assert (inner.path / "elsewhere" / "images" / "toy.first-levels.png").exists()
    assert "at reduced scale" in text


def test_a_second_run_takes_finished_blocks_from_the_store_and_marks_them(inner: Inner) -> None:
    """Nobody could tell a measured row from a remembered one."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    first = inner.verdicts["toy.first"]
    before = len(inner.computed)
    result = inner.run()
    second = inner.verdicts["toy.first"]
    assert len(inner.computed) == before
    assert (first["cached"], second["cached"]) == (0, 8)
    assert {**first, "cached": 8, "seconds": 0} == {**second, "seconds": 0}
    result.stdout.fnmatch_lines(["*8 blocks, 8 cached*"])


def test_a_changed_protocol_source_is_measured_anew(inner: Inner) -> None:
    """A cache would hide a regression."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    (inner.path / "claims" / "protocols.py").write_text("STEPS = 1\n")
    inner.run()
    assert inner.verdicts["toy.first"]["cached"] == 0


def test_a_damaged_block_is_said_and_measured_again(inner: Inner) -> None:
    """A damaged number would enter a verdict without a word."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    damaged = sorted((inner.path / ".gia" / "cache" / "blocks").glob("*.json"))[0]
    damaged.write_text("{")
    result = inner.run()
    result.assert_outcomes(passed=1)
    assert inner.verdicts["toy.first"]["cached"] == 7
    result.stdout.fnmatch_lines([f"*warning: stored block {damaged.name} is damaged*"])


def test_one_claim_reads_anothers_blocks_from_the_store(inner: Inner) -> None:
    """Two claims on one experiment would pay for it twice, or see different numbers."""
    shared = """
@pytest.mark.claim("toy.second")
def test_second(claims):
    from gia.harness import verdicts
    table = claims.table("toy.first", with_slope(2.0), levels=(1, 2, 4), change=batch, measure=planted)
    assert table.cached == 8
    values = table.values(lambda metrics: metrics["psnr"])
    claims.record(verdicts.trend(claims.claim("toy.second"), [0, 1, 2], values), tables=[table])
"""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + shared)
    inner.run().assert_outcomes(passed=2)
    assert len(inner.computed) == 8 * 3
    assert inner.verdicts["toy.second"]["cached"] == 8


def test_under_ci_the_store_starts_empty_inside_the_run_folder(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """CI would pass on blocks that another commit computed."""
    monkeypatch.setenv("CI", "true")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    for _ in range(2):
        inner.run()
        assert inner.verdicts["toy.first"]["cached"] == 0
    assert len(inner.computed) == 2 * 8 * 3
    assert list((inner.folder / "blocks").glob("*.json"))
    assert not (inner.path / ".gia" / "cache").exists()


def test_a_log_gets_one_line_per_verdict_and_no_live_lines(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CI log would fill with carriage returns."""
    monkeypatch.setenv("CI", "true")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    output = inner.run().stdout.str()
    assert "\r" not in output
    assert len([line for line in output.splitlines() if line.startswith("toy.first: supported")]) == 1


def test_the_step_summary_of_github_is_appended_to(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdicts would be buried in a log, or another step's summary overwritten."""
    summary = inner.path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    assert summary.read_text().startswith("before\n# Verdicts at reduced scale")


def test_the_header_says_what_the_numbers_depend_on(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that do not repeat elsewhere would be compared without a warning."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--collect-only")
    result.stdout.fnmatch_lines([f"gia: scale reduced, device cpu, torch {torch.__version__}, commit unversioned*"])
    (line,) = [line for line in result.outlines if line.startswith("numerics:")]
    assert "not set" in line
    assert "ATEN_CPU_CAPABILITY=avx2" in line
    assert "OMP_NUM_THREADS" not in line


def test_a_run_without_claims_writes_nothing(inner: Inner) -> None:
    """Running the test suite would overwrite the last verdicts."""
    inner.write(row("toy.first"), tests="def test_other():\n    pass\n")
    inner.run().assert_outcomes(passed=1)
    inner.write(tests=trend("toy.first"))
    inner.run("--collect-only")
    assert not (inner.path / ".gia").exists()


def test_cuda_is_refused_where_there_is_none(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would fall back to the CPU and be reported as a GPU's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--device=cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--device cuda: torch * sees no CUDA device*"])
    inner.run("--device=auto").assert_outcomes(passed=1)
    assert inner.verdicts["toy.first"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("options", "ci", "message"),
    [
        (["--workers=-1"], False, "*--workers: expected 0 or more*"),
        (["--reason=why"], False, "*--reason: expected together with --rebaseline*"),
        (["--rebaseline"], False, "*--rebaseline needs --reason*"),
        (["--rebaseline", "--reason=why"], True, "*--rebaseline is refused under CI*"),
        (["--scale=huge"], False, "*invalid choice: 'huge'*"),
    ],
)
def test_a_wrong_option_stops_the_run_before_it_starts(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, options: list[str], ci: bool, message: str
) -> None:
    """A long run would end in an error that its first second could have shown."""
    if ci:
        monkeypatch.setenv("CI", "true")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert inner.computed == []


def test_a_stale_baseline_fails_a_full_session(inner: Inner) -> None:
    """An entry that no test checks would guard nothing and look as if it did."""
    check = """
@pytest.mark.baseline
def test_cell(baseline):
    baseline.check("cell", {"psnr": [20.0, 21.0, 22.0, 23.0]}, deciding="psnr", protocol="abc",
                   rerun=lambda: {"psnr": [20.0, 21.0, 22.0, 23.0]})
"""
    inner.write(tests=check)
    inner.run("--rebaseline", "--reason=planted").assert_outcomes(passed=1)
    inner.run().assert_outcomes(passed=1)
    inner.write(tests="@pytest.mark.baseline\ndef test_none(baseline):\n    pass\n")
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*FAILED baseline: toy.json: 'cell' is stale*"])


SLOW = """
import time

def slow(protocol, block):
    if block.index >= 3 and protocol.batch_size == 1 and not Path("go").exists():
        Path("reached").touch()
        time.sleep(600)
    return planted(protocol, block)
"""


def _start(inner: Inner) -> subprocess.Popen[bytes]:
    """The inner run in a process group of its own, with one worker, up to its fourth block."""
    command = [sys.executable, "-m", "pytest", "claims", "--workers=1", "-q"]
    with (inner.path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=inner.path, stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
    deadline = time.monotonic() + 120
    while not (inner.path / "reached").exists():
        assert process.poll() is None, (inner.path / "log.txt").read_text()
        assert time.monotonic() < deadline, "the fourth block was not reached"
        time.sleep(0.05)
    return process


def _environment() -> dict[str, str]:
    here = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])}


def _workers_of(group: int) -> list[int]:
    """Live processes of a process group, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_stopped_between_blocks_resumes_to_the_same_table(inner: Inner, how: signal.Signals) -> None:
    """A crash of the machine would cost the night; a resumed run would say something else than an uninterrupted one."""
    (inner.path / "planted.py").write_text(PLANTED + SLOW)
    inner.write(row("toy.first"), tests=trend("toy.first", measure="slow"))
    process = _start(inner)
    os.kill(process.pid, how)
    code = process.wait(60)
    deadline = time.monotonic() + 30
    while left := _workers_of(process.pid):
        assert time.monotonic() < deadline, f"workers {left} outlive the run"
        time.sleep(0.05)
    if how == signal.SIGINT:
        assert code == pytest.ExitCode.INTERRUPTED
        assert inner.verdicts == {}
    finished = inner.computed.copy()
    assert {line.split()[1] for line in finished} == {"0", "1", "2"}

    (inner.path / "go").touch()
    inner.run().assert_outcomes(passed=1)
    resumed = inner.verdicts["toy.first"]
    assert resumed["cached"] == 3
    assert inner.computed[: len(finished)] == finished
    assert not set(finished) & set(inner.computed[len(finished) :])

    for entry in (inner.path / ".gia" / "cache" / "blocks").iterdir():
        entry.unlink()
    inner.run()
    whole = inner.verdicts["toy.first"]
    assert {**resumed, "cached": 0, "seconds": 0} == {**whole, "seconds": 0}
