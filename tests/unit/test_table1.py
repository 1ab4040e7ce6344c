"""What the register must hold: every row of the paper, its Table I, its taxonomy, its numbers, its inconsistencies."""

import json
import re
import tomllib
from functools import reduce
from pathlib import Path

import pytest

from claims.table1 import ATTACK_TYPES, COLUMNS, FACTORS, MARKERS, load_table1, markdown, replaced
from gia.harness.decide.register import load_register

ROOT = Path(__file__).parents[2]
REGISTER = ROOT / "claims" / "claims.toml"
CLAIMS = load_register(REGISTER)
DOCUMENT = tomllib.loads(REGISTER.read_text(encoding="utf-8"))
REPORTED = json.loads((ROOT / "baselines" / "reported.json").read_text(encoding="utf-8"))

# Cells of the matrix whose statement, kind, margin or direction changed after a verdict, so that they are new rows.
SECOND_FORMS = {
    "gen_z": "batch_size resolution same_labels training_state architecture fedavg",
    "gen_inv": "batch_size resolution same_labels training_state architecture fedavg",
    "ana_arch": "training_state fedavg",
    "ana_param": "fedavg",
}


def row_of(attack_type: str, factor: str) -> str:
    """The id of a cell of the matrix."""
    return f"{attack_type}.{factor}" + ("/2" if factor in SECOND_FORMS.get(attack_type, "").split() else "")


MATRIX = {row_of(attack_type, factor): attack_type for attack_type in ATTACK_TYPES for factor in FACTORS}

# Rows that are no cell of the matrix: what stands before the dot, then what stands after it.
OUTSIDE_THE_MATRIX = {
    "op": "resolution_over_batch depth_over_batch fedavg_strong original no_reliance/2",
    "gen_z": "original domain noise/2",
    "gen_w": "original sigmoid/2",
    "gen_inv": "original auxiliary/2",
    "ana_arch": "original parameters table4 bins",
    "ana_param": "original isolation needs_op",
    "ana": "malicious",
    "thm1": "scaling corrected printed_repaired printed empirical",
    "prop1": "ordering/2 trained_similar/2 table2",
    "linear": "exact mixture",
    "prop2": "count",
    "sigmoid": "inputs linear mechanism/2",
    "peft": "resolution resized model_size batch_size zero_a embeddings",
    "detect": "ana_arch ana_param false_alarms/2 dsnr evasion",
    "defense": "stage1 stage2 stage3 pipeline cost",
}

# The kinds of the matrix: T trend, P paired, A affected, E equivalence; columns in the order of FACTORS.
KINDS = {"op": "TTTPTP", "gen_z": "EEEEEE", "gen_w": "TTTAAA", "gen_inv": "TTTEPA", "ana_arch": "EEEEEE"}
KINDS |= {"ana_param": "ETEPTE"}
LETTERS = {"T": "trend", "P": "paired", "A": "affected", "E": "equivalence"}

# The paper's Table I: y affected, n not; then original, visual quality, reliance.
TABLE1 = {
    "op": ("yyyyyy", "yes", "low", "none"),
    "gen_z": ("nnnnnn", "no", "high", "trained generator"),
    "gen_w": ("yyyyyy", "yes", "middle", "Sigmoid"),
    "gen_inv": ("yyynyy", "yes", "low", "auxiliary data set"),
    "ana_arch": ("nnnnnn", "yes", "high", "malicious server"),
    "ana_param": ("nynyyn", "yes", "middle", "malicious server"),
}

# Metric and kind -> margin, fixed before any claim was run; leak has those that psnr had, exact_leak those of
# exact_share. Shares run from 0 to 1.
MARGINS = {
    ("leak", "trend"): 0.5,
    ("leak", "paired"): 1.0,
    ("leak", "affected"): 1.0,
    ("leak", "equivalence"): 1.0,
    ("psnr", "trend"): 0.5,
    ("psnr", "paired"): 1.0,
    ("psnr", "equivalence"): 1.0,
    ("psnr_lost", "equivalence"): 1.0,
    ("exact_leak", "trend"): 1 / 64,
    ("exact_leak", "paired"): 8 / 64,
    ("exact_leak", "equivalence"): 8 / 64,
    ("exact_share", "count"): 2 / 64,
    ("label_agreement", "paired"): 0.2,
    ("lpips_nearest", "paired"): 0.05,
    ("cosine", "trend"): 0.05,
    ("cosine", "paired"): 0.1,
    ("rmse", "trend"): 0.05,
}

# The deciding metric of a row of the matrix is leak, or for an exact attack the leak of exact images. One row has its
# own, chosen before its first run: with other equal labels feature fishing isolates another image, of another PSNR.
METRICS = {"ana_arch": "exact_leak"}
OWN_METRICS = {"ana_param.same_labels": "psnr_lost"}

# Rows whose metric the list above has no margin for; each was chosen here, and says what its margin is in.
OWN_MARGINS = {
    "thm1.scaling": 1e-12,
    "linear.exact": 1e-10,
    "linear.mixture": 1e-10,
    "ana_arch.parameters": 1e-12,
    "sigmoid.inputs": 0.1,
    "sigmoid.linear": 0.0005,
    "peft.zero_a": 1e-12,
    "peft.embeddings": 1e-10,
    "detect.false_alarms/2": 0.01,
    "detect.dsnr": 0.5,
    "defense.cost": 0.01,
}

# What the paper says is wrong, and what it says nothing about; it claims the statement of every other row.
DENIED = {"defense.cost"}
UNSAID = {"thm1.corrected", "thm1.printed_repaired", "peft.resized", "peft.embeddings"}

# Rows that hold by algebra, or because the answer is given: they are counted apart, so none is added unnoticed.
BY_CONSTRUCTION = {
    "ana_arch.same_labels",
    "ana_arch.architecture",
    "ana_arch.parameters",
    "ana_param.batch_size",
    "ana_param.isolation",
    "ana_param.needs_op",
    "ana.malicious",
    "gen_z.domain",
    "op.no_reliance/2",
    "thm1.scaling",
    "thm1.corrected",
    "thm1.printed_repaired",
    "linear.exact",
    "linear.mixture",
    "sigmoid.linear",
    "peft.zero_a",
    "peft.embeddings",
}


def at(path: str):
    """What baselines/reported.json holds at a dotted path."""
    return reduce(lambda node, key: node[int(key)] if isinstance(node, list) else node[key], path.split("."), REPORTED)


def numbers(text: str) -> set[float]:
    """The numbers in a text that have a decimal point."""
    return {float(found) for found in re.findall(r"(?<![\w.])-?\d*\.\d+", text)}


def test_the_register_holds_every_row_of_the_paper_and_no_other():
    """If this fails, a claim was lost, added or renamed without this list knowing."""
    assert len(MATRIX) == 36
    others = [f"{family}.{name}" for family, names in OUTSIDE_THE_MATRIX.items() for name in names.split()]
    assert sorted(CLAIMS) == sorted([*MATRIX, *others, "visual_quality/2"])
    assert len(CLAIMS) == 87


@pytest.mark.parametrize("attack_type", ATTACK_TYPES)
def test_each_cell_of_the_matrix_has_the_kind_that_the_paper_s_claim_needs(attack_type):
    """If this fails, a claimed effect is tested as no effect, or the other way round."""
    kinds = [CLAIMS[row_of(attack_type, factor)].kind for factor in FACTORS]
    assert kinds == [LETTERS[letter] for letter in KINDS[attack_type]]


@pytest.mark.parametrize("attack_type", ATTACK_TYPES)
def test_table_one_is_the_paper_s(attack_type):
    """If this fails, we compare with a table that the paper does not print."""
    row = load_table1(REGISTER)[attack_type]
    assert tuple(row) == COLUMNS
    factors, *results = TABLE1[attack_type]
    assert [row[factor].paper[0] for factor in FACTORS] == list(factors)
    assert [row[column].paper for column in COLUMNS[6:]] == results


def test_table_one_has_six_by_nine_cells_that_together_hold_the_whole_matrix():
    """If this fails, a cell is missing or a row of the matrix belongs to no cell."""
    cells = [cell for row in load_table1(REGISTER).values() for cell in row.values()]
    assert len(cells) == 54
    assert set(MATRIX) <= {name for cell in cells for name in cell.claims}


def test_each_cell_is_linked_to_claims_of_its_own_row_and_column():
    """If this fails, a verdict is shown in a cell that it does not speak of."""
    for attack_type, row in load_table1(REGISTER).items():
        for factor in FACTORS:
            assert row[factor].claims[0] == row_of(attack_type, factor)
            effect = any(CLAIMS[name].kind != "equivalence" for name in row[factor].claims)
            assert (row[factor].paper == "yes") == effect, (attack_type, factor)
        assert row["original"].claims == (f"{attack_type}.original",)


def test_margins_are_the_committed_ones():
    """If this fails, a margin moved, perhaps after a result was seen."""
    measured = {(claim.metric, claim.kind) for name, claim in CLAIMS.items() if name not in OWN_MARGINS}
    assert set(MARGINS) <= measured
    for name, claim in CLAIMS.items():
        if claim.kind == "universal":
            assert claim.margin is None, name
        else:
            expected = OWN_MARGINS[name] if name in OWN_MARGINS else MARGINS[claim.metric, claim.kind]
            assert claim.margin == expected, name


def test_the_deciding_metric_is_the_attack_type_s():
    """If this fails, a metric was chosen for a matrix row that could suit its result."""
    for name, attack_type in MATRIX.items():
        assert CLAIMS[name].metric == OWN_METRICS.get(name, METRICS.get(attack_type, "leak")), name


def test_leak_decides_every_row_that_asks_what_the_gradient_reveals():
    """If this fails, a row is decided by PSNR again, which an attacker without the gradient has too."""
    assert set(DOCUMENT["leak_metrics"]) == {"leak", "exact_leak", "agreement_leak"}
    for name, claim in CLAIMS.items():
        assert claim.leak == claim.metric.endswith("leak"), name
    originals = {f"{attack_type}.original" for attack_type in ATTACK_TYPES}
    assert {name for name, claim in CLAIMS.items() if claim.metric == "psnr"} == originals | {"prop1.ordering/2"}


def test_every_effect_in_the_matrix_is_claimed_for_the_worse():
    """If this fails, a sign is reversed: each factor that the paper calls harmful must lower the score."""
    for name in MATRIX:
        claim = CLAIMS[name]
        if claim.kind in ("trend", "paired"):
            assert claim.direction == "worse", name
            assert claim.kind == "trend" or claim.pair, name


def test_every_pair_names_its_two_conditions():
    """If this fails, nobody can tell which condition is A, whose control counts."""
    assert [name for name, claim in CLAIMS.items() if claim.kind == "paired" and claim.pair is None] == []


def test_untrained_is_the_better_victim_for_op_and_the_worse_one_for_fishing():
    """If this fails, one of the two opposite claims about training is reversed."""
    assert CLAIMS["op.training_state"].pair == ("untrained", "trained")
    assert CLAIMS["ana_param.training_state"].pair == ("trained", "untrained")


def test_the_paper_claims_every_row_but_a_few():
    """If this fails, what the paper says was moved, perhaps to what was found."""
    assert {name for name, claim in CLAIMS.items() if claim.paper_says == "refuted"} == DENIED
    assert {name for name, claim in CLAIMS.items() if claim.paper_says == "nothing"} == UNSAID
    assert {claim.paper_says for claim in CLAIMS.values()} == {"supported", "refuted", "nothing"}


def test_rows_that_cannot_fail_are_known_and_say_why():
    """If this fails, a row that holds by algebra counts as evidence, or a row that can fail counts as none."""
    reasons = {name: claim.by_construction for name, claim in CLAIMS.items() if claim.by_construction is not None}
    assert set(reasons) == BY_CONSTRUCTION
    assert [name for name, reason in reasons.items() if len(reason.split()) < 3] == []


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.reported])
def test_the_paper_s_numbers_are_those_of_the_reported_file(name):
    """If this fails, a number beside our verdict is not the one that was published."""
    claim = CLAIMS[name]
    for path, value in claim.reported.items():
        assert at(path) == value, path
    shown = {float(found) for found in re.findall(r"(?<![\w.])-?(?:\d*\.\d+|\d+)", claim.paper)}
    assert set(claim.reported.values()) <= shown
    assert numbers(claim.paper) <= set(claim.reported.values())


def test_the_taxonomy_has_forty_three_methods_in_six_leaves():
    """If this fails, a method of the paper's Fig. 1 is missing, doubled or in no leaf."""
    leaves = DOCUMENT["taxonomy"]
    assert list(leaves) == list(ATTACK_TYPES)
    assert [len(leaf) for leaf in leaves.values()] == [26, 3, 4, 2, 3, 5]
    assert len({method for leaf in leaves.values() for method in leaf}) == 43


def test_every_inconsistency_of_the_paper_names_claims_and_numbers_that_exist():
    """If this fails, a reader is sent to a row or a figure that is not there."""
    assert len(DOCUMENT["inconsistency"]) == 12
    for entry in DOCUMENT["inconsistency"]:
        assert set(entry) <= {"title", "paper", "rows", "reported", "measured"}
        assert entry["title"], entry
        assert entry["rows"], entry
        assert set(entry["rows"]) <= set(CLAIMS), entry
        for path in entry.get("reported", ()):
            at(path)


def test_the_inconsistencies_can_be_seen_in_the_reported_numbers():
    """If this fails, we accuse the paper of something that its numbers do not show."""
    assert at("fig5_ig_cifar10_b4_same_labels.0") == at("supp_ig_untrained_resnet18_captions.cifar10.1")
    table3 = at("table3_ig_cifar100_fedavg")
    assert table3["weak"]["1,1"] == table3["weak"]["1,16"]
    assert table3["strong"]["1,1"][1] < table3["weak"]["1,1"][1]
    cells = list(table3["none"])
    assert len(cells) == 9
    assert all(table3["none"][cell][1] < min(table3["weak"][cell][1], table3["strong"][cell][1]) for cell in cells)
    depth = at("fig3b_ig_cifar100_architecture_ssim")
    assert list(depth["resnet101"].values()) != sorted(depth["resnet101"].values(), reverse=True)
    assert depth["resnet101"]["64"] > max(depth["resnet34"]["64"], depth["resnet50"]["64"])
    cifar10 = at("fig3a_ig_resnet18_ssim")
    assert all(abs(cifar10["cifar10_untrained"][b] - cifar10["cifar10_trained"][b]) < 0.02 for b in ("16", "32", "64"))
    cinet = at("fig7a_cinet_ssim")
    assert cinet["celeba_sigmoid"]["32"] > cinet["celeba_sigmoid"]["4"]
    assert cinet["celeba_sigmoid"]["1"] > cinet["cifar100_sigmoid"]["1"]
    assert at("supp_cinet_cifar100_b64_same_labels.none.1") != cinet["cifar100_sigmoid"]["64"]
    assert all(8 <= row[0] < 11 for row in at("supp_lora_vit_base_captions.celeba").values())


def test_the_reported_file_is_stored_with_sorted_keys():
    """If this fails, a change of one number cannot be read in a diff."""
    text = (ROOT / "baselines" / "reported.json").read_text(encoding="utf-8")
    assert text == json.dumps(REPORTED, indent=1, sort_keys=True) + "\n"


def planted(tmp_path, attack_type, column, cell):
    """A register whose Table I has one cell replaced, or left out where it is None."""
    cells = {(of, name): '{ paper = "yes", rows = ["op.batch_size"] }' for of in ATTACK_TYPES for name in COLUMNS}
    cells[attack_type, column] = cell
    lines = [f"table1.{of}.{name} = {value}" for (of, name), value in cells.items() if value is not None]
    path = tmp_path / "claims.toml"
    path.write_text("\n".join([*lines, REGISTER.read_text(encoding="utf-8").split("[table1.")[0]]), encoding="utf-8")
    return path


def test_table_one_is_read_cell_by_cell(tmp_path):
    """If this fails, the re-measured table shows a verdict in the wrong cell."""
    table = load_table1(planted(tmp_path, "gen_w", "fedavg", '{ paper = "no", rows = ["op.batch_size"] }'))
    assert table["gen_w"]["fedavg"] == ("no", ("op.batch_size",))
    assert table["gen_w"]["original"].paper == "yes"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "table1.op: expected the keys"),
        ('{ paper = "yes" }', "table1.op.fedavg: expected the keys"),
        ('{ paper = "yes", rows = ["op.fdavg"] }', r"table1.op.fedavg: rows: expected ids .* got \['op.fdavg'\]"),
        ('{ paper = "yes", rows = [] }', r"table1.op.fedavg: rows: expected ids"),
    ],
)
def test_a_cell_that_nothing_measures_is_refused(tmp_path, cell, message):
    """If this fails, a cell of Table I can lose its claim unnoticed."""
    with pytest.raises(ValueError, match=message):
        load_table1(planted(tmp_path, "op", "fedavg", cell))


def test_a_cell_of_the_readme_shows_the_confirmed_verdict_first():
    """If this fails, the front page shows a first look in place of a published verdict, or hides which one it is."""
    cells = {"op": load_table1(REGISTER)["op"]}
    confirm = {"op.batch_size": {"outcome": "supported"}, "op.fedavg": {"outcome": "inconclusive"}}
    claims = {"op.batch_size": {"outcome": "refuted"}, "op.original": {"outcome": "refuted"}}
    line = markdown(cells, confirm=confirm, claims=claims, given={"op.original"}).splitlines()[-1]
    assert line == "| OP-GIA (`op`) | yes ✓ | yes - | yes - | yes - | yes - | yes ? | yes (✗†) |"


def test_the_table_replaces_what_stands_between_its_markers_and_nothing_else():
    """If this fails, writing the table twice doubles it, or a part of the README is lost."""
    text = "\n".join(["Above.", *MARKERS, "Below."])
    once = replaced(text, "| old |")
    assert replaced(once, "| new |") == once.replace("old", "new")
    assert once.splitlines()[0] == "Above."
    assert once.splitlines()[-1] == "Below."
    with pytest.raises(ValueError, match=r"text: expected each of the lines .* once, got 2, 2"):
        replaced(text + text, "")
