"""What a command's function works on: `Trace`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from tcptrace.kernel import lookups
from tcptrace.model.batch import Batch
from tcptrace.model.filters import Filters
from tcptrace.model.meta import Meta
from tcptrace.sources.source import Source


class _Events:
    """The events of batches as they are."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self._events = chain.from_iterable(batch.events for batch in batches)

    def __iter__(self) -> Iterator[Any]:
        return self._events

    def __next__(self) -> Any:
        return next(self._events)


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """What happened, as a command's function gets it to make rows."""

    batches: Iterator[Batch]
    """To be taken in place of `events`. Some 30 batches come in a second, or 10 while nothing
    happens; each says up to when it is complete."""
    filters: Filters
    """The filters that were given."""
    _source: Source
    _rest: Callable[[], None] = lambda: None
    """Called where the function does not depend on how often batches come."""

    @property
    def meta(self) -> Meta:
        """What holds for all events."""
        return self._source.meta

    @property
    def events(self) -> Iterator[Any]:
        """The events of all batches, oldest first."""
        self._rest()
        return _Events(self.batches)

    def are_its_events(self, rows: Iterable[Any]) -> bool:
        """Tell whether rows are `events` themselves, which nobody has looked at."""
        return isinstance(rows, _Events) and rows.batches is self.batches

    @property
    def lost(self) -> int:
        """How many events have found no room so far."""
        return self._source.losses().no_room

    def give_up(self, count: int) -> None:
        """Say how many were not followed to their end so far, because too many were under way."""
        self._source.given_up = count

    def name_of_user(self, uid: int) -> str | None:
        """Return a user's name; None for one without."""
        return lookups.user_name(uid)

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what one of the probe's hash maps holds now; sizes in bytes."""
        return self._source.table(name, key_size, value_size)
