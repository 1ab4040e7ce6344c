"""How Hypothesis draws: every field of its settings is stated, and a claim's seed is the same in every process."""

import importlib.util
import inspect
import sys

from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from gia.harness.decide.counterexamples import universal
from gia.harness.decide.profiles import PROFILES, claim_seed, same_draws
from gia.harness.decide.register import Claim


def test_every_profile_states_every_field_of_hypothesis_settings():
    """If this fails, a field comes from the profile that is loaded, which on CI is Hypothesis's own."""
    known = set(inspect.signature(settings.__init__).parameters) - {"self", "parent"}
    for name, fields in PROFILES.items():
        assert set(fields) == known, name
        profile = settings.get_profile(name)
        assert {field: getattr(profile, field) for field in ("database", "deadline")} == {
            "database": None,
            "deadline": None,
        }
    assert settings.get_profile("claims").phases == (Phase.generate,)


def test_the_seed_of_a_claim_is_the_crc32_of_its_id():
    """If this fails, an edit of the code or another hash seed gives a claim other examples.

    The number is the published check value of CRC-32/ISO-HDLC.
    """
    assert claim_seed("123456789") == 0xCBF43926


INTEGERS, SHARES = st.integers(0, 2**32 - 1), st.floats(0.5, 3)


def by_hypothesis():
    """What Hypothesis draws by itself with one seed."""
    found = []

    @seed(5)
    @settings(settings.get_profile("claims"), max_examples=300)
    @given(INTEGERS, SHARES)
    def collect(integer, share):
        found.append((integer, share))

    collect()
    return found


def by_claim():
    """What a universal row draws."""
    found = []
    claim = Claim("c.x", "It always is.", "universal", "slack", "relative", None, None, "Thm 1", "a bound")

    def check(integer, share):
        found.append((integer, share))
        return 1.0

    universal(claim, check, {"integer": INTEGERS, "share": SHARES}, minimum=150)
    return found


def test_a_claim_has_the_same_examples_whatever_other_modules_contain(tmp_path, monkeypatch):
    """If this fails, an edit of any module, or a run of other rows, gives a universal row other examples. The last line
    shows that the test can fail: what Hypothesis draws by itself has constants of the new module."""
    before = by_claim()
    path = tmp_path / "some_module.py"
    constants = [1_234_567_000 + n for n in range(60)]
    path.write_text(f"NUMBERS = {constants}\nSHARES = {[1.0625 + n / 1024 for n in range(60)]}\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("some_module", path)
    monkeypatch.setitem(sys.modules, "some_module", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(sys.modules["some_module"])
    assert by_claim() == before
    assert set(constants) & {integer for integer, _ in by_hypothesis()}


def test_only_the_draws_of_claims_leave_constants_out():
    """If this fails, the property tests of the project, or of a user, lose a part of what Hypothesis tries."""
    known = providers._get_local_constants
    with same_draws():
        assert providers._get_local_constants is not known
        providers.CONSTANTS_CACHE["a key"] = "a pool without constants"
    assert providers._get_local_constants is known
    assert "a key" not in providers.CONSTANTS_CACHE
