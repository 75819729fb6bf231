"""Lists of destinations, as `--only` takes them, and whether all attempts were to these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from tests.unit.records import accept_bytes, accepted
from tests.unit.test_tracer import closed, connected

from tcptrace.commands.connect import connect
from tcptrace.errors import ForbiddenError, UncertainError
from tcptrace.model.destinations import Destinations, lines_of, parse_destinations
from tcptrace.model.events import NewTable
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.shell.gate import MOST_KEPT, MOST_SHOWN, Gate


def to(
    raddr: str | None = "192.0.2.1",
    rport: int | None = 443,
    query: str | None = None,
    **changes: Any,
) -> Any:
    """Return an attempt to connect."""
    row: Any = connected()
    row.raddr, row.rport, row.query = raddr, rport, query
    for name, value in changes.items():
        setattr(row, name, value)
    return row


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("example.org:443", to(query="example.org"), True),
        ("example.org", to(rport=1, query="Example.ORG."), True),
        ("Example.org.", to(query="example.org"), True),
        ("example.org", to(), False),
        ("example.org", to(query="www.example.org"), False),
        ("example.org:80", to(query="example.org"), False),
        ("*.example.org", to(query="a.b.example.org"), True),
        ("*.example.org", to(query="example.org"), False),
        ("*.example.org", to(query="x.example.org.test"), False),
        (":443", to(), True),
        (":443", to(raddr=None), True),
        ("*:400-500", to(rport=500), True),
        ("*:400-500", to(rport=501), False),
        ("192.0.2.1", to(rport=1), True),
        ("192.0.2.2", to(), False),
        ("192.0.2.1", to(query="example.org"), True),
        ("192.0.2.0/24:443", to(), True),
        ("192.0.2.0/24", to(raddr="2001:db8::1"), False),
        ("192.0.2.0/24", to(raddr=None), False),
        ("[2001:db8::1]:443", to(raddr="2001:db8::1"), True),
        ("[2001:db8::/32]", to(raddr="2001:db8::9"), True),
        ("[::ffff:192.0.2.1]:443", to(), True),
        ("[::ffff:192.0.2.0/120]", to(), True),
        ("[::]", to(raddr="::1"), False),
        ("localhost", to(raddr="127.0.0.53"), True),
        ("localhost:443", to(raddr="::1"), True),
        ("localhost", to(), False),
        ("example.org:80, 192.0.2.1:443", to(), True),
    ],
)
def test_what_a_list_has(text: str, row: Any, expected: bool) -> None:  # noqa: FBT001 - a value
    """Names with wildcards, addresses, networks, ports and ranges of them."""
    assert expected is parse_destinations([text]).have(row)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no destination"),
        ("a,,b", "is no destination"),
        ("::1", "[IPv6]"),
        ("[::1", "is no destination"),
        ("http://a:80", "is no destination"),
        ("a:80/tcp", "is no destination"),
        ("a:", "is no destination"),
        ("a:0", "no port"),
        ("a:65536", "no port"),
        ("a:9-3", "no port"),
        ("a:" + "9" * 5000, "is no destination"),
        ("10.0.*", "neither an address nor a network"),
        ("10.0.0.1/8", "host bits"),
        ("[a]", "neither an address nor a network"),
        ("[fe80::1%eth0]", "scope"),
        ("bücher.example", "xn--"),
        ("a b", "is no host name"),
    ],
)
def test_what_is_no_list_is_refused(text: str, words: str) -> None:
    """The message says why."""
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_destinations([text])


def test_names_are_needed_for_names_alone() -> None:
    """Neither networks nor localhost need an answer of DNS."""
    assert not parse_destinations(["localhost,10.0.0.0/8,:53,*:80,[::1]"]).has_names
    assert parse_destinations(["localhost", "*.example.org"]).has_names


def options(*arguments: str) -> dict[str, Any]:
    """Return what the options of `connect` are taken for."""
    with connect.make_context("connect", [*arguments]) as context:
        return context.params


def test_a_file_has_lists(tmp_path: Path) -> None:
    """It has one or more destinations a line; comments and empty lines are none."""
    assert ["a:1", "b, c:2"] == [*lines_of("# no\n\n a:1 # yes\nb, c:2,\n")]
    file = tmp_path / "permitted"
    file.write_text("a:1 # first\nb,c:2\n", encoding="utf-8")
    only = options("--only", f":53,@{file}")["only"]
    assert parse_destinations([":53,a:1,b,c:2"]) == only
    file.write_text("# nothing\n", encoding="utf-8")
    assert Destinations() == options("--only", f"@{file}")["only"]
    with pytest.raises(click.BadParameter, match=r"cannot read .*/none: No such file"):
        options("--only", f"@{tmp_path}/none")


def test_what_is_needed_is_turned_on() -> None:
    """All attempts are to be seen as they end, and named where there are names."""
    assert (True, False) == tuple(options("--only", ":53")[name] for name in ("outcome", "dns"))
    assert options("--only", "a:53")["dns"]
    assert (True, False) == tuple(options("--fail-on-connect")[n] for n in ("outcome", "dns"))
    assert (True, True) == tuple(options("--summary")[name] for name in ("outcome", "dns"))


@pytest.mark.parametrize("other", ["-c", "--slower=1"])
def test_what_hides_attempts_is_refused(other: str) -> None:
    """Neither counts nor slow attempts alone are all of them."""
    for flags in (("--summary",), ("--only", ":53"), ("--fail-on-connect",)):
        with pytest.raises(click.UsageError, match="exclude each other"):
            options(*flags, other)


def judged(gate: Gate, losses: Losses = NOTHING_LOST, **more: Any) -> None:
    """Have a gate judge."""
    gate.judge(losses, more.get("doubt"), more.get("status", 0))


def test_a_gate_is_content_with_what_is_permitted() -> None:
    """Ends of connections, and what was accepted, are no attempts."""
    gate = Gate(parse_destinations(["192.0.2.1"]))
    gate.write([NewTable(), to(), closed(), accepted(accept_bytes(raddr="192.0.2.9"))])
    judged(gate, status=1)


def test_a_gate_tells_who_it_was() -> None:
    """Program, process, name, address, port, how it went, and how often; escaped."""
    gate = Gate(parse_destinations(["192.0.2.1"]))
    refused: dict[str, Any] = {"outcome": "refused", "error": "ECONNREFUSED", "comm": "a\x1b"}
    gate.write([to(), to("192.0.2.2", 80), to("192.0.2.2", 80)])
    gate.write([to("192.0.2.3", query="example.org", **refused)])
    gate.write([to("192.0.2.3", outcome="error", error="EPERM"), to("192.0.2.3", outcome=None)])
    with pytest.raises(ForbiddenError) as error:
        judged(gate, Losses(no_room=1), status=7)
    assert """\
5 attempts to connect to what is not permitted:
PROGRAM PID NAME        ADDRESS   PORT RESULT      TIMES
curl    181 -           192.0.2.2   80 established     2
a\\x1b   181 example.org 192.0.2.3  443 refused         1
curl    181 -           192.0.2.3  443 EPERM           1
curl    181 -           192.0.2.3  443 not known       1
The command itself has ended with 7""" == str(error.value)
    assert 3 == error.value.exit_status


def test_a_gate_shows_so_many() -> None:
    """The others are counted, and take no memory."""
    gate = Gate(Destinations())
    gate.write([to(pid=number) for number in range(MOST_KEPT + 5)])
    with pytest.raises(ForbiddenError) as error:
        judged(gate)
    lines = str(error.value).split("\n")
    assert f"{MOST_KEPT + 5} attempts to connect to what is not permitted:" == lines[0]
    assert (MOST_SHOWN + 3, f"and {MOST_KEPT + 5 - MOST_SHOWN} more") == (len(lines), lines[-1])


@pytest.mark.parametrize("losses", [Losses(no_room=1), Losses(untracked=1)])
def test_a_gate_that_was_blind_says_so(losses: Losses) -> None:
    """Where something was lost, or a table was full, nothing found does not mean nothing done."""
    with pytest.raises(UncertainError) as error:
        judged(Gate(Destinations()), losses)
    assert (4, True) == (error.value.exit_status, str(losses) in str(error.value))
