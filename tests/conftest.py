"""Every test of this repository draws its examples by the profile "unit", which `gia.harness.blocks.drawing` states."""

from __future__ import annotations

from hypothesis import settings

import gia.harness.blocks.drawing  # noqa: F401 - registers the profile

settings.load_profile("unit")
