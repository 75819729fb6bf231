#!/usr/bin/env python3
"""Make docs/images/top.svg and top-behind.svg from a real run of ``tcptrace top``.

Run it as root with the Python of the virtual environment that has tcptrace. Servers and clients are
those of make_screenshot.py, in a network namespace of its own, which alone is traced.
"""

from __future__ import annotations

import io
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tools.make_screenshot import SERVERS, attempt, empty, enter_network, servers

from tcptrace.model.filters import Filters
from tcptrace.probes.connect.probe import FAILED
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.shell.trace import Trace
from tcptrace.sinks.color import PLAIN
from tcptrace.sinks.screen.picture import Picture
from tcptrace.sinks.screen.sink import ScreenSink
from tcptrace.sources.attach import Attaching
from tcptrace.sources.plan import Plan
from tcptrace.top import keys
from tcptrace.top.feed import frames
from tcptrace.top.frame import Frame
from tcptrace.top.probe import TOP

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = (104, 18)
SHOWN = 8
"""Intervals until the picture is taken."""
PAUSE_S = 0.04
SLOW_S = 0.3
KEEP = "catalog.example.org"
# Who connects where, and how often a second.
CLIENTS = {
    ("shop", "catalog.example.org"): 9,
    ("worker", "catalog.example.org"): 4,
    ("shop", "payments.example.org"): 3,
    ("shop", "cache.example.org"): 2,
    ("worker", "db.example.org"): 1,
}


def make_traffic(comm: str, name: str, often: int) -> None:
    """Let a client connect, for good."""
    while True:
        attempt(comm, name)
        time.sleep(random.random() * 2 / often)  # noqa: S311 - it is for a picture


def accept_slowly(payments: socket.socket) -> None:
    """Empty the queue of a server now and then, for good."""
    while True:
        empty(payments)
        time.sleep(SLOW_S)


def keep_sending() -> None:
    """Send over one connection, as a backup does, for good."""
    with (
        socket.create_server((SERVERS[KEEP][0], 873)) as server,
        socket.create_connection(server.getsockname()) as near,
        server.accept()[0] as far,
    ):
        while True:
            near.sendall(bytes(random.randrange(20_000)))  # noqa: S311
            far.recv(1 << 20)
            time.sleep(PAUSE_S)


def shown() -> Iterator[Frame]:
    """Yield what the namespace of this process does."""
    here = Path("/proc/self/ns/net").stat().st_ino
    filters = Filters({"netns": (here,)}, TOP.port_fields)
    plan = Plan(TOP, filters, {"EXISTING": "1"}, companions=(ANSWERS, FAILED))
    with closing(Attaching(plan)) as attaching:
        source = attaching.session(lambda: False)
    assert source  # noqa: S101 - nothing stops it
    with closing(source):
        trace = Trace(source.batches(), filters, source)
        by = keys.parse(",".join(keys.DEFAULT))
        yield from frames(trace, by, ("in", "out"), 1.0, print, names=True, existing=True)


def drawn(sink: ScreenSink) -> str:
    """Return the picture of the screen as it is, without fonts from a remote host."""
    for _ in range(50):
        sink.flush()
    svg = sink._app.export_screenshot(title="tcptrace top")  # noqa: SLF001
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main() -> None:
    """Make the pictures."""
    enter_network()
    picture = Picture(keys.parse(",".join(keys.DEFAULT)), "tcptrace top")
    sink = ScreenSink(picture, io.StringIO(), PLAIN, headless=True, size=SIZE)
    with servers() as payments:
        for (comm, name), often in CLIENTS.items():
            threading.Thread(target=make_traffic, args=(comm, name, often), daemon=True).start()
        threading.Thread(target=accept_slowly, args=(payments,), daemon=True).start()
        threading.Thread(target=keep_sending, daemon=True).start()
        for count, frame in enumerate(shown()):
            sink.write([frame])
            sink.flush()
            if count == SHOWN:
                break
        (IMAGES / "top.svg").write_text(drawn(sink), encoding="utf-8")
        picture.sort_by("fail")
        picture.move(0)
        sink._app.call_later(sink._app.action_behind)  # noqa: SLF001
        (IMAGES / "top-behind.svg").write_text(drawn(sink), encoding="utf-8")
    sink.close(None)


if __name__ == "__main__":
    main()
