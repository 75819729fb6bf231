"""Sleeps between looks at a buffer where nothing comes: `Rest`."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence

QUIET_LOOKS = 10
"""After so many looks at nothing it rests."""
REST_S = 0.1
"""So long at most: what depends on the time is not to be late."""
LONG_REST_S = 0.5
"""So long where nothing does but what is said of losses. Each look takes some 0.1 ms."""


class Rest:
    """Waits for an event where nothing has come for a while.

    The first event after that wakes it, at some cost for the traced process; those of a busy time
    need not.
    """

    def __init__(
        self, buffers: Sequence[int], announce: Callable[[bool], None] = lambda _: None
    ) -> None:
        """Wait for what can be read of any of these descriptors.

        `announce` tells whoever wakes this whether it sleeps, before and after.
        """
        self._buffers = frozenset(buffers)
        self._announce = announce
        self._poll = select.poll()
        for descriptor in buffers:
            self._poll.register(descriptor, select.POLLIN)
        self._rest_s = REST_S
        self._signals: tuple[int, int] | None = None
        self._taken = 0
        self._quiet_looks = 0

    def lengthen(self) -> None:
        """Rest long; signals end it. To be called in the main thread."""
        if self._signals:
            return
        self._rest_s = LONG_REST_S
        self._signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._signals[0], select.POLLIN)
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)

    def wake_at(self, descriptor: int) -> None:
        """Let a rest end when a descriptor can be read, once."""
        self._poll.register(descriptor, select.POLLIN)

    def is_quiet(self, taken: int) -> bool:
        """Take a look into account; tell whether nothing has come for a while.

        `taken` grows with what was taken out of the buffer so far.
        """
        self._quiet_looks = self._quiet_looks + 1 if taken == self._taken else 0
        self._taken = taken
        return self._quiet_looks >= QUIET_LOOKS

    def sleep(self) -> None:
        """Sleep until an event comes, but not too long."""
        self._announce(True)  # noqa: FBT003 - as its type says
        ready = self._poll.poll(self._rest_s * 1000)  # at once where something has come meanwhile
        self._announce(False)  # noqa: FBT003
        for descriptor, _ in ready:
            self._heed(descriptor)

    def _heed(self, descriptor: int) -> None:
        """Let what has ended a rest not end the next."""
        if self._signals and descriptor == self._signals[0]:
            os.read(descriptor, 64)
        elif descriptor not in self._buffers:
            self._poll.unregister(descriptor)

    def close(self) -> None:
        """Let go of it."""
        if self._signals:
            signal.set_wakeup_fd(-1)
            for descriptor in self._signals:
                os.close(descriptor)
            self._signals = None
