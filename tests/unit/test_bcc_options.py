"""The options of bcc's tools, and of their libbpf versions, mean here what they mean there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
import pytest

from tcptrace.commands.accept import accept
from tcptrace.commands.connect import connect
from tcptrace.commands.tracer import tracer
from tcptrace.shell.command import TraceCommand
from tcptrace.shell.plan import Output, make_output, make_plan
from tcptrace.sources.plan import Plan

Options = Mapping[tuple[str, ...], tuple[str, str]]
"""From an option's names to a value, empty for a flag, and what it is about: a filter, a column's
heading behind a plus, or a switch."""

COMMON: Options = {
    ("-t", "--timestamp"): ("", "+TIME(s)"),
    ("-p", "--pid"): ("181", "pid"),
    ("-4", "--ipv4"): ("", "family"),
    ("-6", "--ipv6"): ("", "family"),
    ("--cgroupmap",): ("/sys/fs/bpf/test01", "cgroupmap"),
    ("--mntnsmap",): ("/sys/fs/bpf/mnt_ns_set", "mntnsmap"),
}
OF_UID: Options = {("-U", "--print-uid"): ("", "+UID"), ("-u", "--uid"): ("1000", "uid")}
# As their usage texts have them: tools/tcpaccept.py, tcpconnect.py and tcptracer.py.
TOOLS: Mapping[str, tuple[click.Command, Options]] = {
    "tcpaccept": (
        accept,
        {**COMMON, ("-T", "--time"): ("", "+TIME"), ("-P", "--port"): ("80,81", "port")},
    ),
    "tcpconnect": (
        connect,
        {
            **COMMON,
            **OF_UID,
            ("-P", "--port"): ("80,81", "port"),
            ("-L", "--lport"): ("", "+LPORT"),
            ("-c", "--count"): ("", "CONNECT_COUNTS"),
            ("-d", "--dns"): ("", "+QUERY"),
        },
    ),
    "tcptracer": (
        tracer,
        {
            **COMMON,
            **OF_UID,
            ("-N", "--netns"): ("4026531969", "netns"),
            ("-v", "--verbose"): ("", "+NETNS"),
        },
    ),
}
CASES = [
    pytest.param(command, flag, value, about, id=f"{tool} {flag}")
    for tool, (command, options) in TOOLS.items()
    for flags, (value, about) in options.items()
    for flag in flags
]


def planned(command: click.Command, arguments: Sequence[str]) -> tuple[Plan, Output]:
    """Return what a command line asks for."""
    assert isinstance(command, TraceCommand)
    with command.make_context("tool", list(arguments)) as context:
        given = context.params
        return (
            make_plan(command.probe, command.params, given),
            make_output(command.probe, command.params, given),
        )


def headings(output: Output) -> list[str]:
    """Return what stands above the columns."""
    return [column.heading for column in output.columns]


@pytest.mark.parametrize(("command", "flag", "value", "about"), CASES)
def test_an_option_of_bcc_s_means_the_same(
    command: click.Command, flag: str, value: str, about: str
) -> None:
    """Each of its names filters by the same thing, or adds the same column."""
    plan, output = planned(command, [flag, *filter(None, [value])])
    if about.startswith("+"):
        without = headings(planned(command, [])[1])
        assert {about[1:]} <= {*headings(output)} - {*without}
    else:
        assert about in {*plan.filters.values, *plan.switches}


@pytest.mark.parametrize("flag", ["-L", "--lport", "-U", "--print-uid"])
def test_with_counts_two_options_change_nothing(flag: str) -> None:
    """Tcpconnect takes them with -c, and counts the same."""
    assert headings(planned(connect, ["-c"])[1]) == headings(planned(connect, ["-c", flag])[1])


@pytest.mark.parametrize("flag", ["-s", "--source-port"])
def test_counts_by_source_port(flag: str) -> None:
    """libbpf-tools' tcpconnect has one more option with -c."""
    plan, output = planned(connect, ["-c", flag])
    assert "CONNECT_COUNT_LPORT" in plan.switches
    assert "LPORT" in headings(output)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (accept, ["-tp", "181", "-P", "80,81"]),
        (connect, ["-tLU", "-u", "1000"]),
        (connect, ["-cp181"]),
        (tracer, ["-vtp181", "-N", "4026531969"]),
    ],
)
def test_letters_can_stand_together(command: click.Command, arguments: list[str]) -> None:
    """Hands that know the tools type letters in one word."""
    plan, _ = planned(command, arguments)
    assert plan.filters.values


def test_a_help_option_is_there() -> None:
    """-h and --help are usage messages, as everywhere in bcc."""
    for command, _ in TOOLS.values():
        assert {"-h", "--help"} <= {*command.context_settings["help_option_names"]}
