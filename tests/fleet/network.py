"""Hosts that are network namespaces, beside each other on one switch, and what runs in them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

SPEAK = Path(__file__).with_name("speak.py")
PATIENCE_S = 60.0
PREFIX = f"tcpt{os.getpid() % 100_000}"
"""Of the names of namespaces: one run of the tests does not meet another."""
SWITCH = f"{PREFIX}sw"
INSIDE = "172.31.255"


def call(*command: str) -> str:
    """Run a command that has to succeed; return what it prints."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Network(AbstractContextManager["Network"]):
    """A switch, hosts at it, and containers behind one of them."""

    def __init__(self) -> None:
        """Make the switch."""
        self._stack = ExitStack()
        self._add(SWITCH)
        self._in(SWITCH, "ip", "link", "add", "switch", "type", "bridge")
        self._in(SWITCH, "ip", "link", "set", "switch", "up")

    def __exit__(self, *_error: object) -> None:
        """End what runs, and remove all namespaces."""
        self._stack.close()

    def _add(self, name: str) -> None:
        call("ip", "netns", "add", name)
        self._stack.callback(call, "ip", "netns", "delete", name)
        self._in(name, "ip", "link", "set", "lo", "up")

    @staticmethod
    def _in(name: str, *command: str) -> str:
        return call("ip", "netns", "exec", name, *command)

    @staticmethod
    def name(host: str) -> str:
        """Return the name of a host's namespace."""
        return f"{PREFIX}{host}"

    def host(self, host: str, address: str) -> None:
        """Add a host to the switch."""
        name = self.name(host)
        self._add(name)
        self._in(SWITCH, "ip", "link", "add", host, "type", "veth", "peer", "eth0", "netns", name)
        self._in(SWITCH, "ip", "link", "set", host, "master", "switch", "up")
        self._in(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        self._in(name, "ip", "link", "set", "eth0", "up")

    def container(self, host: str, name: str, published: tuple[int, int]) -> str:
        """Add a namespace behind a host, as Docker does: translated, with a published port.

        Returns its address.
        """
        outside, inside = self.name(host), self.name(name)
        self._add(inside)
        peer = ("peer", "eth0", "netns", inside)
        self._in(outside, "ip", "link", "add", "docker", "type", "veth", *peer)
        self._in(outside, "ip", "address", "add", f"{INSIDE}.1/24", "dev", "docker")
        self._in(outside, "ip", "link", "set", "docker", "up")
        self._in(inside, "ip", "address", "add", f"{INSIDE}.2/24", "dev", "eth0")
        self._in(inside, "ip", "link", "set", "eth0", "up")
        self._in(inside, "ip", "route", "add", "default", "via", f"{INSIDE}.1")
        self._in(outside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        here, there = published
        rules = (
            "add table ip nat",
            "add chain ip nat out { type nat hook postrouting priority 100 ; }",
            f"add rule ip nat out ip saddr {INSIDE}.0/24 oifname eth0 masquerade fully-random",
            "add chain ip nat in { type nat hook prerouting priority -100 ; }",
            f"add rule ip nat in iifname eth0 tcp dport {here} dnat to {INSIDE}.2:{there}",
        )
        self._in(outside, "nft", "; ".join(rules))
        return f"{INSIDE}.2"

    def start(self, host: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program on a host, writing to a file; it ends with the network."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name(host), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def serve(self, host: str, name: str, port: int, log: Path, *behind: str) -> None:
        """Start a server under a name."""
        command = [sys.executable, str(SPEAK), "serve", name, str(port), *behind]
        self.start(host, command, log)

    def wait_for(self, host: str, port: int) -> None:
        """Wait until a program on a host listens; nothing is sent to it."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._in(self.name(host), "ss", "-Hltn", f"sport = :{port}"):
            assert time.monotonic() < deadline, f"nobody listens on port {port} of {host}"

    def ask(self, host: str, name: str, count: int, address: str, port: int) -> None:
        """Make requests under a name."""
        command = (sys.executable, str(SPEAK), "ask", name, str(count), address, str(port))
        self._in(self.name(host), *command)
