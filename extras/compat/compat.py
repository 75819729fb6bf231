#!/usr/bin/python3
"""bcc's tcpaccept, tcpconnect and tcptracer, by their old command lines, on top of tcptrace.

For scripts that read their output: options, lines and columns are as bcc has them, the heading is
printed when the probes are attached, and what was lost or went wrong is said on standard error. The
name that this file is called by says which tool it is. It needs Python 3.10 and, as $TCPTRACE, in
the clone that it is from, or on the path, tcptrace.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

Row = dict[str, Any]
Options = argparse.Namespace
CLONE = Path(__file__).resolve().parents[2]
UNPRINTABLE = re.compile(r"[^ -~\xa1-\U0010ffff]")
NOTHING_LOST = re.compile(r"tcptrace: .* in [\d.]+ s, 0 lost")
TYPES = {"connect": "C", "accept": "A", "close": "X"}


class Tool(NamedTuple):
    """One of the old tools."""

    command: str
    """What does it in tcptrace."""
    title: str
    flags: str
    """Its letters, in the order of its help."""
    heading: Callable[[Options], str]
    line: Callable[[Row, Options], str]
    banner: str = ""
    """The line in front of the heading."""


class Letter(NamedTuple):
    """An option."""

    name: str
    help: str
    metavar: str | None = None


LETTERS = {
    "T": Letter("--time", "include time column on output (HH:MM:SS)"),
    "t": Letter("--timestamp", "include timestamp on output"),
    "p": Letter("--pid", "trace this PID only", "PID"),
    "P": Letter("--port", "comma-separated list of ports to trace", "PORT"),
    "N": Letter("--netns", "trace this network namespace only", "NETNS"),
    "4": Letter("--ipv4", "trace IPv4 family only"),
    "6": Letter("--ipv6", "trace IPv6 family only"),
    "L": Letter("--lport", "include LPORT on output"),
    "U": Letter("--print-uid", "include UID on output"),
    "u": Letter("--uid", "trace this UID only", "UID"),
    "c": Letter("--count", "count connects per src ip and dest ip/port"),
    "d": Letter("--dns", "include likely DNS query associated with each connect"),
    "v": Letter("--verbose", "include network namespace in the output"),
}
# Of these, tcptrace needs none: they are about how rows look.
LOOKS = {"time", "timestamp", "lport", "print_uid", "verbose"}


# --- the old lines


def comm(row: Row, width: int | None = None) -> str:
    """Return a process's name, which it may have chosen to disturb a terminal."""
    return UNPRINTABLE.sub("?", row.get("comm") or "-")[:width]


def local_time(row: Row) -> str:
    """Return the time of day, HH:MM:SS."""
    moment = datetime.fromisoformat(f"{row['time'][:19]}+00:00")  # without the Z, new in 3.11
    return f"{moment.astimezone():%H:%M:%S}"


def accept_heading(options: Options) -> str:
    """Return tcpaccept's heading."""
    times = f"{'TIME':<9}" * options.time + f"{'TIME(s)':<9}" * options.timestamp
    return f"{times}{'PID':<7} {'COMM':<12} IP {'RADDR':<16} RPORT {'LADDR':<16} LPORT"


def accept_line(row: Row, options: Options) -> str:
    """Return tcpaccept's line."""
    times = f"{local_time(row):<9}" if options.time else ""
    times += f"{row['since_ns'] / 1e9:<9.3f}" if options.timestamp else ""
    return (
        f"{times}{row['pid']:<7} {comm(row, 12):<12} {row['family']:<2} {row['raddr']:<16} "
        f"{row['rport']:<5} {row['laddr']:<16} {row['lport']:<5}"
    )


def connect_heading(options: Options) -> str:
    """Return tcpconnect's heading."""
    if options.count:
        return f"\n{'LADDR':<25} {'RADDR':<25} {'RPORT':<20} {'CONNECTS':<10}"
    first = f"{'TIME(s)':<9}" * options.timestamp + f"{'UID':<6}" * options.print_uid
    port = f"{'LPORT':<6} " * options.lport
    query = " QUERY" * options.dns
    return (
        f"{first}{'PID':<7} {'COMM':<12} IP {'SADDR':<16} {port}{'DADDR':<16} {'DPORT':<6}{query}"
    )


def connect_line(row: Row, options: Options) -> str:
    """Return tcpconnect's line."""
    if options.count:
        return f"{row['laddr']:<25} {row['raddr']:<25} {row['rport']:<20} {row['connects']:<10}"
    first = f"{row['since_ns'] / 1e9:<9.3f}" if options.timestamp else ""
    first += f"{row['uid']:<6}" if options.print_uid else ""
    port = f"{row['lport']:<6} " if options.lport else ""
    query = name_of(row) if options.dns else ""
    return (
        f"{first}{row['pid']:<7} {comm(row, 12):<12} {row['family']:<2} {row['laddr']:<16} "
        f"{port}{row['raddr']:<16} {row['rport']:<6} {query}"
    )


def name_of(row: Row) -> str:
    """Return what tcpconnect shows as QUERY."""
    if row["raddr"] in {"127.0.0.1", "::1"}:
        return "localhost"
    age_ms = row.get("query_age_ms") or 0
    age = f" ({age_ms:.3f}ms)" if age_ms > 100 else ""
    return UNPRINTABLE.sub("?", row.get("query") or "No DNS Query") + age


def tracer_heading(options: Options) -> str:
    """Return tcptracer's heading."""
    ends = f"IP {'SADDR':<16} {'DADDR':<16} {'SPORT':<6}"
    if not options.verbose:
        times = f"{'TIME(s)':<9}" * options.timestamp
        return f"{times}{'T':<2} {'PID':<6} {'COMM':<16} {ends} {'DPORT':<6}"
    times = f"{'TIME(ns)':<14}" * options.timestamp
    netns = "" if options.netns else f"{'NETNS':<8}"
    return f"{times}{'TYPE':<12} {'PID':<6} {'COMM':<16} {ends} {'DPORT':<7}{netns}"


def tracer_line(row: Row, options: Options) -> str:
    """Return tcptracer's line."""
    form = "{:<14}" if options.verbose else "{:<9.3f}"
    ns = row["since_ns"]
    times = form.format(ns if options.verbose else ns / 1e9) if options.timestamp else ""
    kind = f"{row['type']:<12}" if options.verbose else f"{TYPES[row['type']]:<2}"
    laddr, raddr = (
        f"[{row[key]}]" if row["family"] == 6 else row[key] for key in ("laddr", "raddr")
    )
    netns = f" {row['netns']:<8}" if options.verbose and not options.netns else ""
    return (
        f"{times}{kind} {row.get('pid') or 0:<6} {comm(row):<16} {row['family']:<2} {laddr:<16} "
        f"{raddr:<16} {row['lport']:<6} {row['rport']:<6}{netns}"
    )


TOOLS = {
    "tcpaccept": Tool("accept", "Trace TCP accepts", "TtpP46", accept_heading, accept_line),
    "tcpconnect": Tool(
        "connect",
        "Trace TCP connects",
        "tpP46LUucd",
        connect_heading,
        connect_line,
        "Tracing connect ... Hit Ctrl-C to end",
    ),
    "tcptracer": Tool(
        "tracer",
        "Trace TCP connections",
        "tpN46v",
        tracer_heading,
        tracer_line,
        "Tracing TCP established connections. Ctrl-C to end.",
    ),
}


# --- the old command lines


def parse(tool: Tool, name: str, arguments: Sequence[str]) -> Options:
    """Return the options, or end with what is wrong with them."""
    parser = argparse.ArgumentParser(prog=name, description=f"{tool.title}, by tcptrace.")
    families = parser.add_mutually_exclusive_group()
    for letter in tool.flags:
        name, text, metavar = LETTERS[letter]
        group = families if letter in "46" else parser
        if metavar:
            group.add_argument(f"-{letter}", name, help=text, metavar=metavar)
        else:
            group.add_argument(f"-{letter}", name, help=text, action="store_true")
    parser.add_argument("--cgroupmap", help="trace cgroups in this BPF map only")
    parser.add_argument("--mntnsmap", help="trace mount namespaces in this BPF map only")
    parser.add_argument("--ebpf", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if getattr(options, "count", False) and options.dns:
        parser.error("you may not specify -d/--dns with -c/--count.")
    return options


def translated(tool: Tool, options: Options) -> list[str]:
    """Return what tcptrace is asked for."""
    arguments = [tool.command, "--dump-c" if options.ebpf else "--json"]
    for name, value in vars(options).items():
        if value and name not in LOOKS and name != "ebpf":
            arguments.append(f"--{name}" if value is True else f"--{name}={value}")
    return arguments


def find_program() -> str:
    """Return the path of tcptrace."""
    places = (
        os.environ.get("TCPTRACE"),
        str(CLONE / ".venv/bin/tcptrace"),
        "tcptrace-bpf",
        "tcptrace",
    )
    for place in filter(None, places):
        if found := shutil.which(place):
            return found
    sys.exit("tcptrace is not found; say where it is: TCPTRACE=/path/to/tcptrace")


# --- running


def events(lines: IO[str]) -> Iterator[Row]:
    """Yield rows of connections, each with the time since the first."""
    first_ns = None
    for line in lines:
        row = json.loads(line)
        if row.get("laddr") is None:
            continue  # it failed inside the host, which the old tools do not show
        first_ns = row["ts_ns"] if first_ns is None else first_ns
        yield row | {"since_ns": row["ts_ns"] - first_ns}


class Messages(threading.Thread):
    """Hands on what tcptrace says, but not what is as it should be."""

    def __init__(self, lines: IO[str]) -> None:
        """Begin to read."""
        super().__init__()
        self.is_attached = False
        """Whether it has said so."""
        self._lines = lines
        self._known = threading.Event()
        self.start()

    def run(self) -> None:
        """Read to the end."""
        for line in self._lines:
            if line.startswith("Tracing "):
                self.is_attached = True
                self._known.set()
            elif not NOTHING_LOST.match(line):
                sys.stderr.write(line)
                sys.stderr.flush()
        self._known.set()

    def wait(self) -> bool:
        """Wait until the probes are attached, or cannot be; tell which."""
        self._known.wait()
        return self.is_attached


def show(tool: Tool, options: Options, lines: IO[str]) -> None:
    """Print rows as the old tool does; counts of IPv4 come first there."""
    if tool.banner:
        print(tool.banner, flush=True)
    rows = events(lines)
    if getattr(options, "count", False):
        found = [tool.line(row, options) for row in sorted(rows, key=lambda row: row["family"])]
        print(tool.heading(options), *found, sep="\n", flush=True)
        return
    print(tool.heading(options), flush=True)
    for row in rows:
        print(tool.line(row, options), flush=True)


def run(tool: Tool, options: Options) -> int:
    """Run tcptrace to its end, which signals bring about; return its exit status."""
    command = [find_program(), *translated(tool, options)]
    if options.ebpf:
        os.execv(command[0], command)  # noqa: S606
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, encoding="utf-8"
    ) as process:
        assert process.stdout
        assert process.stderr
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: process.send_signal(number))
        messages = Messages(process.stderr)
        try:
            if messages.wait():
                show(tool, options, process.stdout)
        except BrokenPipeError:
            process.terminate()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        messages.join()
    return process.returncode


def main() -> None:
    """Be the tool that this file is called as."""
    name = Path(sys.argv[0]).name
    if name not in TOOLS:
        sys.exit(f"call this file as {', '.join(TOOLS)}: they are links to it")
    sys.exit(run(TOOLS[name], parse(TOOLS[name], name, sys.argv[1:])))


if __name__ == "__main__":
    main()
