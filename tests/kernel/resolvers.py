"""Real DNS servers and clients, in the network namespace of the tests."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dnslib import EDNS0, RR, DNSRecord
from tests.kernel.harness import eventually, limit
from tests.kernel.traffic import MPTCP, fast_open_at_once, ip

from tcptrace.kernel.syscalls import CLONE_NEWNS, MS_PRIVATE, MS_REC, libc, mount, unshare

V4, V6 = "127.0.0.1", "::1"
WEB = "127.0.0.80"
WEB6 = "fd00:53::80"
SILENT, FAKE = "127.0.0.54", "127.0.0.55"
MANY = 200
PORT = 53
MS_BIND = 0x1000
CLIENT_C = r"""
#include <netdb.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;

	if (getaddrinfo(argv[1], argv[2], &hints, &found))
		return 1;
	int fd = socket(found->ai_family, found->ai_socktype, 0);
	connect(fd, found->ai_addr, found->ai_addrlen);
	return 0;
}
"""
Ask = Callable[[str], None]


def question(name: str, kind: str = "A") -> bytes:
    """Return a question's bytes."""
    return bytes(DNSRecord.question(name, kind).pack())


@contextlib.contextmanager
def dnsmasq() -> Iterator[None]:
    """A dnsmasq that answers on both loopback addresses."""
    program = shutil.which("dnsmasq", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        pytest.fail("dnsmasq is not installed (Debian: dnsmasq-base); ./setup.sh test installs it")
    many = [f"--host-record=many.test,127.1.0.{last}" for last in range(1, MANY + 1)]
    ip(f"address add {WEB6}/128 dev lo nodad")
    server = subprocess.Popen(
        [
            *(program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"),
            *("--no-hosts", "--pid-file=", "--user=root", "--bind-interfaces"),
            *(f"--listen-address={V4}", f"--listen-address={V6}", "--edns-packet-max=4096"),
            *(f"--address=/web.test/{WEB}", f"--address=/web6.test/{WEB6}"),
            *("--address=/missing.test/", f"--host-record=both.test,{WEB},{WEB6}"),
            *("--cname=first.test,second.test", "--cname=second.test,third.test"),
            *("--host-record=third.test,127.0.0.81,30", *many),
        ],
    )
    try:
        eventually(_answers, "dnsmasq's first answer")
        yield
    finally:
        server.terminate()
        server.wait(limit(10))
        ip(f"address delete {WEB6}/128 dev lo")


def _answers() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(limit(0.2))
        with contextlib.suppress(OSError):
            client.sendto(question("up.web.test"), (V4, PORT))
            return bool(client.recv(512))
    return False


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """A server that reads questions and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((SILENT, PORT))
        yield


@contextlib.contextmanager
def fake(*answers: bytes, in_pages: bool = False) -> Iterator[None]:
    """A server that answers with these bytes, behind the question's id, one after the other.

    With `in_pages` the kernel has the payload in pages of their own, not behind the headers, as
    after many network cards.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((FAKE, PORT))
        server.settimeout(limit(30))  # a tracer may compile first

        def serve() -> None:
            for answer in answers:
                with contextlib.suppress(TimeoutError):  # the test failed before it asked
                    data, client = server.recvfrom(512)
                    if in_pages:
                        server.connect(client)
                        _send_pages(server, data[:2] + answer)
                    else:
                        server.sendto(data[:2] + answer, client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def _send_pages(sock: socket.socket, data: bytes) -> None:
    file = os.memfd_create("answer")
    os.write(file, data)
    os.sendfile(sock.fileno(), file, 0, len(data))
    os.close(file)


def answer(name: str, *records: str) -> bytes:
    """Return an answer's bytes behind its id."""
    reply = DNSRecord.question(name).reply()
    reply.add_answer(*(answer for record in records for answer in RR.fromZone(record)))
    return bytes(reply.pack())[2:]


def _udp(family: int = socket.AF_INET) -> socket.socket:
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.settimeout(limit(5))
    return client


def _blocking(client: socket.socket) -> int:
    client.settimeout(None)
    return client.fileno()


@contextlib.contextmanager
def connected(server: str = V4) -> Iterator[socket.socket]:
    """A UDP socket that is connected to a server."""
    with _udp(socket.AF_INET6 if ":" in server else socket.AF_INET) as client:
        client.connect((server, PORT))
        yield client


@contextlib.contextmanager
def bound(address: str, port: int) -> Iterator[socket.socket]:
    """A UDP socket with an address of its own."""
    with _udp() as one:
        one.bind((address, port))
        yield one


def ask_recv(name: str) -> None:
    """Ask with send and recv on a connected socket."""
    with connected() as client:
        client.send(question(name))
        client.recv(512)


def ask_recvfrom(name: str) -> None:
    """Ask with sendto and recvfrom on a socket that is not connected."""
    with _udp() as client:
        client.sendto(question(name), (V4, PORT))
        client.recvfrom(512)


def ask_recv_unconnected(name: str) -> None:
    """Ask with sendto and recv, which does not tell where the answer is from."""
    with _udp() as client:
        client.sendto(question(name), (V4, PORT))
        client.recv(512)


def ask_recvmsg(name: str) -> None:
    """Ask with sendmsg and recvmsg, in two buffers each, not connected."""
    data = question(name)
    with _udp() as client:
        client.sendmsg([data[:5], data[5:]], [], 0, (V4, PORT))
        client.recvmsg_into([bytearray(7), bytearray(505)])


def ask_read(name: str) -> None:
    """Ask with write and read."""
    with connected() as client:
        os.write(_blocking(client), question(name))
        os.read(client.fileno(), 512)


def ask_readv(name: str) -> None:
    """Ask with writev and readv."""
    data = question(name)
    with connected() as client:
        os.writev(_blocking(client), [data[:12], data[12:]])
        os.readv(client.fileno(), [bytearray(12), bytearray(500)])


class Uring:
    """An io_uring of one entry, for two completions (include/uapi/linux/io_uring.h)."""

    ACCEPT, SEND, RECV = 13, 26, 27
    MULTISHOT = 1
    """For ACCEPT: go on and on."""
    _SETUP, _ENTER = 425, 426
    _GETEVENTS, _AT_ENTRIES = 1, 0x10000000

    def __init__(self) -> None:
        """Make it. Raises OSError."""
        parameters = ctypes.create_string_buffer(120)
        self._ring = libc.syscall(self._SETUP, 1, parameters)
        if self._ring < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        self._tail, self._head, self._results = struct.unpack_from("=44xI32xI16xI", parameters)
        self._rings = mmap.mmap(self._ring, mmap.PAGESIZE)
        self._entry = mmap.mmap(self._ring, 64, offset=self._AT_ENTRIES)
        self._begun = self._ended = 0

    def begin(
        self,
        operation: int,
        file: int,
        buffer: ctypes.Array[ctypes.c_char] | None = None,
        how: int = 0,
    ) -> None:
        """Send, receive or accept, without waiting for it."""
        place = (ctypes.addressof(buffer), len(buffer)) if buffer else (0, 0)
        entry = struct.pack("=BxHiQQI", operation, how, file, 0, *place)
        self._entry[:] = entry.ljust(64, b"\0")
        self._begun += 1
        struct.pack_into("=I", self._rings, self._tail, self._begun)
        assert libc.syscall(self._ENTER, self._ring, 1, 0, 0, None, 0) == 1

    def result(self) -> int:
        """Wait for a completion; return its result."""
        assert libc.syscall(self._ENTER, self._ring, 0, 1, self._GETEVENTS, None, 0) == 0
        place = self._results + 16 * self._ended
        self._ended += 1
        struct.pack_into("=I", self._rings, self._head, self._ended)
        return int(struct.unpack_from("=8xi", self._rings, place)[0])

    def call(self, operation: int, file: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        """Send or receive, and wait for it; return the result."""
        self.begin(operation, file, buffer)
        return self.result()

    def close(self) -> None:
        """Let go of what it still does."""
        self._entry.close()
        self._rings.close()
        os.close(self._ring)


def ask_uring(name: str) -> None:
    """Ask through io_uring."""
    data = question(name)
    ring = Uring()
    with connected() as client:
        file = _blocking(client)
        sent = ring.call(Uring.SEND, file, ctypes.create_string_buffer(data, len(data)))
        received = ring.call(Uring.RECV, file, ctypes.create_string_buffer(512))
    assert (sent, received > 0) == (len(data), True)


# push rbx, rbp; eax, ebx, ecx, edx = the four arguments; esi = edi = ebp = 0; int 0x80; pop; ret
INT_80 = bytes.fromhex("53 55 89f8 89f3 87ca 31f6 31ff 31ed cd80 5d 5b c3")
GETPID_32, SENDTO_32, RECVFROM_32 = 20, 369, 371
MAP_32BIT = 0x40


class Calls32:
    """System calls as 32-bit processes on x86-64 make them, with a buffer that they can reach."""

    def __init__(self) -> None:
        """Write the machine code."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
        rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self._code, self.buffer = (mmap.mmap(-1, mmap.PAGESIZE, flags, rights) for _ in range(2))
        self._code[: len(INT_80)] = INT_80
        start, self._address = (
            ctypes.addressof(ctypes.c_char.from_buffer(memory))
            for memory in (self._code, self.buffer)
        )
        self._call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(start)

    def call(self, number: int, file: int = 0, length: int = 0) -> int:
        """Call; return the result."""
        return int(self._call(number, file, self._address, length))


def ask_32bit(name: str) -> None:
    """Ask with system calls of 32-bit processes."""
    data = question(name)
    calls = Calls32()
    calls.buffer[: len(data)] = data
    with connected() as client:
        sent = calls.call(SENDTO_32, _blocking(client), len(data))
        received = calls.call(RECVFROM_32, client.fileno(), 512)
    assert (sent, received > 0) == (len(data), True)


class _Mmsghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("segments", ctypes.c_void_p),
        ("segment_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_long),
        ("length", ctypes.c_long),
    )


def _mmsghdrs(buffers: list[ctypes.Array[ctypes.c_char]]) -> tuple[ctypes.Array[_Mmsghdr], object]:
    """Return what sendmmsg and recvmmsg take, one message for each buffer, and what that needs."""
    vectors = [
        ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(buffer), len(buffer)))
        for buffer in buffers
    ]
    messages = (_Mmsghdr * len(buffers))(
        *(_Mmsghdr(segments=ctypes.addressof(vector), segment_count=1) for vector in vectors)
    )
    return messages, vectors


def ask_recvmmsg(name: str) -> None:
    """Ask about three names with one sendmmsg, and receive with one recvmmsg."""
    names = [f"{place}.{name}" for place in range(2)] + [name]
    sent = [ctypes.create_string_buffer(data, len(data)) for data in map(question, names)]
    received = [ctypes.create_string_buffer(512) for _ in names]
    with connected() as client:
        client.settimeout(None)
        for call, buffers in ((libc.sendmmsg, sent), (libc.recvmmsg, received)):
            messages, _vectors = _mmsghdrs(buffers)
            done = 0
            while done < len(names):
                here = ctypes.byref(messages, done * ctypes.sizeof(_Mmsghdr))
                count = call(client.fileno(), here, len(names) - done, 0, None)
                assert count > 0, os.strerror(ctypes.get_errno())
                done += count


def receive_at_once(client: socket.socket, count: int) -> None:
    """Receive so many messages, which have come, with one recvmmsg."""
    messages, _vectors = _mmsghdrs([ctypes.create_string_buffer(512) for _ in range(count)])
    client.settimeout(None)
    assert count == libc.recvmmsg(client.fileno(), messages, count, 0, None)


def ask_peek(name: str) -> None:
    """Look at the answer before it is received: it is one answer."""
    with connected() as client:
        client.send(question(name))
        client.recv(512, socket.MSG_PEEK)
        client.recv(512)


def ask_ipv6_server(name: str) -> None:
    """Ask the server on ::1."""
    with connected(V6) as client:
        client.send(question(name))
        client.recv(512)


def ask_ipv4_mapped(name: str) -> None:
    """Ask an IPv4 server through an IPv6 socket."""
    with _udp(socket.AF_INET6) as client:
        client.sendto(question(name), (f"::ffff:{V4}", PORT))
        client.recvfrom(512)


def ask_dnslib(name: str) -> None:
    """Ask with dnslib's own client."""
    DNSRecord.question(name).send(V4, PORT, timeout=limit(5))


def ask_dnslib_tcp(name: str) -> None:
    """Ask with dnslib's own client, over TCP."""
    DNSRecord.question(name).send(V4, PORT, tcp=True, timeout=limit(5))


def ask_tcp_in_pieces(name: str) -> None:
    """Ask over TCP; length and answer come in reads of their own, the answer in two."""
    data = question(name)
    with socket.create_connection((V4, PORT), timeout=limit(5)) as client:
        client.sendall(struct.pack("!H", len(data)) + data)
        (size,) = struct.unpack("!H", client.recv(2))
        rest = client.recv(20)
        while len(rest) < size:
            rest += client.recv(size - len(rest))


def _read_answer(client: socket.socket) -> None:
    (size,) = struct.unpack("!H", client.recv(2, socket.MSG_WAITALL))
    assert size == len(client.recv(size, socket.MSG_WAITALL))


def ask_tcp_fast_open(name: str) -> None:
    """Ask over TCP; the length is sent with the SYN, the question behind it."""
    data = question(name)
    with fast_open_at_once(), socket.socket() as client:
        client.settimeout(limit(5))
        client.sendto(struct.pack("!H", len(data)), socket.MSG_FASTOPEN, (V4, PORT))
        client.sendall(data)
        _read_answer(client)


def ask_mptcp(name: str) -> None:
    """Ask over MPTCP."""
    data = question(name)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as client:
        client.settimeout(limit(5))
        client.connect((V4, PORT))
        client.sendall(struct.pack("!H", len(data)) + data)
        _read_answer(client)


def ask_edns(name: str) -> None:
    """Ask for an answer of more than 3,000 bytes over UDP."""
    record = DNSRecord.question(name)
    record.add_ar(EDNS0(udp_len=4096))
    with _udp() as client:
        client.sendto(bytes(record.pack()), (V4, PORT))
        assert len(client.recvfrom(4096)[0]) > 3000


def use_resolver(server: str) -> None:
    """Let this process's C library ask `server`, and nobody else."""
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"nameserver {server}\noptions timeout:1 attempts:1\n")
        file.flush()
        mount(file.name, str(Path("/etc/resolv.conf").resolve()), "", MS_BIND)


def ask_glibc(name: str, server: str = V4) -> None:
    """Ask with glibc's getaddrinfo, which retries over TCP."""
    use_resolver(server)
    socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)


def ask_glibc_ipv6(name: str) -> None:
    """Ask with glibc's getaddrinfo, the server on ::1."""
    ask_glibc(name, V6)


def build_musl_client(directory: Path) -> Path:
    """Compile a static program that resolves and connects with musl."""
    if not shutil.which("musl-gcc"):
        pytest.fail("musl-gcc is not installed (Debian: musl-tools); ./setup.sh test installs it")
    source, program = directory / "client.c", directory / "client"
    source.write_text(CLIENT_C)
    subprocess.run(["musl-gcc", "-static", "-o", str(program), str(source)], check=True)
    return program
