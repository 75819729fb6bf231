"""What the user is told of lost events."""

from __future__ import annotations

import pytest

from tcptrace.model.losses import NOTHING_LOST, Losses

NO_ROOM = "3 events were lost; try a larger --buffer-mb"
SKIPPED = "2 events were lost: the kernel skipped the probe"


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (Losses(1, 0), "1 event was lost; try a larger --buffer-mb"),
        (Losses(3, 0), NO_ROOM),
        (Losses(0, 2), SKIPPED),
        (Losses(3, 2), f"{NO_ROOM}; {SKIPPED}"),
        (Losses(0, 0, untracked=5), "a table is full: 5 found no room in it"),
        (Losses(10, 4).since(Losses(7, 2)), f"{NO_ROOM}; {SKIPPED}"),
        (Losses(unread=2), "2 events were lost: too many waited at the end to be read"),
    ],
)
def test_losses_are_told_by_their_reasons(losses: Losses, text: str) -> None:
    """A larger buffer is advised where it helps."""
    assert text == str(losses)


def test_total_of_losses() -> None:
    """The summary counts all."""
    assert (0, 14) == (NOTHING_LOST.total, Losses(3, 2, 4, 7, 5).total)
