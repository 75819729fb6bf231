#!/usr/bin/env python3
"""Make docs/images/top.svg, top-behind.svg and top-listen.svg from real runs of ``tcptrace top``.

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
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from tools.make_screenshot import SERVERS, attempt, enter_network, servers

from tcptrace.kernel.sampler import Sampler
from tcptrace.model.filters import Filters
from tcptrace.probes.connect.probe import FAILED
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.probes.probe import Probe
from tcptrace.shell.trace import Trace
from tcptrace.sinks.color import SGR_256, Palette
from tcptrace.sinks.screen.listening import Listening
from tcptrace.sinks.screen.picture import Picture
from tcptrace.sinks.screen.sink import ScreenSink
from tcptrace.sources.attach import Attaching
from tcptrace.sources.plan import Plan
from tcptrace.top import keys
from tcptrace.top.feed import frames
from tcptrace.top.listeners import tables
from tcptrace.top.probe import TOP

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = (104, 18)
COLORS = Palette(SGR_256)
SHOWN = 9
"""Intervals until the picture is taken."""
PAUSE_S = 0.04
SLOW_S = 0.8
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


def accept(server: socket.socket) -> None:
    """Accept connections as they come, for good."""
    while True:
        server.accept()[0].close()


def accept_slowly(server: socket.socket) -> None:
    """Accept a connection now and then, for good."""
    while True:
        server.accept()[0].close()
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


@contextmanager
def traced(*companions: Probe) -> Iterator[Trace]:
    """Give what the namespace of this process does."""
    here = Path("/proc/self/ns/net").stat().st_ino
    filters = Filters({"netns": (here,)}, TOP.port_fields)
    plan = Plan(TOP, filters, {"TRACER_EXISTING": "1"}, companions=companions)
    with closing(Attaching(plan)) as attaching:
        source = attaching.session(lambda: False)
    assert source  # noqa: S101 - nothing stops it
    with closing(source):
        yield Trace(source.batches(), filters, source)


def show(sink: ScreenSink, shown: Iterable[Any]) -> None:
    """Show some intervals."""
    for frame in islice(shown, SHOWN):
        sink.write([frame])
        sink.flush()


def make_pictures_of_traffic() -> None:
    """Make the picture of the screen, and that of what is behind a row."""
    by = keys.parse(",".join(keys.DEFAULT))
    picture = Picture(by, "tcptrace top")
    sink = ScreenSink(picture, io.StringIO(), COLORS, headless=True, size=SIZE)
    both = ("in", "out")
    with traced(ANSWERS, FAILED) as trace:
        show(sink, frames(trace, by, both, 1.0, print, Sampler(), names=True, existing=True))
        (IMAGES / "top.svg").write_text(drawn(sink, "tcptrace top"), encoding="utf-8")
        picture.sort_by("fail")
        picture.move(0)
        sink._app.call_later(sink._app.action_behind)  # noqa: SLF001
        (IMAGES / "top-behind.svg").write_text(drawn(sink, "tcptrace top"), encoding="utf-8")
    sink.close(None)


def make_picture_of_listeners() -> None:
    """Make the picture of who listens."""
    title = "tcptrace top --listen"
    sink = ScreenSink(Listening(title), io.StringIO(), COLORS, headless=True, size=SIZE)
    with traced() as trace:
        show(sink, tables(trace, 1.0, Sampler()))
        (IMAGES / "top-listen.svg").write_text(drawn(sink, title), encoding="utf-8")
    sink.close(None)


def drawn(sink: ScreenSink, title: str) -> str:
    """Return the picture of the screen as it is, without fonts from a remote host."""
    for _ in range(50):
        sink.flush()
    svg = sink._app.export_screenshot(title=title)  # noqa: SLF001
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main() -> None:
    """Make the pictures."""
    enter_network()
    with servers() as (catalog, payments):
        for (comm, name), often in CLIENTS.items():
            threading.Thread(target=make_traffic, args=(comm, name, often), daemon=True).start()
        threading.Thread(target=accept, args=(catalog,), daemon=True).start()
        threading.Thread(target=accept_slowly, args=(payments,), daemon=True).start()
        threading.Thread(target=keep_sending, daemon=True).start()
        make_pictures_of_traffic()
        make_picture_of_listeners()


if __name__ == "__main__":
    main()
