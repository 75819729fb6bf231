"""`tcptrace dns` and `tcptrace connect -d` with real DNS servers and clients."""

from __future__ import annotations

import functools
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kernel import resolvers
from tests.kernel.backends import need, not_offered
from tests.kernel.harness import Event, Worker, limit, take_port
from tests.kernel.resolvers import FAKE, MANY, PORT, SILENT, V4, WEB, WEB6, Ask
from tests.kernel.tracers import ROOM, Tracer, run_in_fork, stop_without_loss
from tests.kernel.traffic import namespace_id, need_mptcp, task_fields

from tcptrace.kernel.hooks import Hook, obstacle
from tcptrace.probes.dns.probe import DNS
from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("dns")
HERE = ("-N", "/proc/self/ns/net")
"""What happens elsewhere on the machine is nothing to tests that count."""
MULTICAST = 5353
UNREACHABLE = "192.0.2.53"
ERROR_REPORT = Hook("raw_tracepoint", "inet_sk_error_report", "dns_on_error")
names = pytest.mark.command("connect -d")


@pytest.fixture(scope="module")
def backend(backend: Backend) -> Backend:
    """Each backend that reads DNS messages."""
    need(backend, DNS)
    return backend


CLIENTS: dict[str, Ask] = {
    name.removeprefix("ask_"): getattr(resolvers, name)
    for name in (
        *("ask_recv", "ask_recvfrom", "ask_recv_unconnected", "ask_recvmsg", "ask_recvmmsg"),
        *("ask_read", "ask_readv", "ask_peek", "ask_ipv6_server", "ask_ipv4_mapped"),
        *("ask_dnslib", "ask_dnslib_tcp", "ask_tcp_in_pieces", "ask_glibc", "ask_glibc_ipv6"),
    )
}


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    """The DNS servers that all tests of this module ask."""
    with resolvers.dnsmasq(), resolvers.silent():
        yield


@pytest.fixture(scope="module")
def musl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client that stands on musl."""
    return resolvers.build_musl_client(tmp_path_factory.mktemp("musl"))


@pytest.fixture(scope="module")
def named(backend: Backend) -> Iterator[Tracer]:
    """A tracer of attempts to connect, with names."""
    with Tracer("--json", "-d", "--backend", backend, *ROOM, command="connect") as tracer:
        yield tracer
        stop_without_loss(tracer)


@pytest.fixture(scope="module")
def exchanges(backend: Backend) -> Iterator[Tracer]:
    """A tracer of DNS."""
    options = ("--json", "--timeout", "1s", "--backend", backend, *ROOM)
    with Tracer(*options, command="dns") as tracer:
        yield tracer
        stop_without_loss(tracer)


def attempt(address: str, port: int) -> None:
    """Try to connect where nobody listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(ConnectionRefusedError):
        client.connect((address, port))


def ask_then_connect(ask: Ask, name: str, address: str = WEB) -> tuple[int, int]:
    """Resolve and connect in a process of its own; return its process id and the port."""
    port = take_port()

    def work() -> None:
        ask(name)
        attempt(address, port)

    worker = Worker(work)
    worker.run()
    return worker.pid, port


def query_of(tracer: Tracer, port: int) -> str | None:
    """Return the name that the attempt to connect to a port of ours was shown with."""
    event = tracer.wait_for(rport=port, netns=namespace_id("net"))[0]
    assert ("query" in event) == ("query_age_ms" in event)
    assert event.get("query_age_ms", 0) >= 0
    query: str | None = event.get("query")
    return query


@names
@pytest.mark.parametrize("client", CLIENTS)
def test_attempt_has_the_name_that_was_asked_for(named: Tracer, client: str) -> None:
    """However a process asks, its attempt to connect has the name."""
    name = f"{client.replace('_', '-')}.web.test"
    _, port = ask_then_connect(CLIENTS[client], name)
    assert name == query_of(named, port)


@names
def test_musl_client_is_named(named: Tracer, musl: Path) -> None:
    """A program that stands on musl is named."""
    port = take_port()

    def work() -> None:
        resolvers.use_resolver(V4)
        subprocess.run([musl, "both.test", str(port)], check=True)

    Worker(work).run()
    assert "both.test" == query_of(named, port)


def check_uring() -> None:
    """Skip where io_uring is not to be had."""
    try:
        resolvers.Uring()
    except OSError as error:
        not_offered(f"io_uring: {error.strerror}")


def check_32bit() -> None:
    """Skip where there are no 32-bit system calls."""
    if platform.machine() != "x86_64":
        not_offered("32-bit system calls of x86")
    try:
        assert Worker(lambda: resolvers.Calls32().call(resolvers.GETPID_32)).run() > 0
    except AssertionError:
        not_offered("32-bit system calls of x86, which this kernel lacks")


@names
@pytest.mark.parametrize(
    ("ask", "check"),
    [(resolvers.ask_uring, check_uring), (resolvers.ask_32bit, check_32bit)],
    ids=["io_uring", "32-bit"],
)
def test_what_tracepoints_do_not_see(
    backend: Backend, named: Tracer, ask: Ask, check: Callable[[], None]
) -> None:
    """Questions through io_uring, and of 32-bit processes, are seen where functions are hooked."""
    check()
    name = f"{ask.__name__.replace('_', '-')}.web.test"
    _, port = ask_then_connect(ask, name)
    assert (backend != "tracepoint") == (name == query_of(named, port))


@names
def test_ipv6_address_is_named(named: Tracer) -> None:
    """An AAAA answer names an attempt over IPv6."""

    def ask(name: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(resolvers.question(name, "AAAA"), (V4, PORT))
            one.recvfrom(512)

    _, port = ask_then_connect(ask, "a.web6.test", WEB6)
    assert "a.web6.test" == query_of(named, port)


@names
def test_aliases_lead_to_the_name_asked_for(named: Tracer) -> None:
    """A chain of CNAMEs ends at the name that the process knows."""
    _, port = ask_then_connect(resolvers.ask_recv, "first.test", "127.0.0.81")
    assert "first.test" == query_of(named, port)


@names
@pytest.mark.parametrize("ask", [resolvers.ask_edns, resolvers.ask_glibc], ids=["edns", "tcp"])
def test_large_answers_are_read_whole(named: Tracer, ask: Ask) -> None:
    """The last of 200 addresses is named, over UDP with EDNS or over TCP."""
    for last in (1, MANY):
        _, port = ask_then_connect(ask, "many.test", f"127.1.0.{last}")
        assert "many.test" == query_of(named, port)


@names
def test_name_of_another_process_is_the_second_choice(named: Tracer) -> None:
    """The process's own answer counts more than a later one of somebody else's."""
    port, other_port = take_port(), take_port()

    def first() -> None:
        resolvers.ask_recv("own.web.test")
        Worker(lambda: resolvers.ask_recv("others.web.test")).run()
        attempt(WEB, port)

    Worker(first).run()
    Worker(lambda: attempt(WEB, other_port)).run()
    assert "own.web.test" == query_of(named, port)
    assert "others.web.test" == query_of(named, other_port)


@names
@pytest.mark.anywhere
def test_malformed_answers_are_ignored(backend: Backend) -> None:
    """What cannot be read names nothing and ends nothing; the end says how much it was."""
    answers = (
        b"",  # and this nobody takes for an answer
        b"\x81\x80" + b"\xff" * 40,
        resolvers.answer("x.test", "x.test A 127.0.9.9")[:-2],
    )

    def ask(_name: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(limit(5))
            for _ in answers:
                client.sendto(resolvers.question("x.test"), (FAKE, PORT))
                client.recvfrom(512)

    options = ("--json", "-d", "--backend", backend)
    with resolvers.fake(*answers), Tracer(*options, command="connect") as tracer:
        _, port = ask_then_connect(ask, "", "127.0.9.9")
        assert query_of(tracer, port) is None
        assert ["tcptrace: malformed DNS messages: 2"] == tracer.stop().complaints


@names
def test_answers_of_others_pass_the_filters(backend: Backend) -> None:
    """Filters are for attempts: an answer that a stub resolver received names them as well."""
    port = take_port()
    client = Worker(lambda: attempt("127.0.0.82", port))
    options = ("--json", "-d", "-p", str(client.pid), "-P", str(port), "--backend", backend)
    answer = resolvers.answer("stub.test", "stub.test A 127.0.0.82")
    with resolvers.fake(answer), Tracer(*options, command="connect") as tracer:
        Worker(lambda: ask_fake("stub.test")).run()
        client.run()
        assert "stub.test" == query_of(tracer, port)
        assert 1 == stop_without_loss(tracer).summary[0]


def shows(tracer: Tracer, text: str) -> bool:
    """Tell whether a tracer has written a text."""
    return text in tracer.stdout


def ask_fake(name: str) -> None:
    """Ask the fake server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(limit(5))
        client.sendto(resolvers.question(name), (FAKE, PORT))
        client.recvfrom(4096)


@names
def test_answer_in_pages_of_its_own_names(named: Tracer) -> None:
    """An answer whose payload is not behind its headers is read from where it is received."""
    answer = resolvers.answer("pages.test", "pages.test A 127.0.0.84")
    with resolvers.fake(answer, in_pages=True):
        _, port = ask_then_connect(ask_fake, "pages.test", "127.0.0.84")
        assert "pages.test" == query_of(named, port)


@names
@pytest.mark.anywhere
def test_own_ttl_ends_an_answer(backend: Backend) -> None:
    """With --dns-ttl an answer of TTL 0 is over at once; without, it is not."""
    record = resolvers.answer("short.test", "short.test 0 A 127.0.0.83")
    for options, expected in ((("-d",), "short.test"), (("-d", "--dns-ttl"), None)):
        with (
            resolvers.fake(record),
            Tracer("--json", *options, "--backend", backend, command="connect") as tracer,
        ):
            _, port = ask_then_connect(ask_fake, "short.test", "127.0.0.83")
            assert expected == query_of(tracer, port)


@names
@pytest.mark.anywhere
def test_text_shows_query(backend: Backend) -> None:
    """QUERY has the name, localhost, or says that there was no question."""
    name_port, local_port, none_port = take_port(), take_port(), take_port()
    options = ("-d", "-P", f"{name_port},{local_port},{none_port}", "--backend", backend)

    def work() -> None:
        resolvers.ask_recv("t.web.test")
        attempt(WEB, name_port)

    worker = Worker(work)
    with Tracer(*options, command="connect") as tracer:
        worker.run()
        attempt(V4, local_port)
        attempt("127.9.9.9", none_port)
        tracer.wait_until(lambda: tracer.stdout.count("\n") == 4, "four lines")
        header, *lines = tracer.stdout.splitlines()
    assert header.endswith("DPORT QUERY")
    assert ["t.web.test", "localhost", "No DNS Query"] == [
        line.split(maxsplit=6)[6] for line in lines
    ]


@names
def test_names_and_counts_exclude_each_other() -> None:
    """-d with -c is a usage error."""
    ended = run_in_fork("connect", "-d", "-c")
    assert 2 == ended.status
    assert "exclude each other" in ended.stderr


def ours(tracer: Tracer, name: str, count: int = 1) -> list[Event]:
    """Return the rows about a name, when there are so many, in this network namespace."""
    return tracer.wait_for(count, query=name, netns=namespace_id("net"))


@pytest.mark.parametrize("client", CLIENTS)
def test_exchange_is_shown_once_and_whole(exchanges: Tracer, client: str) -> None:
    """However a process asks, there is one row with every field right."""
    name = f"{client.replace('_', '-')}-row.web.test"
    kinds = ["A", "AAAA"] if "glibc" in client else ["A"]
    server = resolvers.V6 if "ipv6" in client else V4

    def work() -> Event:
        CLIENTS[client](name)
        return task_fields()

    task = Worker(work).run()
    events = ours(exchanges, name, len(kinds))
    Worker(lambda: resolvers.ask_recv(f"end-of-{name}")).run()
    ours(exchanges, f"end-of-{name}")
    events = ours(exchanges, name, len(kinds))
    assert sorted(kinds) == sorted(event["qtype"] for event in events)
    for event in events:
        wanted = {"server": server, "rport": PORT, "type": "dns"}
        wanted |= {"pid": task["pid"], "comm": task["comm"], "uid": task["uid"]}
        wanted["protocol"] = "tcp" if "tcp" in client else "udp"
        wanted["family"] = 6 if ":" in server else 4
        assert wanted == {key: event[key] for key in wanted}
        assert 0 < event["latency_ms"] < limit(5000)
    first = next(event for event in events if event["qtype"] == "A")
    assert ("NOERROR", [WEB]) == (first["rcode"], first["answers"])


@pytest.mark.parametrize("client", ["tcp_fast_open", "mptcp"])
def test_other_streams_than_plain_tcp_are_read(
    exchanges: Tracer, backend: Backend, client: str
) -> None:
    """A question that is sent with the SYN, or over MPTCP, has its answer."""
    if client == "mptcp":
        need_mptcp()
        if backend != "tracepoint":
            not_offered("DNS over MPTCP with the kernel's functions")
    name = f"{client.replace('_', '-')}.web.test"
    Worker(lambda: getattr(resolvers, f"ask_{client}")(name)).run()
    (event,) = ours(exchanges, name)
    assert ("tcp", [WEB]) == (event["protocol"], event["answers"])
    assert event["latency_ms"] > 0


def test_failures_are_shown(backend: Backend) -> None:
    """--failed shows NXDOMAIN and a question without an answer, and nothing that succeeded."""
    options = ("--json", "--failed", "--timeout", "0.3s", "--backend", backend)
    with Tracer(*options, command="dns") as tracer:

        def work() -> None:
            resolvers.ask_recv("good.web.test")
            resolvers.ask_recv("missing.test")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(resolvers.question("nobody.test"), (SILENT, PORT))

        worker = Worker(work)
        worker.run()
        tracer.wait_for(2, pid=worker.pid)
        rows = [(event["query"], event["rcode"]) for event in tracer.where(pid=worker.pid)]
    assert [("missing.test", "NXDOMAIN"), ("nobody.test", "timeout")] == rows


def test_truncation_and_retry_are_shown(exchanges: Tracer) -> None:
    """An answer that is cut off is shown as such, and so is the retry over TCP."""
    Worker(lambda: resolvers.ask_glibc("many.test")).run()
    rows = [row for row in ours(exchanges, "many.test", 2) if row["qtype"] == "A"]
    assert [("udp", True, None), ("tcp", None, True)] == [
        (row["protocol"], row.get("truncated"), row.get("retry")) for row in rows[:2]
    ]
    assert MANY == len(rows[1]["answers"])


def test_malformed_messages_are_shown(exchanges: Tracer) -> None:
    """What cannot be read is shown as malformed, with the name where that can be."""
    whole = resolvers.answer("broken.test", "broken.test A 127.0.9.9")
    with resolvers.fake(b"\x81\x80junk", whole[:-3]):

        def work() -> None:
            ask_fake("broken.test")
            ask_fake("broken.test")

        worker = Worker(work)
        worker.run()
    rows = exchanges.wait_for(2, pid=worker.pid, rcode="malformed")
    assert [None, "broken.test"] == [row.get("query") for row in rows]


def test_answer_that_is_not_captured_whole_is_partial(exchanges: Tracer) -> None:
    """An answer of more than 4,096 bytes is shown as far as it was captured."""
    records = [f"large.test A 127.2.{last >> 8}.{last & 255}" for last in range(300)]
    answer = resolvers.answer("large.test", *records)

    def work() -> None:
        with resolvers.connected(FAKE) as client:
            client.send(resolvers.question("large.test"))
            assert len(client.recv(8192)) == len(answer) + 2

    with resolvers.fake(answer):
        Worker(work).run()
    (row,) = ours(exchanges, "large.test")
    assert ("NOERROR", True) == (row["rcode"], row.get("partial"))
    assert ["127.2.0.0", "127.2.0.1"] == row["answers"][:2]
    assert 250 < len(row["answers"]) < 300


def test_other_operations_are_told_from_questions(exchanges: Tracer) -> None:
    """A notification is shown as such."""
    data = bytearray(resolvers.question("zone.test", "SOA"))
    data[2] = 0x24

    def work() -> None:
        with resolvers.connected(SILENT) as client:
            client.send(data)

    Worker(work).run()
    (row,) = ours(exchanges, "zone.test")
    assert ("NOTIFY", "SOA", "timeout") == (row["opcode"], row["qtype"], row["rcode"])


WITHOUT_QUESTION = {
    "FORMERR": bytes.fromhex("8181 0000 0000 0000 0000"),
    "BADVERS": bytes.fromhex("8180 0000 0000 0000 0001 00 0029 04d0 01000000 0000"),
}


@pytest.mark.parametrize("rcode", WITHOUT_QUESTION)
def test_answer_without_question_has_its_name_and_code(exchanges: Tracer, rcode: str) -> None:
    """An answer that repeats no question, or whose code is in its OPT record, is one row."""
    name = f"{rcode.lower()}.bare.test"
    with resolvers.fake(WITHOUT_QUESTION[rcode]):
        Worker(lambda: ask_fake(name)).run()
    (row,) = ours(exchanges, name)
    assert (rcode, "A") == (row["rcode"], row["qtype"])
    assert row["latency_ms"] >= 0


def test_question_that_is_asked_again_is_two(exchanges: Tracer) -> None:
    """The answer has the latency of the second question, and the first is a timeout."""
    question = resolvers.question("again.test")

    def work() -> float:
        with resolvers.bound(FAKE, PORT) as server, resolvers.connected(FAKE) as client:
            client.send(question)
            server.recvfrom(512)
            before = time.monotonic()
            client.send(question)
            data, address = server.recvfrom(512)
            server.sendto(data[:2] + resolvers.answer("again.test"), address)
            client.recv(512)
            return time.monotonic() - before

    longest = Worker(work).run()
    answered, lost = ours(exchanges, "again.test", 2)
    assert ("NOERROR", "timeout") == (answered["rcode"], lost["rcode"])
    assert 0 <= answered["latency_ms"] <= longest * 1000
    assert answered["ts_ns"] < lost["ts_ns"]


def test_each_server_that_is_asked_is_a_row(exchanges: Tracer) -> None:
    """One socket asks two servers at once, and one of them answers."""
    question = resolvers.question("both-servers.test")

    def work() -> None:
        with resolvers.bound(FAKE, PORT) as server, resolvers.bound(V4, 0) as client:
            for address in (FAKE, SILENT):
                client.sendto(question, (address, PORT))
            data, address = server.recvfrom(512)
            server.sendto(data[:2] + resolvers.answer("both-servers.test"), address)
            client.recvfrom(512)

    Worker(work).run()
    rows = ours(exchanges, "both-servers.test", 2)
    assert [(FAKE, "NOERROR"), (SILENT, "timeout")] == [
        (row["server"], row["rcode"]) for row in rows
    ]


def test_multicast_dns(backend: Backend) -> None:
    """Two questions in a message are two rows; an answer repeats none; a responder sends."""
    question = bytes.fromhex("0000 0000 0002 0000 0000 0000") + b"".join(
        bytes([len(name)]) + name + b"\5local\0\0\1" + unicast
        for name, unicast in ((b"known", b"\x80\1"), (b"unknown", b"\0\1"))
    )
    record = b"\5known\5local\0" + bytes.fromhex("0001 8001 00000078 0004 0a090807")
    answer = bytes.fromhex("0000 8400 0000 0001 0000 0000") + record

    def work() -> None:
        with resolvers.bound(FAKE, MULTICAST) as responder, resolvers.bound(V4, MULTICAST) as one:
            one.sendto(question, (FAKE, MULTICAST))
            responder.recvfrom(512)
            responder.sendto(answer, (V4, MULTICAST))
            one.recvfrom(512)

    options = ("--json", "-P", f"{PORT},{MULTICAST}", "--timeout", "0.3s", "--backend", backend)
    with Tracer(*options, *HERE, command="dns") as tracer:
        worker = Worker(work)
        worker.run()
        rows = tracer.wait_for(3, pid=worker.pid)
        shown = [(row["query"], row["qtype"], row["rcode"], row.get("sent")) for row in rows]
        assert 3 == stop_without_loss(tracer).summary[0]
    assert [
        ("known.local", "A", "NOERROR", True),
        ("known.local", "A", "NOERROR", None),
        ("unknown.local", "A", "timeout", None),
    ] == shown
    assert [["10.9.8.7"], ["10.9.8.7"], None] == [row.get("answers") for row in rows]
    assert ["latency_ms" in row for row in rows] == [False, True, False]


def test_question_that_cannot_be_sent_has_the_error(exchanges: Tracer) -> None:
    """Where no network is reached, the question is shown with that, not as a timeout."""

    def work() -> None:
        with resolvers.bound("0.0.0.0", 0) as client, pytest.raises(OSError, match="unreachable"):
            client.sendto(resolvers.question("unreachable.test"), (UNREACHABLE, PORT))

    Worker(work).run()
    (row,) = ours(exchanges, "unreachable.test")
    assert ("ENETUNREACH", UNREACHABLE) == (row["rcode"], row["server"])
    assert "latency_ms" not in row


def test_question_that_is_refused_has_the_error(exchanges: Tracer) -> None:
    """Where nobody listens, all questions of the socket are shown with that."""
    if reason := obstacle(ERROR_REPORT):
        not_offered(f"errors that a socket is told later: {reason}")

    def work() -> None:
        with resolvers.connected(FAKE) as client:
            client.send(resolvers.question("refused.test"))
            with pytest.raises(ConnectionRefusedError):
                client.send(resolvers.question("refused.test", "AAAA"))

    Worker(work).run()
    rows = ours(exchanges, "refused.test", 2)
    assert [("A", "ECONNREFUSED"), ("AAAA", "ECONNREFUSED")] == [
        (row["qtype"], row["rcode"]) for row in rows
    ]


def test_answers_that_one_call_receives_are_shown_or_counted(backend: Backend) -> None:
    """Of ten the tracepoints read eight: the others are counted, and do not time out."""
    names = [f"{number}.at-once.test" for number in range(10)]

    def work() -> None:
        with resolvers.bound(FAKE, MULTICAST) as server, resolvers.bound(V4, 0) as client:
            client.connect((FAKE, MULTICAST))
            for name in names:
                client.send(resolvers.question(name))
            for name in names:
                data, address = server.recvfrom(512)
                server.sendto(data[:2] + resolvers.answer(name), address)
            resolvers.receive_at_once(client, len(names))
            client.send(resolvers.question("behind.at-once.test"))

    options = ("--json", *HERE, "-P", str(MULTICAST), "--timeout", "0.2s", "--backend", backend)
    with Tracer(*options, command="dns") as tracer:
        worker = Worker(work)
        worker.run()
        tracer.wait_for(rcode="timeout", pid=worker.pid)
        shown = [row["query"] for row in tracer.where(pid=worker.pid)]
        missed = 2 if backend == "tracepoint" else 0
        assert [*names[: 10 - missed], "behind.at-once.test"] == shown
        assert missed == tracer.stop().summary[1]


@pytest.mark.parametrize("sizes", [(2, 500), (500,)])
def test_stream_that_becomes_dns_is_read(exchanges: Tracer, sizes: tuple[int, ...]) -> None:
    """A trace that begins amid a message reads on at the next one."""
    name = f"{len(sizes)}.taken-up.test"
    question = resolvers.question(name)

    def work() -> None:
        with socket.create_server((FAKE, PORT)) as server, socket.socket() as client:
            client.connect((FAKE, PORT))
            served, _ = server.accept()
            with served:
                client.sendall(bytes(20))
                rest = len(question).to_bytes(2, "big") + question
                for size in sizes:
                    client.sendall(rest[:size])
                    rest = rest[size:]
                answer = question[:2] + resolvers.answer(name)
                served.sendall(len(answer).to_bytes(2, "big") + answer)
                client.recv(512)

    Worker(work).run()
    (row,) = ours(exchanges, name)
    assert ("NOERROR", "tcp") == (row["rcode"], row["protocol"])
    assert "latency_ms" in row


def ask_often(name: str) -> None:
    """Ask twenty times, each from a socket of its own."""
    for number in range(20):
        resolvers.ask_recv(f"{number}.{name}.web.test")


def zeros_over_tcp(size: int) -> None:
    """Send zeros over TCP to a DNS port of our own."""
    with socket.create_server((FAKE, PORT)) as server, socket.socket() as client:
        client.connect((FAKE, PORT))
        served, _ = server.accept()
        with served:
            for _ in range(size // 4096):
                client.sendall(bytes(4096))
                served.recv(4096, socket.MSG_WAITALL)


def test_stream_that_is_not_dns_hides_nobody(backend: Backend) -> None:
    """Megabytes of zeros are one row, and what others ask is shown."""
    with Tracer("--json", *HERE, "--backend", backend, command="dns") as tracer:
        flood = Worker(lambda: zeros_over_tcp(2 << 20))
        flood.run()
        asker = Worker(lambda: ask_often("flood"))
        asker.run()
        rows = tracer.wait_for(20, pid=asker.pid)
        assert ["NOERROR"] * 20 == [row["rcode"] for row in rows]
        assert ["malformed"] == [row["rcode"] for row in tracer.where(pid=flood.pid)]
        stop_without_loss(tracer)


@pytest.mark.anywhere
def test_socket_that_floods_leaves_room_for_others(backend: Backend) -> None:
    """One socket fills half of the buffer at most, and what others ask is shown."""

    def flood() -> None:
        with resolvers.bound(V4, 0) as client:
            for _ in range(400):
                client.sendto(bytes(4000), (SILENT, PORT))

    options = ("--json", *HERE, "--buffer-mb", "1", "--backend", backend)
    with Tracer(*options, command="dns") as tracer:
        tracer.process.send_signal(signal.SIGSTOP)
        Worker(flood).run()
        asker = Worker(lambda: ask_often("room"))
        asker.run()
        tracer.process.send_signal(signal.SIGCONT)
        assert 20 == len(tracer.wait_for(20, pid=asker.pid))
        assert tracer.stop().summary[1] > 0


@names
@pytest.mark.anywhere
def test_stream_that_is_not_dns_counts_once(backend: Backend) -> None:
    """What a server answers instead of DNS costs no attempt its row."""

    def be_answered_with_zeros() -> None:
        with socket.create_server((FAKE, PORT)) as server, socket.socket() as client:
            client.connect((FAKE, PORT))
            served, _ = server.accept()
            with served:
                for _ in range(512):
                    served.sendall(bytes(4096))
                    client.recv(4096, socket.MSG_WAITALL)

    options = ("--json", "-d", *HERE, "--backend", backend)
    with Tracer(*options, command="connect") as tracer:
        Worker(be_answered_with_zeros).run()
        _, port = ask_then_connect(resolvers.ask_recv, "after.web.test")
        assert "after.web.test" == query_of(tracer, port)
        ended = tracer.stop()
    assert ["tcptrace: malformed DNS messages: 1"] == ended.complaints
    assert 0 == ended.summary[1]


def test_answer_that_is_cut_by_its_receiver_is_not_malformed(
    exchanges: Tracer, backend: Backend
) -> None:
    """A buffer that is too small cuts the answer; functions see it before it is cut."""
    records = [f"small-buffer.test A 127.2.0.{last}" for last in range(20)]

    def work() -> None:
        with resolvers.connected(FAKE) as client:
            client.send(resolvers.question("small-buffer.test"))
            assert 200 == len(client.recv(200))

    with resolvers.fake(resolvers.answer("small-buffer.test", *records)):
        Worker(work).run()
    (row,) = ours(exchanges, "small-buffer.test")
    assert "NOERROR" == row["rcode"]
    assert (backend == "tracepoint") == row.get("partial", False) == (len(row["answers"]) < 20)


HOSTILE = {
    "escape": (b"\x1b[31mred", r"\027[31mred"),
    "newline": (b"two\nlines", r"two\010lines"),
    "not UTF-8": (b"\xff\xfe", r"\255\254"),
    "dot": (b"a.b", r"a\.b"),
}


@pytest.mark.parametrize("form", ["text", "json", "csv"])
@pytest.mark.anywhere
def test_hostile_names_are_escaped(backend: Backend, form: str) -> None:
    """No byte of a name reaches the output raw."""
    with Tracer("-o", form, "--timeout", "0.1s", "--backend", backend, command="dns") as tracer:

        def work() -> None:
            head = bytes.fromhex("123401000001000000000000")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for label, _ in HOSTILE.values():
                    data = head + bytes([len(label)]) + label + b"\x04test\0\0\x01\0\x01"
                    client.sendto(data, (SILENT, PORT))

        Worker(work).run()
        for _, text in HOSTILE.values():
            shown = text.replace("\\", "\\\\") if form == "json" else text
            tracer.wait_until(functools.partial(shows, tracer, f"{shown}.test"), shown)
        assert tracer.stdout.replace("\n", "").replace("\r", "").isprintable()


@pytest.mark.anywhere
def test_filters_by_name_and_type(backend: Backend) -> None:
    """--name and --type drop what was not asked about."""
    options = ("--json", "--name", "*.KEEP.web.test", "--type", "a,mx", "--backend", backend)
    with Tracer(*options, command="dns") as tracer:

        def work() -> None:
            for name, kind in (("one.drop", "A"), ("two.keep", "AAAA"), ("three.keep", "A")):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(resolvers.question(f"{name}.web.test", kind), (V4, PORT))
                    client.recvfrom(512)

        worker = Worker(work)
        worker.run()
        tracer.wait_for(pid=worker.pid, query="three.keep.web.test")
        assert 1 == len(tracer.where(pid=worker.pid))
