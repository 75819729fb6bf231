"""Recordings in object storage: kept in a directory until they end, and then carried there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tcptrace.model.limits import Limits
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.sinks.directory import DirectoryRecording
from tcptrace.sinks.waiting import waiting

LOOK_S = 5.0
"""How often to look for files that have ended, in seconds."""
AGAIN_S = 60.0
"""How long to wait for the next try, in seconds, where storage could not be reached."""
TICK_S = 0.05
PATIENCE_S = 30.0
"""How long to wait for the last file at the end, in seconds."""


def spool_for(url: str) -> Path:
    """Return where files for a URL wait."""
    if "STATE_DIRECTORY" in os.environ:
        state = Path(os.environ["STATE_DIRECTORY"].split(":")[0])
    elif os.geteuid() == 0:
        state = Path("/var/lib/tcptrace")
    else:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
        state = Path(home) / "tcptrace"
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return state / "spool" / f"{quote(url.partition('?')[0], safe='')[:100]}-{digest}"


class Uploads:
    """Has a program carry files that have ended, again and again.

    It is started at once, before whoever records gives up the right to start programs.
    """

    def __init__(self, spool: Path, url: str, say: Callable[[str], None]) -> None:
        """Carry from a directory to a URL; `say` tells people what goes wrong."""
        self._spool = spool
        self._url = url
        self._say = say
        self._next = 0.0
        self._is_busy = False
        self._failure = ""
        asked, self._asks = os.pipe()
        self._answers, answered = os.pipe()
        self._carrier = subprocess.Popen(
            (sys.executable, "-I", "-m", "tcptrace.sinks.carrier", str(spool), url),
            stdin=asked,
            stdout=answered,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for whoever records
        )
        os.close(asked)
        os.close(answered)
        os.set_blocking(self._answers, False)

    def go_on(self) -> None:
        """Look whether there is something to carry, or somebody has carried it."""
        now = time.monotonic()
        if self._is_busy:
            self._look(now)
        elif now >= self._next:
            self._next = now + LOOK_S
            if any(waiting(self._spool)):
                self._is_busy = True
                self._ask()

    def _ask(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            os.write(self._asks, b"\n")

    def _look(self, now: float) -> None:
        """Take an answer if there is one: a line, which is written whole."""
        try:
            answer = os.read(self._answers, select.PIPE_BUF)
        except BlockingIOError:
            return
        self._is_busy = False
        failure = answer.decode(errors="replace").strip() if answer else "its program has ended"
        if failure and failure != self._failure:
            self._say(f"cannot write to {self._url}: {failure}. It is tried again; files wait")
        elif self._failure and not failure:
            self._say(f"{self._url} can be written to again")
        self._failure = failure
        if failure:
            self._next = now + AGAIN_S

    def close(self) -> None:
        """Wait a little for what is left, and say where the rest is."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self._next = 0.0
            self.go_on()
            if not self._is_busy and (self._failure or not any(waiting(self._spool))):
                break
            time.sleep(TICK_S)
        left = sum(1 for _ in waiting(self._spool))
        if left:
            self._say(
                f"files that wait in {self._spool}: {left}. The next run with -w {self._url} "
                "carries them there"
            )
        os.close(self._asks)
        os.close(self._answers)


class BucketRecording:
    """A recording in files of a bucket."""

    def __init__(
        self,
        url: str,
        probe: str,
        records: Iterable[Any],
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        """Write a probe's rows, of these classes; `say` tells people what goes wrong."""
        spool = spool_for(url)
        self._kept = DirectoryRecording(str(spool), probe, records, limits, say)
        self._uploads = Uploads(spool, url, say)

    @property
    def unwritten(self) -> int:
        """How many events have rows that could not be written."""
        return self._kept.unwritten

    def open(self, meta: Meta) -> None:
        """Begin, also to carry what was left behind. Raises TcptraceError."""
        self._kept.open(meta)
        self._uploads.go_on()

    def write(self, rows: Sequence[Any]) -> None:
        """Keep rows."""
        self._kept.write(rows)

    def note(self, losses: Losses) -> None:
        """Keep what may be missing so far."""
        self._kept.note(losses)

    def flush(self, seconds: float = 0) -> bool:
        """Write what has waited, and have carried what has ended."""
        self._uploads.go_on()
        return self._kept.flush(seconds)

    def drop(self) -> int:
        """Forget rows that could not be written; return of how many events they tell."""
        return self._kept.drop()

    def is_closed(self) -> bool:
        """Tell that there is always somewhere to write to."""
        return False

    def close(self, losses: Losses) -> None:
        """End the last file, and have it carried."""
        self._kept.close(losses)
        self._uploads.close()
