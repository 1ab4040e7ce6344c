"""Every test of this repository draws its examples by the profile "unit", which `gia.harness.decide.profiles` states."""

from __future__ import annotations

from hypothesis import settings

import gia.harness.decide.profiles  # noqa: F401 - registers the profile

settings.load_profile("unit")
