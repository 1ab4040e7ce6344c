"""How Hypothesis draws: every field of its settings is stated, and a claim's seed is the same in every process."""

import inspect

from hypothesis import Phase, settings

from gia.harness.decide.profiles import PROFILES, claim_seed


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
