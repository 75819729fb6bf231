"""What is counted for a key in some time, and the distribution of a measured value."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

PER_OCTAVE = 32
"""Classes of a distribution between a value and its double: a quantile is 1.1 % off at the most."""
MEDIAN, P95 = 0.5, 0.95
REFUSED, TIMEOUT, UNREACHABLE, ABORTED, ERROR = FAILURES = (
    "refused",
    "timeout",
    "unreachable",
    "aborted",
    "error",
)
"""Why attempts fail; the last is all else, such as an error inside the host."""


class Distribution:
    """How often positive values came, in classes of equal ratio: of bounded size."""

    __slots__ = ("_classes", "count")

    def __init__(self) -> None:
        """Start empty."""
        self._classes: Counter[int] = Counter()
        self.count = 0

    def add(self, value: float) -> None:
        """Take a value; what is not above 0 counts as very small."""
        self._classes[round(math.log2(max(value, 1e-9)) * PER_OCTAVE)] += 1
        self.count += 1

    def merge(self, other: Distribution) -> None:
        """Take the values of another."""
        if other.count:
            self._classes.update(other._classes)
            self.count += other.count

    def quantile(self, share: float) -> float | None:
        """Return the value that `share` of all do not exceed; None where there is none."""
        wanted = share * self.count
        seen = 0
        for number in sorted(self._classes):
            seen += self._classes[number]
            if seen >= wanted:
                return float(2 ** (number / PER_OCTAVE))
        return None


@dataclasses.dataclass(slots=True)
class Figures:
    """What happened in some time."""

    attempts: int = 0
    """Attempts to connect that have ended, established or not."""
    accepts: int = 0
    closes: int = 0
    """Connections that have ended."""
    told: int = 0
    """Of these, those whose bytes were counted."""
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    """By kind, one of `FAILURES`."""
    tx_bytes: int = 0
    """Payload, each byte counted once."""
    rx_bytes: int = 0
    retransmits: int = 0
    """Segments."""
    latency_ms: Distribution = dataclasses.field(default_factory=Distribution)
    """Of the attempts that were established."""

    def merge(self, other: Figures) -> None:
        """Add what happened in another time."""
        self.attempts += other.attempts
        self.accepts += other.accepts
        self.closes += other.closes
        self.told += other.told
        self.failures.update(other.failures)
        self.tx_bytes += other.tx_bytes
        self.rx_bytes += other.rx_bytes
        self.retransmits += other.retransmits
        self.latency_ms.merge(other.latency_ms)

    @property
    def failed(self) -> int:
        """How many attempts have failed."""
        return self.failures.total()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has happened."""
        events = self.attempts or self.accepts or self.closes
        return not (events or self.tx_bytes or self.rx_bytes or self.retransmits)
