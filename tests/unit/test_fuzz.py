"""The fuzzer's targets hold for their seeds, and for some changes of these; see tests/fuzz/."""

from __future__ import annotations

import random

import pytest
from tests.fuzz.targets import TARGETS

CHANGED = 200
BYTES = (0, 1, 0x7F, 0x80, 0xC0, 0xFF)


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return data in which some bytes are others, more, or missing."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(result) + 1)
        end = at + chance.randrange(4)
        result[at:end] = bytes(chance.choices((*BYTES, *data), k=chance.randrange(4)))
    return bytes(result)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    """Nothing else happens, whatever they are."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    chance = random.Random(name)  # noqa: S311 - for data, not for secrets
    for data in (*seeds, b"", *(changed(chance.choice(seeds), chance) for _ in range(CHANGED))):
        target.check(data)
