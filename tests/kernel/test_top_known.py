"""`tcptrace top` on known traffic: its screen, as a person sees it, says just that."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.harness import eventually, limit, take_port
from tests.kernel.resolvers import FAKE, PORT, answer, bound, fake, question
from tests.kernel.test_top import (
    ANSWERED,
    ASKED,
    Screen,
    check_sums,
    named,
    options,
    receive,
    started,
    stop,
    wait_for_run,
)
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import V4, comm, connect, listen, port_of

from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("top")
pyte = pytest.importorskip("pyte", reason="`./setup.sh test` brings it")
pytest.importorskip("textual", reason="`./setup.sh test` brings it")

KEYS = ("comm", "name", "port")
MANY = 10
BULK = 50 << 20
SIZE = (200, 60)
LATER = 12_345
SHORT_S = 0.002
SHOP, MAIL = "shop.example", "mail.example"
SHOP_AT, MAIL_AT = "127.0.0.21", "127.0.0.22"
# pyte prints the end of sequences that it does not know: private ones, and those with a dollar.
UNKNOWN = re.compile(r"\x1b\[[<>=?][0-9;]*[$]?[a-zA-Z]")


class Seen:
    """What a person sees on a screen, cell by cell."""

    def __init__(self, screen: Screen, columns: int, lines: int) -> None:
        """See nothing yet."""
        self._screen = screen
        self._display = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._display)
        self._fed = 0

    def lines(self) -> list[str]:
        """Return the lines that are there now."""
        text = self._screen.read()
        new = text[self._fed :]
        whole = new.rpartition("\x1b")[0]  # what is behind may be cut off
        self._fed += len(whole)
        self._stream.feed(UNKNOWN.sub("", whole))
        return list(self._display.display)

    def figures(self, program: str, port: int) -> dict[str, str]:
        """Return the cells of a row by their headings; nothing where it is not there."""
        lines = self.lines()
        head = next((line for line in lines if line.startswith("PROGRAM")), "")
        row = next((line for line in lines if line.startswith(program) and f" {port} " in line), "")
        cells, begin = {}, 0
        for heading in re.finditer(r"\S+", head):
            # Texts begin where their heading does, and figures end there.
            is_text = heading[0] in {"PROGRAM", "NAME", "PORT"}
            end = head.find(" ", heading.end()) if is_text else heading.end()
            place = slice(heading.start(), None) if is_text else slice(begin, end)
            cells[heading[0]] = (row[place].split() or [""])[0]
            begin = heading.end()
        return cells


def wait_to_see(seen: Seen, program: str, port: int, **expected: str) -> None:
    """Wait until a row says this."""

    def is_there() -> bool:
        return expected.items() <= seen.figures(program, port).items()

    eventually(is_there, f"{expected} of {program}: {seen.figures(program, port)}")


def ask(name: str, address: str) -> None:
    """Learn a name's address from an answer on the wire."""
    with fake(answer(f"{name}.", f"{name}. 60 A {address}")), bound(V4, take_port()) as client:
        client.sendto(question(f"{name}."), (FAKE, PORT))
        client.recv(512)


def shop(server: socket.socket) -> None:
    """Exchange something several times, then connect for two milliseconds."""
    ask(SHOP, SHOP_AT)
    for _ in range(MANY):
        with connect(server, SHOP_AT) as client:
            client.sendall(b"q" * ASKED)
            receive(client, ANSWERED)
    with connect(server, SHOP_AT):
        time.sleep(SHORT_S)


def mail(refusing: int, full: int) -> None:
    """Be refused three times, and wait in vain once."""
    ask(MAIL, MAIL_AT)
    for _ in range(3):
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect((MAIL_AT, refusing))
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        with pytest.raises(TimeoutError):
            client.connect((MAIL_AT, full))


def bulk(server: socket.socket) -> None:
    """Send and receive much over one connection."""
    with connect(server) as near:
        near.settimeout(limit(60))
        near.sendall(bytes(BULK))
        receive(near, BULK)


def serve_all(server: socket.socket) -> None:
    """Serve what `shop` does, and end."""
    for _ in range(MANY):
        with server.accept()[0] as far:
            receive(far, ASKED)
            far.sendall(b"a" * ANSWERED)
            far.recv(1)
    with server.accept()[0] as far:
        assert b"" == far.recv(1)


def return_bulk(server: socket.socket) -> None:
    """Receive much, and send as much."""
    with server.accept()[0] as far:
        far.settimeout(limit(60))
        receive(far, BULK)
        far.sendall(bytes(BULK))
        far.recv(1)


@contextlib.contextmanager
def full_queue() -> Iterator[int]:
    """Give the port of a listener that has no room for another connection."""
    with (
        socket.create_server((MAIL_AT, take_port()), backlog=0) as server,
        connect(server, MAIL_AT),
    ):
        yield port_of(server)


@contextlib.contextmanager
def serving(work: Callable[[], None]) -> Iterator[None]:
    """Serve in a thread, to its end."""
    thread = threading.Thread(target=named, args=(b"top-server", work), daemon=True)
    thread.start()
    yield
    thread.join(limit(90))
    assert not thread.is_alive()


def test_known_traffic_as_a_person_sees_it(backend: Backend, netns: str) -> None:
    """The screen says what was made, rounded, and JSON to the byte; intervals add up to the run.

    Three programs connect to two names; some are refused, one waits in vain, one sends and receives
    50 MB, one lives for two milliseconds, and one was there before.
    """
    if backend == "ftrace":
        not_offered("ftrace tells neither names nor failures")
    refusing = take_port()
    with contextlib.ExitStack() as held:
        before, for_bulk = held.enter_context(listen()), held.enter_context(listen())
        for_shop = held.enter_context(listen(SHOP_AT))
        ports = {"shop": port_of(for_shop), "bulk": port_of(for_bulk), "older": port_of(before)}
        full = held.enter_context(full_queue())
        older, far = held.enter_context(connect(before)), held.enter_context(before.accept()[0])
        tracer = held.enter_context(started(backend, netns, "--by", "program,name,port"))
        screen = held.enter_context(contextlib.closing(Screen(options(backend, netns), *SIZE)))
        seen = Seen(screen, *SIZE)
        wait_to_see(seen, comm(), ports["older"], OPEN="2", CONNS="0")

        with serving(lambda: serve_all(for_shop)):
            named(b"top-shop", lambda: shop(for_shop))
        with serving(lambda: return_bulk(for_bulk)):
            named(b"top-bulk", lambda: bulk(for_bulk))
        named(b"top-mail", lambda: mail(refusing, full))
        older.sendall(bytes(LATER))
        receive(far, LATER)

        made = {"CONNS": str(MANY + 1), "FAILS": "0", "OPEN": "0", "RX": "39K", "TX": "6.8K"}
        wait_to_see(seen, "top-shop", ports["shop"], NAME=SHOP, **made)
        wait_to_see(seen, "top-bulk", ports["bulk"], CONNS="1", OPEN="0", RX="50M", TX="50M")
        wait_to_see(seen, "top-mail", refusing, NAME=MAIL, CONNS="3", FAILS="3", OPEN="0")
        wait_to_see(seen, "top-mail", full, NAME=MAIL, CONNS="1", FAILS="1", OPEN="0")
        wait_to_see(seen, "top-server", ports["shop"], ACCS=str(MANY + 1), CONNS="0", RX="6.8K")
        wait_to_see(seen, comm(), ports["older"], OPEN="2", CONNS="0", RX="12K", TX="12K")
        screen.press("q")
        screen.wait_for(" lost")
        assert 0 == screen.status()

        check(tracer, ports, refusing, full)


def check(tracer: Tracer, ports: dict[str, int], refusing: int, full: int) -> None:
    """Check what JSON says, to the byte, when all of it has come."""
    asked, answered = MANY * ASKED, MANY * ANSWERED
    runs = {
        ("top-shop", SHOP, ports["shop"]): {
            "attempts": MANY + 1,
            "closes": MANY + 1,
            "failed": 0,
            "tx_bytes": asked,
            "rx_bytes": answered,
        },
        ("top-server", SHOP_AT, ports["shop"]): {
            "accepts": MANY + 1,
            "tx_bytes": answered,
            "rx_bytes": asked,
        },
        ("top-bulk", V4, ports["bulk"]): {"attempts": 1, "tx_bytes": BULK, "rx_bytes": BULK},
        ("top-server", V4, ports["bulk"]): {"accepts": 1, "tx_bytes": BULK, "rx_bytes": BULK},
        ("top-mail", MAIL, refusing): {"attempts": 3, "refused": 3, "failed": 3, "tx_bytes": 0},
        ("top-mail", MAIL, full): {"attempts": 1, "timed_out": 1, "failed": 1, "tx_bytes": 0},
        (comm(), V4, ports["older"]): {"attempts": 0, "tx_bytes": LATER, "rx_bytes": LATER},
    }
    for key, run in runs.items():
        wait_for_run(tracer, run, **dict(zip(KEYS, key, strict=True)))
    stop(tracer)
    check_sums(tracer, KEYS)
    total = tracer.where(scope="total")[-1]["run"]
    attempts, both = MANY + 1 + 1 + 3 + 1, asked + answered + 2 * BULK + LATER
    assert (attempts, MANY + 2, 4) == (total["attempts"], total["accepts"], total["failed"])
    assert (both, both) == (total["tx_bytes"], total["rx_bytes"])
