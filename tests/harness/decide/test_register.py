"""The register refuses a malformed row by its name and key, and reads a good one as it is written."""

import contextlib
import math
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gia.harness.decide.register import Claim, Register, load_register
from tests.malformed import changed_bytes

ROW = {
    "id": "'op.batch_size'",
    "statement": "'More images, worse.'",
    "kind": "'trend'",
    "metric": "'psnr'",
    "unit": "'dB'",
    "margin": "0.5",
    "direction": "'worse'",
    "source": "'Fig. 3a'",
    "paper": "'.765 to .513'",
}


def write(tmp_path, *rows, rest="", scales="scales = ['reduced', 'paper']"):
    """A register with these rows, values as TOML, and further tables."""
    path = tmp_path / "claims.toml"
    parts = ["[[claim]]\n" + "\n".join(f"{key} = {value}" for key, value in row.items()) for row in rows]
    path.write_text("\n".join([scales, *parts, rest]), encoding="utf-8")
    return path


def test_a_row_is_read_as_it_is_written(tmp_path):
    """If this fails, a verdict is computed with another margin or direction than the committed one."""
    row = ROW | {"margin": "'8/64'", "reported": "{ 'fig.1' = 0.765 }"}
    claim = load_register(write(tmp_path, row))["op.batch_size"]
    assert (claim.kind, claim.margin, claim.direction, claim.sign) == ("trend", 0.125, "worse", -1)
    assert (claim.paper_says, claim.by_construction, claim.leak) == ("supported", None, False)
    assert claim.reported == {"fig.1": 0.765}


@pytest.mark.parametrize(("direction", "sign"), [("worse", -1), ("lower", -1), ("better", 1), ("higher", 1)])
def test_effects_in_the_claimed_direction_are_positive(tmp_path, direction, sign):
    """If this fails, a reversed effect supports the claim."""
    assert load_register(write(tmp_path, ROW | {"direction": repr(direction)}))["op.batch_size"].sign == sign


def test_what_the_paper_says_and_why_a_row_cannot_fail_are_read(tmp_path):
    """If this fails, a row that holds by algebra counts as evidence, or the paper's no as its yes."""
    row = ROW | {"paper_says": "'refuted'", "by_construction": "'one step is the gradient'"}
    claim = load_register(write(tmp_path, row))["op.batch_size"]
    assert (claim.paper_says, claim.by_construction) == ("refuted", "one step is the gradient")


def test_a_row_is_one_of_leakage_where_its_metric_is_one_of_leakage(tmp_path):
    """If this fails, a row is decided where nothing can be lost."""
    scales = "scales = ['reduced']\nleak_metrics = ['leak', 'exact_leak']"
    rows = [ROW, ROW | {"id": "'op.leak'", "metric": "'leak'"}, ROW | {"id": "'op.exact'", "metric": "'exact_leak'"}]
    register = load_register(write(tmp_path, *rows, scales=scales))
    assert {id: claim.leak for id, claim in register.items()} == {
        "op.batch_size": False,
        "op.leak": True,
        "op.exact": True,
    }


@pytest.mark.parametrize("leaks", ["[]", "'leak'", "['leak', 'leak']", "[1]"])
def test_metrics_of_leakage_that_are_no_names_are_refused(tmp_path, leaks):
    """If this fails, no row needs room, silently."""
    with pytest.raises(ValueError, match="leak_metrics: expected a list of distinct names, at least one, got"):
        load_register(write(tmp_path, ROW, scales=f"scales = ['reduced']\nleak_metrics = {leaks}"))


@pytest.mark.parametrize(
    ("id", "file"),
    [("thm1", "thm1"), ("op.resolution", "op.resolution"), ("op.resolution/2", "op.resolution-2"), ("a/10", "a-10")],
)
def test_a_changed_row_has_a_number_that_its_file_names_carry_too(tmp_path, id, file):
    """If this fails, a picture is written into a folder "op.resolution", or over the earlier row's."""
    assert load_register(write(tmp_path, ROW | {"id": repr(id)})).claim(id).file == file


@pytest.mark.parametrize("id", ["op.size/1", "op.size/0", "op.size/02", "op.size/b", "op.size/2/3", "/2", "op-size"])
def test_another_form_of_a_number_is_refused(tmp_path, id):
    """If this fails, one row has two ids, or two rows one file."""
    with pytest.raises(
        ValueError, match=f"claim '{id}': id: expected lower-case words joined by at most one dot, and /2"
    ):
        load_register(write(tmp_path, ROW | {"id": repr(id)}))


def test_a_claim_travels_to_a_worker_process(tmp_path):
    """If this fails, a worker cannot be told which claim it works for."""
    claim = load_register(write(tmp_path, ROW))["op.batch_size"]
    assert pickle.loads(pickle.dumps(claim)) == claim


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"marign": "0.5"}, "claim 'op.batch_size': expected keys among .*, got 'marign'; did you mean 'margin'"),
        ({"metric": None}, "claim 'op.batch_size': metric: expected a value, got none"),
        ({"statement": "' '"}, "claim 'op.batch_size': statement: expected a non-empty string, got ' '"),
        ({"unit": "3"}, "claim 'op.batch_size': unit: expected a non-empty string, got 3"),
        ({"id": "'Op batch'"}, "claim 'Op batch': id: expected lower-case words"),
        ({"id": "3"}, "claim row 1: id: expected a string, got 3"),
        ({"kind": "'trends'"}, "claim 'op.batch_size': kind: expected one of .* got 'trends'"),
        ({"margin": None}, "claim 'op.batch_size': margin: expected a positive number for the kind 'trend', got None"),
        ({"margin": "0.0"}, "claim 'op.batch_size': margin: expected a positive finite number, got 0.0"),
        ({"margin": "nan"}, "claim 'op.batch_size': margin: expected a number"),
        ({"margin": "true"}, "claim 'op.batch_size': margin: expected a number or a fraction"),
        ({"margin": "'one'"}, "claim 'op.batch_size': margin: expected a number or a fraction like '8/64', got 'one'"),
        ({"direction": None}, "claim 'op.batch_size': direction: expected one of"),
        ({"direction": "'down'"}, "claim 'op.batch_size': direction: expected one of .* got 'down'"),
        ({"kind": "'equivalence'"}, "claim 'op.batch_size': direction: expected no value for the kind 'equivalence'"),
        ({"kind": "'universal'", "direction": None}, "claim 'op.batch_size': margin: expected no value"),
        ({"number": "1"}, "claim 'op.batch_size': number: expected no value for the kind 'trend', got 1.0"),
        ({"pair": "['a', 'b']"}, "claim 'op.batch_size': pair: expected no value for the kind 'trend'"),
        ({"kind": "'paired'", "pair": "['a']"}, "claim 'op.batch_size': pair: expected the names of the two"),
        ({"expected": "{}"}, "claim 'op.batch_size': expected keys among .*, got 'expected'"),
        ({"leak": "true"}, "claim 'op.batch_size': expected keys among .*, got 'leak'"),
        ({"paper_says": "'yes'"}, "claim 'op.batch_size': paper_says: expected one of .* got 'yes'"),
        ({"paper_says": "3"}, "claim 'op.batch_size': paper_says: expected a non-empty string, got 3"),
        ({"by_construction": "true"}, "claim 'op.batch_size': by_construction: expected a non-empty string, got True"),
        ({"by_construction": "' '"}, "claim 'op.batch_size': by_construction: expected a non-empty string, got ' '"),
        ({"reported": "3"}, "claim 'op.batch_size': reported: expected a table"),
        ({"reported": "{ 'fig.1' = [1] }"}, "claim 'op.batch_size': reported.fig.1: expected a number"),
    ],
)
def test_a_malformed_row_is_refused_by_its_name_and_key(tmp_path, change, message):
    """If this fails, a typing error in the register changes or drops a claim silently."""
    row = {key: value for key, value in (ROW | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_register(write(tmp_path, row))


def test_two_rows_with_one_id_are_refused(tmp_path):
    """If this fails, one of the two is never tested."""
    with pytest.raises(ValueError, match=r"claim 'op\.batch_size': id: expected a unique one, got it again in row 2"):
        load_register(write(tmp_path, ROW, ROW))


def test_the_register_names_its_scales_and_the_first_is_the_default(tmp_path):
    """If this fails, a run takes another scale than the one it names."""
    register = load_register(write(tmp_path, ROW))
    assert register.scales == ("reduced", "paper")


@pytest.mark.parametrize("scales", ["", "scales = []", "scales = 'reduced'", "scales = ['a', 'a']", "scales = [1]"])
def test_a_register_without_distinct_scales_is_refused(tmp_path, scales):
    """If this fails, the default scale is none, or a scale is run twice under one name."""
    with pytest.raises(ValueError, match="scales: expected a list of distinct names, at least one, got"):
        load_register(write(tmp_path, ROW, scales=scales))


def test_an_unknown_id_is_answered_with_the_nearest_one(tmp_path):
    """If this fails, a mistyped id costs a search through the register."""
    register = load_register(write(tmp_path, ROW))
    assert isinstance(register, Register)
    assert (list(register), len(register)) == (["op.batch_size"], 1)
    assert register.claim("op.batch_size") is register["op.batch_size"]
    with pytest.raises(
        ValueError, match=r"id: expected a claim of the register, got 'op.batchsize'; did you mean 'op.batch_size'\?"
    ):
        register.claim("op.batchsize")
    with pytest.raises(ValueError, match=r"got 'zzz'$"):
        register.claim("zzz")


def test_a_file_without_rows_or_with_a_misspelt_key_is_refused(tmp_path):
    """If this fails, a misspelt table or key is dropped silently."""
    with pytest.raises(ValueError, match=r"claim: expected rows under \[\[claim\]\], got 3"):
        load_register(write(tmp_path, rest="claim = 3"))
    for misspelt, meant in (("[claims]", "claim"), ("[leak_metric]", "leak_metrics"), ("[scale]", "scales")):
        with pytest.raises(ValueError, match=rf"expected tables and the keys .*; did you mean '{meant}'"):
            load_register(write(tmp_path, ROW, rest=misspelt))
    with pytest.raises(ValueError, match=r"expected tables and the keys .*, got 'factor'"):
        load_register(write(tmp_path, ROW, scales="factor = 3\nscales = ['reduced', 'paper']"))


def test_further_tables_belong_to_others_and_are_not_read(tmp_path):
    """If this fails, a project cannot keep its own tables, such as the paper's Table I, in the register's file."""
    assert list(load_register(write(tmp_path, ROW, rest="[table1.op]\nx = 1\n[[note]]\nrows = 3"))) == ["op.batch_size"]


def test_a_claim_made_in_python_is_checked_alike():
    """If this fails, a claim built in a test can lack what the register demands."""
    with pytest.raises(ValueError, match="claim 'planted': margin: expected"):
        Claim("planted", "x", "trend", "psnr", "dB", math.inf, "worse", "here", "-")
    with pytest.raises(ValueError, match="claim 'planted': by_construction: expected a reason, or no value, got ' '"):
        Claim("planted", "x", "trend", "psnr", "dB", 1.0, "worse", "here", "-", by_construction=" ")


@pytest.mark.parametrize("margin", ["'1/0'", "nan", "inf", "'1e400'", "true", "[]"])
@pytest.mark.parametrize("key", ["margin", "number"])
def test_a_number_that_is_none_is_refused(tmp_path, key, margin):
    """If it fails, a ZeroDivisionError or an infinite number comes out of a register."""
    row = ROW | {"kind": "'count'", "margin": "0.5", key: margin}
    row.pop("direction")
    with pytest.raises(ValueError, match=f"{key}: expected a number or a fraction"):
        load_register(write(tmp_path, row))


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_register_that_was_changed_is_a_value_error_or_loads(data, tmp_path):
    """If it fails, a typing mistake ends in a foreign error without the file's name."""
    words = ["[]", "{}", "1", "true", "nan", "''", "'x'", "[['a']]", "1979-05-27", "'1/0'"]
    extra = {"number": "1", "pair": "['a', 'b']", "reported": "{ a = 1 }", "paper_says": "'nothing'"}
    row = ROW | {key: extra[key] for key in data.draw(st.sets(st.sampled_from(sorted(extra))))}
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(st.sampled_from(words))
    path = write(tmp_path, row, scales=data.draw(st.sampled_from(["scales = ['a']", "scales = 1", "scales = [1]", ""])))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    with contextlib.suppress(ValueError):
        load_register(path)
