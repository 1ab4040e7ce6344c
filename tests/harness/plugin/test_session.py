"""The plugin from outside: selections, files, caches, CI and options."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from tests.harness.plugin.inner_project import Inner, row, trend

pytest_plugins = ["pytester"]


def test_a_selection_runs_a_part_and_says_so(inner: Inner) -> None:
    """Claims that -k left out would be called untested, or passed."""
    inner.write(row("toy.first"), row("toy.second"), row("toy.none"), tests=trend("toy.first") + trend("toy.second"))
    result = inner.run("-k", "second")
    result.assert_outcomes(passed=1, deselected=1)
    assert set(inner.verdicts) == {"toy.second"}
    result.stdout.fnmatch_lines(["*selected a part of the claims*"])
    result.stdout.no_fnmatch_line("*not covered (*")


def test_k_matches_ids_of_rows_and_parts_of_them(inner: Inner) -> None:
    """A report names rows by their ids, and whoever copies one behind -k would select nothing."""
    tests = trend("toy.first") + trend("toy.second/2").replace("second/2(", "second(") + trend("oytoy.first")
    inner.write(row("toy.first"), row("toy.second/2"), row("oytoy.first"), tests=tests)
    for expression, ids in {
        "toy.first and not oytoy": {"toy.first"},
        "toy.second/2": {"toy.second/2"},
        "oytoy.": {"oytoy.first"},
        ".first": {"toy.first", "oytoy.first"},
    }.items():
        inner.run("-k", expression)
        assert set(inner.verdicts) == ids


def test_a_selection_of_nothing_says_how_rows_are_selected(inner: Inner) -> None:
    """A newcomer with a misspelled id would see "deselected" and no way on."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("-k", "toy.frist and not other")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    advice = "-k 'toy.frist and not other': no test is selected; close ids: toy.first; -k NAME matches ids and names*"
    result.stdout.fnmatch_lines([advice + "in the register in claims/"])
    (inner.path / "docs").mkdir()
    (inner.path / "docs" / "results.md").touch()
    inner.run("-m", "slow").stdout.fnmatch_lines(["-m 'slow': no test is selected; -k NAME *in docs/results.md"])
    inner.run("-k", "first").stdout.no_fnmatch_line("*no test is selected*")


def test_a_full_run_names_the_rows_that_no_test_covers(inner: Inner) -> None:
    """The register's rows without a test would pass unseen."""
    other = "@pytest.mark.baseline\ndef test_other():\n    pass\n"
    inner.write(row("toy.first"), row("toy.none"), row("more.none"), tests=trend("toy.first") + other)
    result = inner.run("-m", "claim")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["*not covered (no test yet): 2 rows: toy.{none} more.{none}*"])
    assert "not covered" in (inner.folder / "report.md").read_text(encoding="utf-8")
    assert set(inner.verdicts) == {"toy.first"}


def test_an_unknown_claim_stops_the_run_with_the_nearest_id(inner: Inner) -> None:
    """A misspelled id would be measured and never be held against the register."""
    inner.write(row("toy.first"), tests=trend("toy.frist"))
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*id: expected a claim of the register, got 'toy.frist'; did you mean 'toy.first'?*"])


def test_a_missing_or_broken_register_stops_the_run(inner: Inner) -> None:
    """Verdicts would be given without margins or expectations."""
    inner.write(tests=trend("toy.first"))
    result = inner.run("-o", "claims_register=nowhere.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*claims_register: expected a file, got *nowhere.toml, which does not exist*"])
    (inner.path / "claims" / "claims.toml").write_text(
        'scales = ["reduced"]\n' + row("toy.first").replace("margin = 0.5", ""), encoding="utf-8"
    )
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*claims.toml: claim 'toy.first': margin*"])


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            trend("toy.first").replace("@pytest", "# "),
            "*id: expected the running test to be marked claim('toy.first')*",
        ),
        ("@pytest.mark.claim('toy.first')\ndef test_it(claims):\n    pass\n", "*without a verdict on 'toy.first'*"),
        (
            trend("toy.first").replace("trend(", "count(").replace(", x=math.log2", ""),
            "*id: expected a claim of kind 'count', got 'toy.first' of kind 'trend'*",
        ),
        (
            trend("toy.first") + trend("toy.first").replace("test_toy", "test_again"),
            "*expected one verdict on each row in a run, got a second one on 'toy.first'*",
        ),
    ],
    ids=["unmarked", "no verdict", "another kind", "two verdicts"],
)
def test_a_claim_and_its_test_belong_together(inner: Inner, test: str, message: str) -> None:
    """One row, one test, one verdict: else a row could pass by another's measurement or none."""
    inner.write(row("toy.first"), tests=test)
    result = inner.run()
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines([message])


def test_verdicts_json_holds_every_column_and_what_the_register_says(inner: Inner) -> None:
    """Another program could not tell what was measured, how, and what the paper says."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    verdict = inner.verdicts["toy.first"]
    expected = {"outcome": "supported", "paper_says": "supported", "unit": "dB", "blocks": 8, "void": 0, "cached": 0}
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
    inner.run("--gia-junit", "-o", "junit_family=xunit1")
    properties = ElementTree.parse(inner.folder / "junit.xml").iter("property")
    found = {p.get("name"): p.get("value") for p in properties}
    assert found["claim.id"] == "toy.first"
    assert found["claim.outcome"] == found["claim.paper_says"] == "supported"
    assert float(str(found["claim.effect"])) == pytest.approx(2.0, abs=0.1)


def test_the_report_and_its_pictures_lie_in_the_run_folder(inner: Inner) -> None:
    """A link in the report would lead nowhere."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run("--gia-run-dir=elsewhere")
    text = (inner.path / "elsewhere" / "report.md").read_text(encoding="utf-8")
    assert "![toy.first](images/toy.first-levels.png)" in text
    drawn = json.loads((inner.path / "elsewhere" / "images" / "toy.first-levels.png").read_text(encoding="utf-8"))
    assert drawn["levels"] == ["1", "2", "4"]
    assert np.array(drawn["values"]).shape == (8, 3)
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


def test_a_changed_measure_computes_its_blocks_again(inner: Inner) -> None:
    """A cache would hide a regression."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    with (inner.path / "planted.py").open("a", encoding="utf-8") as source:
        source.write("# edited\n")
    inner.run()
    assert inner.verdicts["toy.first"]["cached"] == 0


def test_a_damaged_block_is_reported_and_measured_again(inner: Inner) -> None:
    """A damaged number would enter a verdict without a word."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    damaged = sorted((inner.path / ".gia" / "cache" / "blocks").glob("*.json"))[0]
    damaged.write_text("{", encoding="utf-8")
    result = inner.run()
    result.assert_outcomes(passed=1)
    assert inner.verdicts["toy.first"]["cached"] == 7
    result.stdout.fnmatch_lines([f"*warning: stored block {damaged.name} is damaged*"])


def test_one_claim_reads_anothers_blocks_from_the_store(inner: Inner) -> None:
    """Two claims on one experiment would pay for it twice, or see different numbers."""
    shared = """
@pytest.mark.claim("toy.second")
def test_second(claims):
    from gia.harness.decide import verdicts
    table = claims.table("toy.first", Level(), levels=(1, 2, 4), change=batch, blocks=8)
    assert table.cached == 0  # of an earlier run
    values = table.values(lambda metrics: metrics["psnr"])
    claims.record(verdicts.trend(claims.claim("toy.second"), [0, 1, 2], values), tables=[table])
"""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + shared)
    inner.run().assert_outcomes(passed=2)
    assert len(inner.computed) == 8 * 3
    assert inner.verdicts["toy.second"]["cached"] == 0


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


def test_an_edit_during_a_run_fails_the_row_and_names_the_file(inner: Inner) -> None:
    """The verdict would rest on two states of the code, and its numbers be served for the first of them."""
    inner.write(row("toy.first"), tests=trend("toy.first", measure="editing"))
    source = inner.path / "planted.py"
    source.write_text(
        source.read_text(encoding="utf-8")
        + "\n\ndef editing(level, block, *, cache):\n"
        + "    with Path(__file__).open('a', encoding='utf-8') as file:\n        file.write('# edited\\n')\n"
        + "    return measure(level, block)\n",
        encoding="utf-8",
    )
    result = inner.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*EditedError: sources: expected * got *planted.py edited while the run computes; start*"]
    )
    assert "toy.first" not in inner.verdicts
    assert not list((inner.path / ".gia" / "cache" / "blocks").glob("*.json"))


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
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run()
    assert summary.read_text(encoding="utf-8").startswith("before\n# Verdicts at reduced scale")


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


def test_the_short_options_are_the_same_options(inner: Inner) -> None:
    """This repository's own command line would set something that nobody reads."""
    inner.write_settings(plugins="-p gia.harness.plugin.short")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--scale=paper", "--run-dir=short", "--workers=0")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["gia: scale paper, *, 0 workers"])
    assert (inner.path / "short" / "verdicts.json").exists()


@pytest.mark.parametrize(
    ("plugins", "typed", "said"),
    [
        ("-p gia.harness.plugin.short", ["--attack=flta"], "--attack: expected one of"),
        ("-p gia.harness.plugin.short", ["--attack-settings={}"], "--attack-settings: expected together with --attack"),
        (
            "-p gia.harness.plugin.short",
            ["--gia-attack-settings={}"],
            "--gia-attack-settings: * with --attack",
        ),
        ("", ["--gia-attack=flta"], "--gia-attack: expected one of"),
    ],
)
def test_a_message_names_an_option_as_the_user_typed_it(
    inner: Inner, plugins: str, typed: list[str], said: str
) -> None:
    """A reader would look for an option that is not in the command."""
    inner.write_settings(plugins=plugins)
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run(*typed)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}*"])


def test_cuda_is_refused_where_there_is_none(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would fall back to the CPU and be reported as a GPU's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--gia-device=cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gia-device: expected a CUDA device that torch * can see, got none*"])
    inner.run("--gia-device=auto").assert_outcomes(passed=1)
    assert inner.verdicts["toy.first"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("options", "ci", "message"),
    [
        (["--gia-workers=-1"], False, "*--gia-workers: expected 0 or more, got -1*"),
        (["--gia-reason=why"], False, "*--gia-reason: expected together with --gia-rebaseline, --gia-drop or*"),
        (["--gia-record"], False, "*--gia-record: expected --gia-reason*"),
        (["--gia-record", "--gia-reason=why"], True, "*--gia-record: expected outside CI*"),
        (
            ["--gia-record", "--gia-reason=why", "--gia-lane=pilot"],
            False,
            "*--gia-record: expected in the lane claims*",
        ),
        (["--gia-record", "--gia-reason=why", "--gia-placebo=noise"], False, "*--gia-record: expected in the lane*"),
        (["--gia-placebo=nosie"], False, "*--gia-placebo: expected one of *'noise'*, got 'nosie'*"),
        (["--gia-placebo=noise", "--gia-lane=reach"], False, "*--gia-placebo: expected in the lane claims*"),
        (
            ["--gia-lane=reach", "--gia-attack=flat"],
            False,
            "*--gia-lane: expected confirm and reach without --gia-attack*",
        ),
        (["--gia-lane=confirm"], False, "*--gia-lane=confirm: expected a working tree under git*"),
        (["--gia-open"], False, "*--gia-open: expected in the lane confirm*"),
        (["--gia-lane=reach", "--gia-draws=8"], False, "*--gia-draws: expected at least 24*"),
        (["--gia-rebaseline"], False, "*--gia-rebaseline: expected --gia-reason*"),
        (["--gia-rebaseline", "--gia-reason=why"], True, "*rebaseline: expected outside CI*"),
        (["--gia-rebaseline", "--gia-attack=flat"], False, "*--gia-rebaseline: expected without --gia-attack*"),
        (["--gia-scale=huge"], False, "*--gia-scale: expected one of *'reduced', 'paper'*, got 'huge'*"),
        (["--gia-attack-settings={}"], False, "*--gia-attack-settings: expected together with --gia-attack*"),
        (["--gia-attack=flat", "--gia-attack-settings={"], False, "*--gia-attack-settings: expected JSON, got {*"),
        (["--gia-attack=flat", "--gia-attack-settings=0"], False, "*--gia-attack-settings: expected an object*"),
        (["--gia-rebaseline", "--gia-defense=dulled"], False, "*--gia-rebaseline: expected without *--gia-defense*"),
        (["--gia-lane=confirm", "--gia-defense=dulled"], False, "*expected confirm and reach without *--gia-defense*"),
        (["--gia-record", "--gia-reason=why", "--gia-defense=dulled"], False, "*--gia-record: expected in the lane*"),
        (["--gia-defense=dlled"], False, "*--gia-defense: *expected one of*, got 'dlled'*"),
        (
            ["--gia-attack=flta"],
            False,
            "*--gia-attack: *'flat'? or package.module:name, got 'flta'; did*",
        ),
        (["-o", "claims_experiment=json"], False, "*claims_experiment: *expected a module with 'measure', got json*"),
        (["--gia-base=nothing"], False, "*--gia-base: expected a commit*"),
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
def test_entry(baselines):
    values = {"psnr": [20.0, 21.0, 22.0, 23.0]}
    baselines.open("toy").check("entry", values, deciding="psnr", setting="abc", rerun=lambda: values)
"""
    inner.write(tests=check)
    inner.run("--gia-rebaseline", "--gia-reason=planted").assert_outcomes(passed=1)
    inner.run().assert_outcomes(passed=1)
    inner.write(tests="@pytest.mark.baseline\ndef test_none(baselines):\n    pass\n")
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*FAILED baseline: toy.json: 'entry' is stale*"])
