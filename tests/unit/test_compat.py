"""extras/compat: bcc's old command lines are taken, and its old lines printed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.unit.test_bcc_options import TOOLS, planned

COMPAT = Path(__file__).parents[2] / "extras/compat"
# What the tools say of themselves: tcpaccept(8), tcpconnect(8), tcptracer(8), and their sources.
USAGE = {
    "tcpaccept": "[-T] [-t] [-p PID] [-P PORTS] [-4 | -6] [--cgroupmap MAP] [--mntnsmap MAP]",
    "tcpconnect": "[-c] [-t] [-p PID] [-P PORT] [-4 | -6] [-L] [-u UID] [-U] [--cgroupmap MAP] "
    "[--mntnsmap MAP] [-d]",
    "tcptracer": "[-t] [-v] [-p PID] [-N NETNS] [--cgroupmap MAP] [--mntnsmap MAP] [-4 | -6]",
}
VALUES = {"PID": "181", "PORT": "80", "PORTS": "80,81", "UID": "1000", "NETNS": "4026531969"}
VALUES["MAP"] = "/sys/fs/bpf/test01"
OPTION = re.compile(r"(--?\w+)(?: ([A-Z]+))?")
CASES = [
    pytest.param(tool, [flag, *([VALUES[value]] if value else [])], id=f"{tool} {flag}")
    for tool, usage in USAGE.items()
    for flag, value in OPTION.findall(usage)
]
ROW = {
    "time": "2026-11-30T09:20:29.877257373Z",
    "ts_ns": 5_000_000_000,
    "pid": 907,
    "comm": "a-name-of-15-by",
    "uid": 1000,
    "family": 4,
    "laddr": "192.168.56.102",
    "lport": 22,
    "raddr": "192.168.56.1",
    "rport": 32324,
    "netns": 4026531969,
}
# A stand-in for tcptrace: it says that it has attached, and prints the rows of a file.
STAND_IN = """#!/bin/sh
echo "$@" >"$0.called"
echo 'Tracing accept (tracepoint). Hit Ctrl-C to end.' >&2
echo 'tcptrace: 3 events lost: try a larger --buffer-mb' >&2
cat "$0.rows"
echo 'tcptrace: 2 events in 0.1 s, 0 lost' >&2
"""


@pytest.fixture(scope="module")
def compat() -> ModuleType:
    """The script."""
    spec = importlib.util.spec_from_file_location("compat", COMPAT / "compat.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["compat"] = module
    spec.loader.exec_module(module)
    return module


def parsed(compat: ModuleType, name: str, *arguments: str) -> tuple[Any, Any]:
    """Return a tool and the options of a command line."""
    tool = compat.TOOLS[name]
    return tool, compat.parse(tool, name, arguments)


def line(compat: ModuleType, name: str, *arguments: str, **values: object) -> str:
    """Return what a tool prints for a row."""
    tool, options = parsed(compat, name, *arguments)
    row: str = tool.line({"since_ns": 1_984_000_000, **ROW, **values}, options)
    return row


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_each_old_option_is_one_that_tcptrace_takes(
    compat: ModuleType, name: str, arguments: list[str]
) -> None:
    """What the usage message lists is taken; what filters, or counts, filters and counts here."""
    tool, options = parsed(compat, name, *arguments)
    command, *rest = compat.translated(tool, options)
    plan, _ = planned(TOOLS[name][0], rest)
    assert TOOLS[name][0].name == command
    flag = arguments[0]
    about = next(about for flags, (_, about) in TOOLS[name][1].items() if flag in flags)
    if not about.startswith("+"):
        assert about in {*plan.filters.values, *plan.switches}


@pytest.mark.parametrize("name", TOOLS)
def test_each_has_all_that_bcc_s_has(compat: ModuleType, name: str) -> None:
    """No option of the tool's source is missing, by either name."""
    of_libbpf_tools = {"-u", "--uid", "-U", "--print-uid"} if name == "tcptracer" else set()
    for flags, (value, _) in TOOLS[name][1].items():
        for flag in {*flags} - of_libbpf_tools:
            parsed(compat, name, flag, *filter(None, [value]))


@pytest.mark.parametrize("arguments", [["-4", "-6"], ["-c", "-d"]])
def test_what_excludes_each_other_is_refused(compat: ModuleType, arguments: list[str]) -> None:
    """The tools refuse these, too."""
    with pytest.raises(SystemExit, match="2"):
        parsed(compat, "tcpconnect", *arguments)


def test_lines_are_the_old_ones(compat: ModuleType) -> None:
    """Columns have their old places, and names and IPv6 addresses their old looks."""
    assert (
        "1.984    907     a-name-of-15 4  192.168.56.1     32324 192.168.56.102   22   "
    ) == line(compat, "tcpaccept", "-t")
    assert (
        "1.984    1000  907     a-name-of-15 4  192.168.56.102   22     192.168.56.1     32324  "
        "a.test (123.342ms)"
    ) == line(compat, "tcpconnect", "-tULd", query="a.test", query_age_ms=123.342)
    assert (
        "1984000000    close        907    a-name-of-15-by  6  [fd00::1]        [::1]            "
        "22     32324  4026531969"
    ) == line(compat, "tcptracer", "-tv", type="close", family=6, laddr="fd00::1", raddr="::1")
    assert line(compat, "tcptracer", type="connect").startswith("C  907 ")


def test_headings_stand_over_their_columns(compat: ModuleType) -> None:
    """A heading begins where the value below it does."""
    for name, arguments in (("tcpaccept", "-t"), ("tcpconnect", "-tUL"), ("tcptracer", "-t")):
        tool, options = parsed(compat, name, arguments)
        below = line(compat, name, arguments, type="close")
        heading = tool.heading(options)
        for key, title in (("laddr", "ADDR"), ("rport", "PORT")):
            starts = {found.start() for found in re.finditer(rf"\S*{title}", heading)}
            assert below.index(str(ROW[key])) in starts


def test_names_come_as_dns_is_told(compat: ModuleType) -> None:
    """Young answers have no age, loopback is localhost, and none is said to be none."""
    names = [
        line(compat, "tcpconnect", "-d", **values).partition("32324")[2].strip()
        for values in ({"query": "a.test", "query_age_ms": 3.0}, {}, {"raddr": "::1"})
    ]
    assert ["a.test", "No DNS Query", "localhost"] == names


def test_a_name_cannot_disturb_a_terminal(compat: ModuleType) -> None:
    """Control characters of a process's name are not printed."""
    assert " ?[31m " in line(compat, "tcptracer", type="close", comm="\x1b[31m")


def test_a_whole_run(tmp_path: Path) -> None:
    """Rows come behind the heading; losses are said, and what is as it should be is not."""
    program = tmp_path / "stand-in"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    absent = {**ROW, "laddr": None}
    rows = [ROW, absent, {**ROW, "ts_ns": 5_984_000_000}]
    Path(f"{program}.rows").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = subprocess.run(
        [str(COMPAT / "tcpaccept"), "-tp", "907"],
        env={**os.environ, "TCPTRACE": str(program)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "accept --json --pid=907\n" == Path(f"{program}.called").read_text()
    heading, *found = done.stdout.splitlines()
    assert (
        "TIME(s)  PID     COMM         IP RADDR            RPORT LADDR            LPORT" == heading
    )
    assert ["0.000", "0.984"] == [row.split()[0] for row in found]
    assert "tcptrace: 3 events lost: try a larger --buffer-mb\n" == done.stderr
