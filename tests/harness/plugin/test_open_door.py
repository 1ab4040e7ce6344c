"""The open door: `--gia-attack` puts an attack from a user's package in the place of the protocols' own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import gia.experiment  # noqa: F401 - pytester forgets the modules that an inner run imports first
from gia.harness.plugin.folder import newest
from tests.harness.plugin.inner_project import Inner, row, trend, verdicts_in
from tests.harness.plugin.processes import started, wait_until_ended

pytest_plugins = ["pytester"]

#: The mean image in gray, for whatever is shared. After some calls it waits for a file, so that a test can end it.
GRAY = """
from pathlib import Path
import time

import torch

from gia.attacks import Reconstruction


def gray(model, observation, *, generator, level):
    if not 0 <= level <= 1:
        raise ValueError(f"level: expected a number from 0 to 1, got {level}")
    with open("calls.txt", "a", encoding="utf-8") as log:
        log.write("called\\n")
    if len(Path("calls.txt").read_text(encoding="utf-8").splitlines()) > 40 and not Path("go").exists():
        Path("reached").touch()
        time.sleep(600)
    images = torch.full((observation.batch_size, *observation.image_shape), float(level))
    return Reconstruction(images=images, gradient_evaluations=0)
"""

#: One factor row that any attack can take, and rows that this one cannot take or that run no attack.
CLAIMS = """
from hypothesis import strategies as st

from gia.experiment import Attacker, Batch, Fishing, Measurement, Protocol, Scoring, Victim

PROTOCOL = Protocol(
    victim=Victim(name="mlp", options={"width": 8}),
    batch=Batch(data="digits", image_size=8, images=4, pattern_batch=4),
    attacker=Attacker(attack="inverting_gradients", settings={"steps": 3}),
    scoring=Scoring(metrics=("psnr",)),
    vary={"attacker.settings.lr": (0.1, 0.2), "victim.width": (8, 12)},  # the first is for the protocol's own attack
)

def batches(protocol, size):
    return protocol.with_({"batch.size": size})

def attacked_by(protocol, attack):
    return protocol.with_({"attacker.attack": attack})

def nothing(protocol, block, *, cache):
    return Measurement({"psnr": 1.0})

@pytest.mark.claim("op.batch")
def test_op_batch(claims):
    claims.trend("op.batch", PROTOCOL, levels=(1, 2, 4), change=batches, x=math.log2)

@pytest.mark.claim("op.fished")
def test_op_fished(claims):
    fished = PROTOCOL.with_({"victim.fish": Fishing(targets=2)})
    claims.trend("op.fished", fished, levels=(1, 2), change=batches)

@pytest.mark.claim("op.attacks")
def test_op_attacks(claims):
    claims.paired("op.attacks", PROTOCOL, levels=("dlg", "idlg"), change=attacked_by)

@pytest.mark.claim("op.own")
def test_op_own_measure(claims):
    claims.trend("op.own", PROTOCOL, levels=(1, 2), change=batches, measure=nothing)

@pytest.mark.claim("op.always")
def test_op_always(claims):
    claims.universal("op.always", lambda x: 1.0, {"x": st.integers()})

@pytest.mark.claim("op.exactly")
def test_op_exactly(claims):
    claims.exact("op.exactly", lambda x: 0.0, {"x": st.integers()})

@pytest.mark.claim("op.told")
def test_op_told(claims):
    from gia.harness.decide import verdicts

    claims.record(verdicts.paired(claims.claim("op.told"), [1.0] * 8, [0.0] * 8))

@pytest.mark.baseline
def test_op_baseline(baselines):
    raise AssertionError("an attack of others is compared with a stored sample")

def test_another():
    raise AssertionError("-k leaves this out")
"""

NOT_TRIED = {
    "op.fished": "not tried: the server of this row fishes for single images*",
    "op.attacks": "not tried: the levels of this row differ only in the attack that was replaced",
    "op.own": "not tried: this row runs no attack of a protocol",
    "op.always": "not tried: this row runs no attack of a protocol",
    "op.exactly": "not tried: this row runs no attack of a protocol",
    "op.told": "not tried: this row runs no attack of a protocol",
}

OPTIONS = ("-k", "op", "--gia-attack=outsider.gray:gray")
KIND = "reduced-unversioned-outsider_gray_gray"


@pytest.fixture
def door(inner: Inner) -> Inner:
    """A project whose claims measure with `gia.experiment`, and a user's package next to them."""
    inner.write_settings(experiment="gia.experiment")
    kinds = {"op.attacks": "paired", "op.told": "paired", "op.always": "universal", "op.exactly": "exact"}
    inner.write(
        *(row(id, kind=kinds.get(id, "trend")) for id in ("op.batch", *NOT_TRIED)), tests=CLAIMS, module="test_door"
    )
    (inner.path / "outsider").mkdir()
    (inner.path / "outsider" / "__init__.py").touch()
    (inner.path / "outsider" / "gray.py").write_text(GRAY, encoding="utf-8")
    return inner


def with_level(level: float) -> str:
    """The option that sets the attack's only setting."""
    return f"--gia-attack-settings={json.dumps({'level': level})}"


def folder_of(inner: Inner, kind: str = KIND) -> Path:
    """The folder of the last run of a kind."""
    folder = newest(inner.path / ".gia" / "runs", kind)
    assert folder is not None
    return folder


def found(inner: Inner, kind: str = KIND) -> dict[str, dict[str, Any]]:
    """Claim id -> row of the last run of a kind."""
    return verdicts_in(folder_of(inner, kind))


def stored(inner: Inner) -> list[Path]:
    """The blocks in the store."""
    return sorted((inner.path / ".gia" / "cache" / "blocks").glob("*.json"))


def test_an_attack_from_outside_is_tried_killed_and_resumed(door: Inner) -> None:
    """Nobody else's attack could be put on trial, or a verdict on it would count as one on the paper's."""
    with started(door, *OPTIONS, with_level(0.5), "--gia-workers=2") as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        wait_until_ended(process.pid)
    finished = stored(door)
    assert 0 < len(finished) < 8
    assert found(door) == {}

    (door.path / "go").touch()
    result = door.run(*OPTIONS, with_level(0.5))
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=7, deselected=1)
    (verdict,) = found(door).values()
    assert verdict["cached"] == len(finished)
    assert (verdict["id"], verdict["outcome"], verdict["notice"]) == ("op.batch", "refuted", "")
    assert verdict["effect"] == pytest.approx(0.0, abs=1e-9)  # the same image for any batch
    report = (folder_of(door) / "report.md").read_text(encoding="utf-8")
    result.stdout.fnmatch_lines(["*ok *op.batch*refuted (paper: supported):*"])
    for id, reason in NOT_TRIED.items():
        result.stdout.re_match_lines([rf"NOT {id}: no verdict, {reason.split('*')[0][:40]}"])
        assert f"`{id}`: {reason.split('*')[0]}" in report
    assert "outsider.gray:gray takes the place of each protocol's attack" in report

    # Whoever edits the attack gets new numbers, and other settings are another attack.
    with (door.path / "outsider" / "gray.py").open("a", encoding="utf-8") as source:
        source.write("# edited\n")
    door.run(*OPTIONS, with_level(0.5)).assert_outcomes(passed=1, skipped=7, deselected=1)
    assert found(door)["op.batch"]["cached"] == 0
    assert found(door)["op.batch"]["effect"] == verdict["effect"]


def test_a_run_without_the_attack_has_another_folder_and_other_blocks(door: Inner) -> None:
    """The verdicts on the paper's attack would be overwritten by those on another one."""
    (door.path / "go").touch()
    select = ("-k", "op_batch")
    door.run(*select, *OPTIONS[2:], with_level(0.5)).assert_outcomes(passed=1, deselected=8)
    blocks = stored(door)
    result = door.run(*select)
    assert result.parseoutcomes()["deselected"] == 8
    own = found(door, "reduced-unversioned")["op.batch"]
    assert (own["notice"], own["cached"]) == ("first run: nothing to compare with", 0)
    assert own["pictures"] == ["images/op.batch-levels.png", "images/op.batch.png"]
    for picture in own["pictures"]:  # drawn by gia.experiment
        assert (folder_of(door, "reduced-unversioned") / picture).stat().st_size > 500
    assert set(blocks) < set(stored(door))
    assert found(door)["op.batch"]["notice"] == ""


def test_a_setting_that_the_attack_refuses_fails_the_test_with_the_attacks_own_words(door: Inner) -> None:
    """A mistake in a setting would look like an attack that finds nothing."""
    result = door.run("-k", "op_batch", *OPTIONS[2:], with_level(2))
    result.assert_outcomes(failed=1, deselected=8)
    result.stdout.fnmatch_lines(["*ValueError: level: expected a number from 0 to 1, got 2*"])
    assert found(door) == {}


def test_what_an_attack_raises_in_a_worker_is_one_line_and_its_traceback_a_file(door: Inner) -> None:
    """Two hundred lines of the harness would hide what is wrong with the attack, or the place of a bug be lost."""
    options = ("-k", "op.batch", *OPTIONS[2:], with_level(2), "--gia-workers=1")
    result = door.run(*options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = "outsider.gray:gray: ValueError: level: expected a number from 0 to 1, got 2, in block ? of op.batch; "
    result.stdout.fnmatch_lines([f"{said}*gia.attacks.Card(needs=...); traceback: .gia*errors.txt, or -v"])
    assert not [line for line in result.outlines if "Traceback" in line or "gray.py" in line]
    kept = (folder_of(door) / "errors.txt").read_text(encoding="utf-8")
    assert kept.startswith("op.batch: block ")
    assert "gray.py" in kept
    assert "Traceback (most recent call last)" in kept
    door.run(*options, "--tb=short").stdout.fnmatch_lines(["*Traceback (most recent call last)*", "*gray.py*"])


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("inverting_gradient", "*--gia-attack: *got 'inverting_gradient'; did you mean 'inverting_gradients'?*"),
        (
            "outsider.gray:grey",
            "*--gia-attack: expected one of *'outsider.gray:gray'?, got 'outsider.gray:grey'; did you*",
        ),
        (
            "outsider.green:gray",
            "*--gia-attack: expected a module * 'outsider.green'; *in the current folder and on PYTHONPATH",
        ),
    ],
)
def test_an_unknown_attack_stops_the_run_before_it_starts(door: Inner, attack: str, message: str) -> None:
    """Every row would fail one after the other, or the paper's attack would run in its place."""
    result = door.run("-k", "op", f"--gia-attack={attack}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert not (door.path / "calls.txt").exists()


def test_a_planted_laboratory_takes_an_attack_too(inner: Inner) -> None:
    """The harness would know more of an attack than what puts it in the place of another one."""
    double = trend("toy.other").replace("Level(slope=2.0)", "Level(dtype='float64')")
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + double)
    result = inner.run("--gia-attack=flat", '--gia-attack-settings={"slope": -2}')
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK
    assert inner.folder.name.endswith("-reduced-unversioned-flat")
    assert (inner.verdicts["toy.first"]["outcome"], inner.verdicts["toy.first"]["notice"]) == ("refuted", "")
    result.stdout.fnmatch_lines(["NOT toy.other: no verdict, not tried: the attack is for float32"])


def test_a_defended_row_is_shown_beside_its_record_and_not_in_the_papers_table(inner: Inner) -> None:
    """The terminal would end in a table of verdicts on other attacks, and leave the comparison to the reader."""
    arranged = "def layout(root):\n    cell = {'mark': 'yes', 'rows': ['toy.first']}\n    return {'matrix': {"
    arranged += "'title': 'Table I', 'text': '', 'rows': {'op': ('Op', 'Op')}, 'columns': {'b': 'batch'}, "
    arranged += "'cells': {'op': {'b': cell}}}}\n"
    (inner.path / "arranged.py").write_text(arranged, encoding="utf-8")
    inner.write_settings("claims_report = arranged")
    inner.write(*map(row, ("toy.first", "toy.b", "toy.c")), tests=trend("toy.first") + trend("toy.b") + trend("toy.c"))
    own = inner.run("-k", "toy.first", "--gia-record", "--gia-reason=planted")
    own.stdout.fnmatch_lines(["Table I"])
    result = inner.run("-k", "toy.first", "--gia-defense=dulled")
    result.stdout.fnmatch_lines(["*without it: +* dB, supported (on record); with it: +0.9* dB, supported"])
    result.stdout.no_fnmatch_line("Table I")
    inner.run("-k", "toy.first or toy.b", "--gia-defense=dulled").stdout.fnmatch_lines(["Table I"])
    assert inner.verdicts["toy.b"]["without"] is None


def test_a_defense_is_put_into_the_clients_of_every_row(inner: Inner) -> None:
    """What a user's defense stops would be unknown, or a verdict under it would count as one without it."""
    double = trend("toy.other").replace("Level(slope=2.0)", "Level(dtype='float64')")
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + double)
    result = inner.run("--gia-defense=dulled", "--gia-defense=dulled")
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK
    assert inner.folder.name.endswith("-reduced-unversioned-dulled-dulled")
    assert (inner.verdicts["toy.first"]["outcome"], inner.verdicts["toy.first"]["notice"]) == ("refuted", "")
    result.stdout.fnmatch_lines(["NOT toy.other: no verdict, not tried: the defense does not take the clients*"])
    report = (inner.folder / "report.md").read_text(encoding="utf-8")
    assert "the clients of every row defend themselves with dulled; dulled" in report


def test_an_attack_and_a_defense_of_the_user_meet(inner: Inner) -> None:
    """One of the two would be left out in silence, or the defense be asked about a row that has no attack."""
    double = trend("toy.other").replace("Level(slope=2.0)", "Level(dtype='float64')")
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + double)
    result = inner.run("--gia-attack=flat", '--gia-attack-settings={"slope": 4}', "--gia-defense=dulled")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["NOT toy.other: no verdict, not tried: the attack is for float32"])
    assert inner.folder.name.endswith("-reduced-unversioned-flat-dulled")
    assert inner.verdicts["toy.first"]["effect"] == pytest.approx(3, abs=0.1)
