"""The register refuses a malformed row by its name and key, and reads a good one as it is written."""

import math
import pickle

import pytest

from gia.harness.decide.register import Claim, Expectation, load_register, load_table1

ROW = {
    "id": "'op.batch_size'",
    "statement": "'More images, worse.'",
    "kind": "'trend'",
    "metric": "'psnr'",
    "unit": "'dB'",
    "margin": "0.5",
    "side": "'worse'",
    "source": "'Fig. 3a'",
    "paper": "'.765 to .513'",
    "expected": "{ reduced = ['supported', 'measured'], paper = ['supported', 'the claim'] }",
}


def write(tmp_path, *rows, rest=""):
    """A register with these rows, values as TOML, and further tables."""
    path = tmp_path / "claims.toml"
    parts = ["[[claim]]\n" + "\n".join(f"{key} = {value}" for key, value in row.items()) for row in rows]
    path.write_text("\n".join([*parts, rest]))
    return path


def test_a_row_is_read_as_it_is_written(tmp_path):
    """If this fails, a verdict is computed with another margin or side than the committed one."""
    row = ROW | {"margin": "'8/64'", "reported": "{ 'fig.1' = 0.765 }"}
    claim = load_register(write(tmp_path, row))["op.batch_size"]
    assert (claim.kind, claim.margin, claim.side, claim.sign) == ("trend", 0.125, "worse", -1)
    assert (claim.attack_type, claim.factor) == ("op", "batch_size")
    assert claim.expected["reduced"] == Expectation("supported", "measured")
    assert claim.reported == {"fig.1": 0.765}


@pytest.mark.parametrize(
    ("name", "attack_type", "factor"),
    [
        ("gen_inv.fedavg", "gen_inv", "fedavg"),
        ("ana_arch.parameters", "ana_arch", None),
        ("thm1.scaling", None, None),
        ("visual_quality", None, None),
    ],
)
def test_attack_type_and_factor_follow_from_the_id(tmp_path, name, attack_type, factor):
    """If this fails, a row is counted in the matrix that does not belong there, or missed."""
    claim = load_register(write(tmp_path, ROW | {"id": repr(name)}))[name]
    assert (claim.attack_type, claim.factor) == (attack_type, factor)


@pytest.mark.parametrize(("side", "sign"), [("worse", -1), ("lower", -1), ("better", 1), ("higher", 1)])
def test_the_sign_turns_the_claimed_side_positive(tmp_path, side, sign):
    """If this fails, a reversed effect supports the claim."""
    assert load_register(write(tmp_path, ROW | {"side": repr(side)}))["op.batch_size"].sign == sign


def test_the_unmeasured_expectation_fills_the_scales_that_a_row_leaves_out(tmp_path):
    """If this fails, a row without a scale has no expectation and its test could not fail."""
    row = ROW | {"expected": "{ reduced = ['refuted', 'seen'] }"}
    path = write(tmp_path, row, rest="[unmeasured]\nreduced = ['supported', 'a']\npaper = ['supported', 'b']")
    expected = load_register(path)["op.batch_size"].expected
    assert expected == {"reduced": ("refuted", "seen"), "paper": ("supported", "b")}


def test_a_claim_travels_to_a_worker_process(tmp_path):
    """If this fails, a worker cannot be told which claim it works for."""
    claim = load_register(write(tmp_path, ROW))["op.batch_size"]
    assert pickle.loads(pickle.dumps(claim)) == claim


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"marign": "0.5"}, "claim 'op.batch_size': unknown key 'marign'"),
        ({"metric": None}, "claim 'op.batch_size': key 'metric' is missing"),
        ({"statement": "' '"}, "claim 'op.batch_size': statement must be a non-empty string"),
        ({"unit": "3"}, "claim 'op.batch_size': unit must be a non-empty string, but is 3"),
        ({"id": "'Op batch'"}, "claim 'Op batch': id must be lower-case words"),
        ({"id": "3"}, "claim row 1: id must be a string, but is 3"),
        ({"kind": "'trends'"}, "claim 'op.batch_size': kind must be one of .* but is 'trends'"),
        ({"margin": None}, "claim 'op.batch_size': margin must be a positive number, since the kind is 'trend'"),
        ({"margin": "0.0"}, "claim 'op.batch_size': margin must be a positive finite number"),
        ({"margin": "nan"}, "claim 'op.batch_size': margin must be a positive finite number"),
        ({"margin": "true"}, "claim 'op.batch_size': margin must be a number or a fraction"),
        ({"margin": "'one'"}, "claim 'op.batch_size': margin must be a number or a fraction like '8/64', but is 'one'"),
        ({"side": None}, "claim 'op.batch_size': side must be one of"),
        ({"side": "'down'"}, "claim 'op.batch_size': side must be one of .* but is 'down'"),
        ({"kind": "'equivalence'"}, "claim 'op.batch_size': side must be none, since the kind is 'equivalence'"),
        ({"kind": "'universal'", "side": None}, "claim 'op.batch_size': margin must be none"),
        ({"number": "1"}, "claim 'op.batch_size': number must be none, since the kind is 'trend'"),
        ({"pair": "['a', 'b']"}, "claim 'op.batch_size': pair must be none, since the kind is 'trend'"),
        ({"kind": "'paired'", "pair": "['a']"}, "claim 'op.batch_size': pair must be the names of the two conditions"),
        ({"expected": "'supported'"}, "claim 'op.batch_size': expected must be a table of scales"),
        ({"expected": "{ reduced = 'supported' }"}, r"claim 'op.batch_size': expected.reduced must be \[outcome"),
        ({"expected": "{ reduced = ['passed', 'x'] }"}, "claim 'op.batch_size': expected.reduced must be one of"),
        ({"expected": "{ reduced = ['supported', ' '] }"}, "claim 'op.batch_size': expected.reduced must be a reason"),
        ({"expected": "{ large = ['supported', 'x'] }"}, "claim 'op.batch_size': expected must be scales among"),
        ({"expected": "{ reduced = ['supported', 'x'] }"}, "claim 'op.batch_size': expected.paper is missing"),
        ({"reported": "3"}, "claim 'op.batch_size': reported must be a table"),
        ({"reported": "{ 'fig.1' = [1] }"}, "claim 'op.batch_size': reported.fig.1 must be a number"),
    ],
)
def test_a_malformed_row_is_refused_by_its_name_and_key(tmp_path, change, message):
    """If this fails, a typing error in the register changes or drops a claim silently."""
    row = {key: value for key, value in (ROW | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_register(write(tmp_path, row))


def test_two_rows_with_one_id_are_refused(tmp_path):
    """If this fails, one of the two is never tested."""
    with pytest.raises(ValueError, match=r"claim 'op\.batch_size': id must be unique, but row 2 repeats it"):
        load_register(write(tmp_path, ROW, ROW))


def test_a_file_without_rows_or_with_an_unknown_table_is_refused(tmp_path):
    """If this fails, a misspelt table is dropped without a word."""
    with pytest.raises(ValueError, match=r"expected rows under \[\[claim\]\]"):
        load_register(write(tmp_path, rest="claim = 3"))
    with pytest.raises(ValueError, match=r"unknown tables \['claims'\]"):
        load_register(write(tmp_path, ROW, rest="[claims]"))


def test_a_claim_made_in_python_is_checked_alike():
    """If this fails, a claim built in a test can lack what the register demands."""
    with pytest.raises(ValueError, match="claim 'planted': margin"):
        Claim("planted", "x", "trend", "psnr", "dB", math.inf, "worse", "here", "-", {})


def table1(tmp_path, **change):
    """A register with a whole Table I; `op__fedavg=None` leaves a cell out."""
    types = ("op", "gen_z", "gen_w", "gen_inv", "ana_arch", "ana_param")
    columns = ("batch_size", "resolution", "same_labels", "training_state", "architecture", "fedavg")
    columns += ("original", "visual_quality", "reliance")
    cells = {(t, c): "{ paper = 'yes', rows = ['op.batch_size'] }" for t in types for c in columns}
    cells |= {tuple(key.split("__")): value for key, value in change.items()}
    lines = [
        line
        for t in types
        for line in (f"[table1.{t}]", *(f"{c} = {v}" for (of, c), v in cells.items() if of == t and v is not None))
    ]
    return write(tmp_path, ROW, rest="\n".join(lines))


def test_table_one_is_read_cell_by_cell(tmp_path):
    """If this fails, the re-measured table shows a verdict in the wrong cell."""
    table = load_table1(table1(tmp_path, gen_w__fedavg="{ paper = 'no', rows = ['op.batch_size'] }"))
    assert table["gen_w"]["fedavg"] == ("no", ("op.batch_size",))
    assert table["gen_w"]["original"].paper == "yes"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "table1.op: expected the keys"),
        ("{ paper = 'yes' }", "table1.op.fedavg: expected the keys"),
        ("{ paper = 'yes', rows = ['op.fedavg'] }", r"table1.op.fedavg: rows must name claims .* not \['op.fedavg'\]"),
        ("{ paper = 'yes', rows = [] }", r"table1.op.fedavg: rows must name claims"),
    ],
)
def test_a_cell_that_nothing_measures_is_refused(tmp_path, cell, message):
    """If this fails, a cell of Table I can lose its claim unnoticed."""
    with pytest.raises(ValueError, match=message):
        load_table1(table1(tmp_path, op__fedavg=cell))
