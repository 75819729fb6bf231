"""The version, for what must not import the rest."""

from __future__ import annotations

VERSION = "0.1.0"
