"""Real servers and clients, and the events that their accepts should give.

All of it happens in the network namespace that the test process is in; see conftest.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import os
import platform
import resource
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from tests.kernel.backends import FROM_BTF, not_offered
from tests.kernel.harness import Event, Worker, eventually, limit, take_port
from tests.kernel.tracers import Tracer, plain

from tcptrace.kernel.btf import KIND_FUNC, running_kernel
from tcptrace.kernel.netns import NAMED, enter
from tcptrace.kernel.syscalls import CLONE_NEWNET, CLONE_NEWNS, libc, unshare
from tcptrace.probes.accept.probe import ACCEPT, NO_LISTENER
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import ALWAYS, Backend, Probe

Result = TypeVar("Result")

BACKLOG = 16
NOBODY = 65534
V4, V6, DUAL = "127.0.0.1", "::1", "::"
NOWHERE = "192.0.2.1"
"""No route leads there."""
MPTCP = 262
PR_SET_NAME = 15
TCP_FASTOPEN_CONNECT = 30  # include/uapi/linux/tcp.h
FAST_OPEN = Path("/proc/sys/net/ipv4/tcp_fastopen")
# Client and server, data in the first SYN without a cookie: ip-sysctl.rst.
FAST_OPEN_AT_ONCE = 0x1 | 0x2 | 0x4 | 0x200
NAME = b"exactly-fifteen"
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
NO_DELAY_AT_CLOSE = struct.pack("ii", 1, 0)
# Numbers of accept and accept4, as in /proc/PID/syscall.
ACCEPT_CALLS = {"x86_64": {"43", "288"}, "aarch64": {"202", "242"}}


def raise_loopback() -> None:
    """Bring up the loopback interface of this process's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def need_mptcp() -> None:
    """Skip the test where there is no MPTCP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP).close()
    except OSError as error:
        not_offered(f"this kernel has no MPTCP sockets: {error}")
    if not FROM_BTF:
        not_offered("kernel headers do not tell of MPTCP sockets")


@contextlib.contextmanager
def second_path() -> Iterator[None]:
    """Have the kernel add a path from 127.0.0.2 to each MPTCP connection."""
    ip("mptcp limits set subflows 1 add_addr_accepted 1")
    ip("mptcp endpoint add 127.0.0.2 dev lo subflow")
    try:
        yield
    finally:
        ip("mptcp endpoint flush")


def established(port: int) -> str:
    """Return what ss tells of the connections to a port."""
    command = ["ss", "-Htn", "state", "established", f"( dport = :{port} )"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def setting(path: Path, value: str) -> Iterator[None]:
    """Give a sysctl a value for a while."""
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def fast_open_at_once() -> contextlib.AbstractContextManager[None]:
    """Let clients send data in the first SYN without a cookie, and servers take them."""
    return setting(FAST_OPEN, str(FAST_OPEN_AT_ONCE))


def namespace_id(kind: str) -> int:
    """Return the inode number of this process's namespace of a kind, such as "net"."""
    return Path("/proc/self/ns", kind).stat().st_ino


def set_comm(name: bytes) -> None:
    """Name this process; the kernel keeps 15 bytes."""
    libc.prctl(PR_SET_NAME, ctypes.c_char_p(name))


def comm() -> str:
    """Return this thread's name as JSON should have it."""
    raw = Path("/proc/thread-self/comm").read_bytes()[:-1]
    return raw.decode("utf-8", "backslashreplace")


def ip(arguments: str) -> None:
    """Run iproute2's command with these arguments."""
    subprocess.run(["ip", *arguments.split()], check=True)


def in_namespace(name: str, work: Callable[[], Result]) -> Result:
    """Do `work` in a thread that entered a network namespace; sockets made there stay there."""
    results: list[Result] = []

    def there() -> None:
        enter(NAMED / name)
        results.append(work())

    thread = threading.Thread(target=there, daemon=True)
    thread.start()
    thread.join(limit(30))
    return results[0]


def segments_sent_again() -> int:
    """Return this network namespace's count of retransmitted TCP segments."""
    lines = Path("/proc/self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(dict(zip(names, values, strict=True))["RetransSegs"])


def cgroup2_mount() -> Path | None:
    """Return where cgroup v2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    return None


def cgroup_id() -> int:
    """Return this process's cgroup v2 id; the root's, which is 1, where v2 is not mounted."""
    mount = cgroup2_mount()
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    return (mount / path.lstrip("/")).stat().st_ino if mount else 1


def listen(address: str = V4, port: int | None = None, protocol: int = 0) -> socket.socket:
    """Return a server on `address`; `DUAL` takes IPv4 clients too."""
    family = socket.AF_INET if "." in address else socket.AF_INET6
    server = socket.socket(family, socket.SOCK_STREAM, protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address == DUAL:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind((address, port or take_port()))
    server.listen(BACKLOG)
    return server


def port_of(server: socket.socket) -> int:
    """Return a socket's local port."""
    return int(server.getsockname()[1])


def connect(server: socket.socket, address: str = V4, protocol: int = 0) -> socket.socket:
    """Return a client that is connected to `server`, whether or not that has accepted."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM, protocol)
    client.settimeout(limit(10))
    client.connect((address, port_of(server)))
    return client


def task_fields() -> Event:
    """Return what an event should say of the calling thread."""
    mntns = {"mntns": namespace_id("mnt")} if FROM_BTF else {}
    return {
        "pid": os.getpid(),
        "tid": threading.get_native_id(),
        "uid": os.getuid(),
        "comm": comm(),
        "netns": namespace_id("net"),
        **mntns,
        "cgroup_id": cgroup_id(),
    }


def known(event: Event, backend: Backend, probe: Probe | None = None) -> Event:
    """Return what `backend` gives of an event here, as its probe declares."""
    kind = event["type"]
    probe = probe or {"accept": ACCEPT, "connect": CONNECT}[kind]
    reasons = {ALWAYS}
    if not running_kernel().id_of("__inet_accept", KIND_FUNC):
        reasons.add(NO_LISTENER)
    return {key: event[key] for key in event if probe.gap(backend, kind, key) not in reasons}


def expected(client: socket.socket, address: str = V4, **changes: object) -> Event:
    """Return the event that accepting `client`, connected to `address`, should give here."""
    return {
        "type": "accept",
        **task_fields(),
        "family": 4 if "." in address else 6,
        "laddr": address,
        "lport": client.getpeername()[1],
        "raddr": address,
        "rport": port_of(client),
        "backlog": 0,
        "backlog_max": BACKLOG,
        **changes,
    }


def expected_failure(server: socket.socket, error: str, **changes: object) -> Event:
    """Return the event that a failed accept on `server` should give here."""
    address, port = server.getsockname()[:2]
    return {
        "type": "accept",
        **task_fields(),
        "family": 4 if "." in address else 6,
        "laddr": address,
        "lport": port,
        "backlog": 0,
        "backlog_max": BACKLOG,
        "error": error,
        **changes,
    }


def accept_once(
    server: str = V4,
    client: str = "",
    *,
    port: int | None = None,
    protocol: int = 0,
    client_protocol: int = 0,
) -> Event:
    """Accept one connection in this thread; return the event to expect."""
    address = client or server
    with (
        listen(server, port, protocol) as listener,
        connect(listener, address, client_protocol) as peer,
    ):
        event = expected(peer, address)
        if protocol == MPTCP and not FROM_BTF:
            del event["backlog"], event["backlog_max"]
        listener.accept()[0].close()
        return event


def accept_with_accept(port: int) -> Event:
    """Accept one connection with accept(2): Python's sockets use accept4(2)."""
    with listen(V4, port) as server, connect(server) as client:
        event = expected(client)
        os.close(libc.accept(server.fileno(), None, None))
        return event


def accept_nonblocking(port: int) -> Event:
    """Ask a non-blocking server before and after a client has come."""
    with listen(V4, port) as server:
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
        with connect(server) as client:
            event = expected(client)
            server.accept()[0].close()
            return event


def accept_reset(port: int) -> Event:
    """Accept a connection that its client has reset while it waited."""
    with listen(V4, port) as server:
        client = connect(server)
        event = expected(client)
        reset(client)
        server.accept()[0].close()
        return event


def accept_queue(port: int) -> list[Event]:
    """Accept three connections that have waited in a queue of five."""
    with listen(V4, port) as server, contextlib.ExitStack() as clients:
        server.listen(5)
        events = [
            expected(clients.enter_context(connect(server)), backlog=left, backlog_max=5)
            for left in (2, 1, 0)
        ]
        for _ in events:
            server.accept()[0].close()
        return events


def accept_in_thread(port: int) -> Event:
    """Accept one connection in a thread."""
    events: list[Event] = []
    thread = threading.Thread(target=lambda: events.append(accept_once(port=port)), daemon=True)
    thread.start()
    thread.join(limit(10))
    return events[0]


def accept_without_descriptors(port: int) -> list[Event]:
    """Fail to accept a waiting connection for want of a descriptor, then accept it."""
    with listen(V4, port) as server, connect(server) as client:
        events = [expected_failure(server, "EMFILE", backlog=1), expected(client)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            server.accept()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.accept()[0].close()
        return events


def accept_where_nobody_listens(port: int) -> list[Event]:
    """Fail to accept on a TCP socket that does not listen."""
    with socket.socket() as server:
        server.bind((V4, port))
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            server.accept()
        return [expected_failure(server, "EINVAL", backlog_max=0)]


def accept_on_a_connection(port: int) -> list[Event]:
    """Fail to accept on a socket that is connected."""
    with listen(V4, take_port()) as server, socket.socket() as client:
        client.bind((V4, port))
        client.connect(server.getsockname())
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            client.accept()
        event = expected_failure(client, "EINVAL", backlog_max=0)
        reset(client)
    return [event]


def accept_while_its_descriptor_is_replaced(port: int) -> Event:
    """Accept in a thread, whose listener's descriptor becomes that of another, busy one."""
    tasks: list[Event] = []
    with listen(V4, port) as server, listen(V4, take_port()) as busy, connect(busy):

        def serve() -> None:
            tasks.append(task_fields())
            server.accept()[0].close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        eventually(lambda: any(is_in_accept(task["tid"]) for task in tasks), "a sleeping accept")
        address, kept = server.getsockname(), os.dup(server.fileno())
        os.dup2(busy.fileno(), server.fileno())
        with socket.create_connection(address) as client:
            thread.join(limit(10))
            os.close(kept)
            return {**expected(client), **tasks[0]}


def accept_what_is_not_tcp(directory: Path) -> None:
    """Accept over a Unix socket, and exchange UDP packets; fail to connect a raw socket."""
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
        server.accept()[0].close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((V4, 0))
        one.connect(one.getsockname())
        one.send(b"datagram")
        one.recv(16)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        assert errno.ENETUNREACH == raw.connect_ex((NOWHERE, 0))


def reset(client: socket.socket) -> None:
    """Close a connection with a reset, which leaves no port in TIME_WAIT."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_DELAY_AT_CLOSE)
    client.close()


def burst(port: int, count: int) -> list[int]:
    """Accept `count` connections, a hundred in a row; return their remote ports in order."""
    ports = []
    with listen(V4, port) as server:
        server.listen(128)
        for _ in range(count // 100):
            clients = [connect(server) for _ in range(100)]
            accepted = [server.accept() for _ in clients]
            for (connection, peer), client in zip(accepted, clients, strict=True):
                ports.append(peer[1])
                reset(client)
                connection.close()
    return ports


def is_in_accept(tid: int) -> bool:
    """Tell whether a thread is in accept(2)."""
    call = Path(f"/proc/{tid}/syscall").read_text().split()[0]
    return call in ACCEPT_CALLS[platform.machine()]


class Sleepers:
    """A process with threads that sleep in accept(2) on one port until clients come."""

    def __init__(self, count: int) -> None:
        """Start it, and wait until all threads are asleep."""
        self._count = count
        self._server = listen()
        self.port = port_of(self._server)
        self._worker = Worker(self._serve)
        self.pid = self._worker.pid
        self._worker.start()
        eventually(self.asleep, "all threads asleep in accept")

    def __enter__(self) -> Sleepers:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Shut them down if no test has woken them."""
        if self._server.fileno() >= 0:
            self.shut_down()

    def _serve(self) -> list[int]:
        tids: list[int] = []

        def serve() -> None:
            tids.append(threading.get_native_id())
            with contextlib.suppress(OSError):
                self._server.accept()[0].close()

        threads = [threading.Thread(target=serve) for _ in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return tids

    def asleep(self) -> bool:
        """Tell whether all threads are in accept(2)."""
        threads = [int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir()]
        return sum(map(is_in_accept, threads)) == self._count

    def wake(self) -> list[int]:
        """Connect once for each; return the ids of the threads that accepted."""
        with self._server:
            for _ in range(self._count):
                connect(self._server).close()
            tids: list[int] = self._worker.result()
        return tids

    def shut_down(self) -> None:
        """Wake all with an error, by a shutdown of their listener."""
        with self._server:
            self._server.shutdown(socket.SHUT_RDWR)
            self._worker.result()


@dataclasses.dataclass(frozen=True, slots=True)
class Actor:
    """A process of its own that accepts one connection, different from others in one thing."""

    server: str = V4
    client: str = ""
    port: int = dataclasses.field(default_factory=take_port)
    uid: int = 0
    comm: bytes = b"an-actor"
    new_netns: bool = False
    new_mntns: bool = False
    cgroup: Path | None = None

    def enter(self) -> None:
        """Become the actor, in a forked process."""
        if self.cgroup:
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        if self.new_netns:
            unshare(CLONE_NEWNET)
            raise_loopback()
        if self.new_mntns:
            unshare(CLONE_NEWNS)
        set_comm(self.comm)
        os.setresuid(self.uid, self.uid, 0)

    def accept(self) -> Event:
        """Accept one connection, in a forked process; return the event to expect."""
        self.enter()
        return accept_once(self.server, self.client, port=self.port)


def near_misses(
    likewise: Callable[..., Actor], *, kept: int, dropped: int, outside: int
) -> dict[str, Actor]:
    """Return those whom one filter each drops, by which: they differ from `likewise` in one thing.

    Its ``comm`` is `NAME`. The ports are one that is kept, one that is excluded, and another.
    """
    return {
        "dropped: IPv6": likewise(server=V6, port=kept),
        "dropped: excluded port": likewise(port=dropped),
        "dropped: other port": likewise(port=outside),
        "dropped: other process": likewise(port=kept),
        "dropped: other user": likewise(port=kept, uid=0),
        "dropped: other name": likewise(port=kept, comm=NAME[:-1]),
        "dropped: other namespace": likewise(port=kept, new_netns=True),
    }


def cast(actors: dict[str, Actor]) -> dict[str, Worker]:
    """Fork a worker for each actor; none has begun."""
    return {name: Worker(actor.accept) for name, actor in actors.items()}


def observed(tracer: Tracer, **fields: object) -> list[Event]:
    """Return the events with these values, when all that happened until now has been shown.

    Events keep their order: once an accept of our own shows, nothing before it is to come.
    """
    marker = accept_once()
    tracer.wait_for(lport=marker["lport"], netns=marker["netns"])
    return [plain(event) for event in tracer.where(**fields)]


def shown(tracer: Tracer, workers: dict[str, Worker]) -> list[str]:
    """Let each actor accept, one after the other, and return the names of those that are shown.

    The last is one that is shown: events keep their order, so when it is there, all others were
    there before it or never come.
    """
    for worker in workers.values():
        worker.run()
    tracer.wait_for(pid=list(workers.values())[-1].pid)
    names = {worker.pid: name for name, worker in workers.items()}
    return [names[event["pid"]] for event in tracer.events if event["pid"] in names]
