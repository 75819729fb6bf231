"""The surroundings of the unit tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")  # one that is busy takes its time
