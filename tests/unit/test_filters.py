"""The filters: from the user's text to values, to C defines, and to expressions for tracefs."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import resource
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.errors import ShortageError
from tcptrace.kernel import netns, processes
from tcptrace.model.filters import BY_NAME, MOST_COMPARED, Filters
from tcptrace.model.given import U16_MAX
from tcptrace.model.ranges import U32_MAX, Ranges
from tcptrace.model.systems import Cgroup, PinnedMap, Recorded
from tcptrace.shell.host import Host

MY_NETNS = Path("/proc/self/ns/net")
RANGE = r" ?X\((\d+)U,(\d+)U\)"


def parse(name: str, *texts: str) -> Any:
    """Read option values as the command line does."""
    entry = BY_NAME[name]
    return entry.parse(texts if entry.multiple else texts[0], Host())


def ranges(keep: str = "", drop: str = "") -> Ranges:
    """Return ``1 2-3`` as ranges."""

    def pairs(text: str) -> tuple[tuple[int, int], ...]:
        bounds = [item.split("-") for item in text.split()]
        return tuple((int(bound[0]), int(bound[-1])) for bound in bounds)

    return Ranges(pairs(keep), pairs(drop))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["80"], ranges("80")),
        (["0", "65535"], ranges("0 65535")),
        (["80,443,8000-8100"], ranges("80 443 8000-8100")),
        (["80", "443,8080"], ranges("80 443 8080")),
        (["!22"], ranges(drop="22")),
        (["1-1024,!22,!80-90"], ranges("1-1024", "22 80-90")),
        ([" 80 , 443 "], ranges("80 443")),
        (["080"], ranges("80")),
    ],
)
def test_ports(texts: list[str], expected: Ranges) -> None:
    """Lists, ranges and exclusions, of one option or several."""
    assert expected == parse("port", *texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "80,",
        "http",
        "65536",
        "-1",
        "1-",
        "-",
        "!",
        "!!22",
        "90-80",
        "1-2-3",
        "0x50",
        "8 0",
        "80;443",
        "٨٠",
        "80)X(1",
        "1-65536",
        "9" * 5000,
    ],
)
def test_bad_ports_are_named(text: str) -> None:
    """What is not a port is refused in words that name a port."""
    with pytest.raises(ValueError, match="port"):
        parse("port", text)


def test_pids() -> None:
    """Process ids go up to 32 bits."""
    parsed = BY_NAME["pid"].parse([f"181,{U32_MAX},!1"], Recorded())
    assert ranges(f"181 {U32_MAX}", "1") == parsed
    with pytest.raises(ValueError, match="process id"):
        parse("pid", str(U32_MAX + 1))


@pytest.fixture
def initial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this process's namespaces for the initial ones."""
    for kind in processes.INITIAL:
        own = Path("/proc/self/ns", kind)
        if own.exists():
            monkeypatch.setitem(processes.INITIAL, kind, own.stat().st_ino)


@pytest.mark.usefixtures("initial")
def test_a_single_pid_is_the_process_that_has_it_now() -> None:
    """With an id comes when its process began; a range, or nobody's id, is but numbers."""
    me, nobody = os.getpid(), 2**22 + 1
    began = processes.start_time(me)
    assert {me: began} == parse("pid", f"{me},{nobody}").began
    assert {me: began} == parse("pid", f"!{me}").began
    assert {} == parse("pid", f"{me},{me}-{me + 1}").began


@pytest.mark.parametrize("kind", ["pid", "time"])
@pytest.mark.usefixtures("initial")
def test_inside_a_namespace_a_pid_is_a_number(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, /proc has other numbers and times than the kernel's own."""
    monkeypatch.setitem(processes.INITIAL, kind, 1)
    assert {} == parse("pid", str(os.getpid())).began


@pytest.mark.parametrize(
    ("name", "text"),
    [("port", "!0-65535"), ("port", "80,!80"), ("pid", "5-9,!1-20"), ("uid", f"!0-{U32_MAX}")],
)
def test_ranges_that_keep_nothing_are_refused(name: str, text: str) -> None:
    """Whatever happens, such a trace would stay empty."""
    with pytest.raises(ValueError, match="is left: each is excluded"):
        parse(name, text)


@pytest.mark.parametrize("text", ["init", "", "1.5", "-7"])
def test_bad_pids_are_named(text: str) -> None:
    """What is not a process id is refused in words that name one."""
    with pytest.raises(ValueError, match="process id"):
        parse("pid", text)


def test_users_by_name_and_id() -> None:
    """Names, ids, ranges and exclusions go together."""
    me = pwd.getpwuid(os.getuid())
    assert ranges(f"{me.pw_uid} 1000-1999", "0") == parse("uid", f"{me.pw_name},1000-1999", "!0")
    assert ranges(drop=str(me.pw_uid)) == parse("uid", f"!{me.pw_name}")


def test_a_user_name_may_hold_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a dash is a name, not a range."""
    known = pwd.struct_passwd(("www-data", "x", 33, 33, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwnam", {"www-data": known}.__getitem__)
    assert ranges("33") == parse("uid", "www-data")


@pytest.mark.parametrize("text", ["no-such-user", "", "!", "-1", str(U32_MAX + 1), "9-1", "a\0b"])
def test_bad_users_are_refused(text: str) -> None:
    """Neither a user nor an id."""
    with pytest.raises(ValueError, match=r"user|embedded null"):
        parse("uid", text)


def test_network_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number, a path and a name under /run/netns are one namespace."""
    inode = MY_NETNS.stat().st_ino
    (tmp_path / "mine").symlink_to(MY_NETNS)
    monkeypatch.setattr(netns, "NAMED", tmp_path)
    assert (inode, inode, inode) == parse("netns", str(inode), str(MY_NETNS), "mine")


@pytest.mark.parametrize(
    "text",
    ["", "no-such-name", "/no/such/path", "/etc/passwd", "/", "0", str(U32_MAX + 1), "a\0b"],
)
def test_bad_network_namespaces_are_refused(text: str) -> None:
    """Nothing, a file, a directory, or a number that no namespace has."""
    with pytest.raises(ValueError, match="namespace"):
        parse("netns", text)


def test_what_filters_name_is_held_open(tmp_path: Path) -> None:
    """A namespace and a cgroup are kept until the host is closed, by whatever name."""
    (tmp_path / "cgroup.controllers").touch()
    host = Host()
    inode = host.netns(str(MY_NETNS))
    assert {inode} == {host.netns(str(inode)), host.netns(f"/proc/{os.getpid()}/ns/net")}
    host.cgroup(str(tmp_path))
    held = [os.fstat(descriptor).st_ino for descriptor in host._held]
    assert [inode, inode, inode, tmp_path.stat().st_ino] == held
    host.close()
    assert [] == host._held


@pytest.mark.parametrize("name", ["netns", "cgroup"])
def test_more_than_can_be_held_is_said(name: str, tmp_path: Path) -> None:
    """Where no more files may be opened, that is the error, not that there is no such thing."""
    (tmp_path / "cgroup.controllers").touch()
    texts = 64 * [str({"netns": MY_NETNS, "cgroup": tmp_path}[name])]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.closing(Host()) as host:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        try:
            with pytest.raises(ShortageError, match="ulimit -n"):
                BY_NAME[name].parse(texts, host)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_another_kind_of_namespace_is_refused() -> None:
    """A mount namespace would match nothing, silently."""
    with pytest.raises(ValueError, match="not a network namespace"):
        parse("netns", "/proc/self/ns/mnt")


def test_cgroups(tmp_path: Path) -> None:
    """A cgroup v2 directory becomes its id; any other directory is refused."""
    (tmp_path / "cgroup.controllers").touch()
    assert [tmp_path.stat().st_ino] == [cgroup.id for cgroup in parse("cgroup", str(tmp_path))]
    for other in (tmp_path.parent, tmp_path / "cgroup.controllers", tmp_path / "missing", "a\0b"):
        with pytest.raises(ValueError, match="cgroup v2"):
            parse("cgroup", str(other))


def test_process_names() -> None:
    """A name is cut to the 15 bytes that the kernel keeps; commas belong to it."""
    assert (b"nginx", b"fifteen-bytes-l", b"a,b") == parse(
        "comm", "nginx", "fifteen-bytes-long", "a,b"
    )
    with pytest.raises(ValueError, match="not empty"):
        parse("comm", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"port": ranges("80 8000-8100")}, {"KEEP_PORT": "X(80U,80U) X(8000U,8100U)"}),
        ({"port": ranges(drop="22")}, {"DROP_PORT": "X(22U,22U)"}),
        ({"pid": ranges("1", "2")}, {"KEEP_PID": "X(1U,1U)", "DROP_PID": "X(2U,2U)"}),
        (
            {"pid": Ranges(((1, 1), (2, 2), (2, 9)), (), {1: 77})},
            {"KEEP_PID": "P(1U,77ULL) X(2U,2U) X(2U,9U)"},
        ),
        ({"uid": ranges("0")}, {"KEEP_UID": "X(0U,0U)"}),
        ({"netns": (7, 8)}, {"KEEP_NETNS": "X(7U,7U) X(8U,8U)"}),
        (
            {"cgroup": (Cgroup(1 << 40, "/a"),)},
            {"KEEP_CGROUP": "X(1099511627776ULL,1099511627776ULL)"},
        ),
        ({"family": 6}, {"KEEP_FAMILY": "6"}),
        ({"cgroupmap": PinnedMap("/a", set)}, {"CGROUPMAP": "1"}),
        ({"mntnsmap": PinnedMap("/b", set)}, {"MNTNSMAP": "1"}),
        ({}, {}),
    ],
)
def test_defines(values: dict[str, Any], expected: dict[str, str]) -> None:
    """Each filter becomes its define."""
    assert expected == Filters(values).defines()


def test_defines_of_several_filters_are_joined() -> None:
    """Filters combine."""
    values = {"port": ranges("80"), "family": 4}
    assert {"KEEP_PORT", "KEEP_FAMILY"} == Filters(values).defines().keys()


@given(
    st.lists(
        st.tuples(st.integers(0, U16_MAX), st.integers(0, U16_MAX)).map(sorted),
        min_size=1,
        max_size=MOST_COMPARED,
    )
)
def test_any_ranges_survive(pairs: list[list[int]]) -> None:
    """Ranges come out of the defines as they were typed."""
    texts = [f"{low}-{high}" for low, high in pairs]
    define = Filters({"port": parse("port", ",".join(texts))}).defines()["KEEP_PORT"]
    assert pairs == [[int(low), int(high)] for low, high in re.findall(RANGE, define)]


@given(st.sampled_from(["port", "pid", "uid"]), st.text(max_size=20))
def test_no_text_reaches_the_c_source(name: str, text: str) -> None:
    """Whatever is typed is refused with a ValueError, or becomes nothing but integers."""
    try:
        value = parse(name, text)
    except ValueError:
        return
    for define in Filters({name: value}).defines().values():
        assert re.fullmatch(rf"({RANGE}| ?P\(\d+U,\d+ULL\))+", define)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_process_name_becomes_two_words(name: str) -> None:
    """The words hold the name's bytes, cut to 15 and ended by NUL, and no text."""
    define = Filters({"comm": parse("comm", name)}).defines()["KEEP_COMM"]
    match = re.fullmatch(r"Y\((0x[0-9a-f]+)ULL,(0x[0-9a-f]+)ULL\)", define)
    assert match
    words = struct.pack("=QQ", *(int(word, 16) for word in match.groups()))
    assert os.fsencode(name)[:15].ljust(16, b"\0") == words


def wants(ranges: Ranges, *values: int) -> bool:
    """Tell whether ranges keep some numbers, as the definition says."""

    def within(pairs: Iterable[tuple[int, int]]) -> bool:
        return any(low <= value <= high for low, high in pairs for value in values)

    return (not ranges.keep or within(ranges.keep)) and not within(ranges.drop)


NUMBERS = st.lists(st.integers(0, U16_MAX), min_size=2, max_size=2).map(sorted).map(tuple)
RANGES = st.builds(Ranges, *[st.lists(NUMBERS, max_size=3).map(tuple)] * 2)


def holds(text: str, **fields: object) -> bool:
    """Tell whether a filter expression holds, as the kernel would; without one all is kept."""
    python = text.replace("&&", " and ").replace("||", " or ").replace("!(", " not (")
    return bool(eval(python or "True", {}, fields))  # noqa: S307 - our own expression


def port(name: str, value: int) -> dict[str, int]:
    """Return a port as it is fetched."""
    return {f"{name}_0": value >> 8, f"{name}_1": value & 0xFF}


@given(RANGES, st.integers(0, U16_MAX))
def test_port_expression_is_what_ranges_keep(ranges: Ranges, value: int) -> None:
    """A port that is compared byte for byte is kept where the ranges keep it."""
    text = Filters({"port": ranges}).expression(["lport"])
    assert wants(ranges, value) == holds(text, **port("lport", value))


@given(RANGES, st.integers(0, U16_MAX), st.integers(0, U16_MAX))
def test_either_port_expression(ranges: Ranges, lport: int, rport: int) -> None:
    """With two ports, one has to be in what is kept, and none in what is dropped."""
    text = Filters({"port": ranges}).expression(["lport", "rport"])
    fields = {**port("lport", lport), **port("rport", rport)}
    assert wants(ranges, lport, rport) == holds(text, **fields)


@given(RANGES, st.integers(0, U16_MAX))
def test_uid_expression_is_what_ranges_keep(ranges: Ranges, value: int) -> None:
    """Users are compared as numbers."""
    text = Filters({"uid": ranges}).expression([])
    assert wants(ranges, value) == holds(text, uid=value)


@pytest.mark.parametrize(
    ("family", "address", "version"),
    [
        (socket.AF_INET, "::", 4),
        (socket.AF_INET6, "::ffff:127.0.0.1", 4),
        (socket.AF_INET6, "::1", 6),
        (socket.AF_INET6, "::fffe:127.0.0.1", 6),
        (socket.AF_INET6, "1::ffff:127.0.0.1", 6),
    ],
)
def test_family_expression(family: int, address: str, version: int) -> None:
    """An IPv4-mapped address is IPv4."""
    raw = memoryview(socket.inet_pton(socket.AF_INET6, address)).cast("I")
    fields = {"family": family, **{f"raddr6_{n}": word for n, word in enumerate(raw)}}
    kept = [asked for asked in (4, 6) if holds(Filters({"family": asked}).expression([]), **fields)]
    assert [version] == kept


def test_netns_and_comm_expressions() -> None:
    """Values of one filter are alternatives, filters go together."""
    values = {"comm": (b"nginx", b'say "hi"'), "netns": (1, 2), "pid": Ranges(((1, 1),), ())}
    expected = """(comm == "nginx" || comm == 'say "hi"') && (netns == 1 || netns == 2)"""
    assert expected == Filters(values).expression([])


def test_a_name_that_no_quotes_can_hold_is_not_compared() -> None:
    """The kernel's expressions have no escapes; tcptrace itself compares the name."""
    assert not Filters({"comm": (b"\"'", b"nginx")}).expression([])


@given(RANGES, st.lists(st.integers(0, U16_MAX), max_size=1))
def test_ranges_test_is_their_definition(ranges: Ranges, more: list[int]) -> None:
    """Looking numbers up gives what comparing them with each range does."""
    test, of_ports = ranges.test(), Filters({"port": ranges}).test("port")
    bounds = {bound for pair in (*ranges.keep, *ranges.drop) for bound in pair}
    for number in {0, U16_MAX, *bounds, *(bound + 1 for bound in bounds if bound < U16_MAX)}:
        assert wants(ranges, number) == test(number)
        assert wants(ranges, number, *more) == of_ports(number, *more)


RECORD = {
    "pid": 181,
    "uid": 1000,
    "comm": "nginx",
    "family": 4,
    "netns": 4026531840,
    "mntns": 4026531841,
    "lport": 80,
    "rport": 40000,
    "cgroup_id": 7,
    "cgroups": (7, "/", "/a", "/a/b"),
}
NOT_KNOWN = {**dict.fromkeys(RECORD), "family": 4, "cgroups": (None,)}


def keeps(values: dict[str, Any], changes: dict[str, Any] | None = None, *ports: str) -> bool:
    """Tell whether filters keep a record with these changes."""
    record = SimpleNamespace(**{**RECORD, **(changes or {})})
    return Filters(values, ports or ("lport", "rport")).keeps(record)


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("pid", ["181"], ["182"]),
        ("pid", ["!182"], ["!181"]),
        ("port", ["80"], ["443"]),
        ("port", ["39000-41000"], ["39000-41000,!80"]),
        ("uid", ["1000"], ["!1000"]),
        ("comm", ["bash", "nginx"], ["ngin"]),
        ("netns", ["4026531840"], ["4026531841"]),
    ],
)
def test_records_are_kept_as_the_kernel_would(
    name: str, kept: list[str], dropped: list[str]
) -> None:
    """Each filter keeps a record that has what it asks for, and drops others."""
    assert [True, False] == [keeps({name: parse(name, *texts)}) for texts in (kept, dropped)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"family": 4}, True),
        ({"family": 6}, False),
        ({"cgroup": (Cgroup(7, None),)}, True),
        ({"cgroup": (Cgroup(None, "/a"),)}, True),
        ({"cgroup": (Cgroup(None, "/"),)}, True),
        ({"cgroup": (Cgroup(8, "/a/bc"),)}, False),
        ({"cgroupmap": PinnedMap("", lambda: {7})}, True),
        ({"cgroupmap": PinnedMap("", lambda: {8})}, False),
        ({"mntnsmap": PinnedMap("", lambda: {4026531841})}, True),
        ({"mntnsmap": PinnedMap("", set)}, False),
        ({}, True),
        ({"family": 4, "port": ranges("443"), "uid": ranges("1000")}, False),
        ({"family": 4, "port": ranges("80"), "uid": ranges("1000")}, True),
    ],
)
def test_values_and_combinations(values: dict[str, Any], *, expected: bool) -> None:
    """A cgroup is known by its id or path, a map by its keys, and all filters have to agree."""
    assert expected == keeps(values)


def test_a_probe_s_ports_are_compared() -> None:
    """Which ports -P is about is the probe's affair."""
    values = {"port": ranges("80")}
    assert [True, False, True] == [
        keeps(values, None, *ports) for ports in (["lport"], ["rport"], ["lport", "rport"])
    ]


@pytest.mark.parametrize("name", ["pid", "uid", "port"])
def test_what_is_not_known_passes_exclusions_alone(name: str) -> None:
    """A record without a process is kept unless only some are to be kept."""
    assert [True, False] == [
        keeps({name: chosen}, NOT_KNOWN) for chosen in (ranges(drop="1000"), ranges("1000"))
    ]


def test_an_unknown_container_is_in_none() -> None:
    """Without cgroup and mount namespace, a record is in none that was asked for."""
    for name in ("cgroup", "cgroupmap", "mntnsmap", "comm", "netns"):
        value = {"cgroup": (Cgroup(None, None),), "comm": (b"nginx",), "netns": (1,)}.get(
            name, PinnedMap("", lambda: {7})
        )
        assert not keeps({name: value}, NOT_KNOWN)


def recorded(name: str, text: str) -> Any:
    """Read an option's value for a recording."""
    entry = BY_NAME[name]
    return entry.parse((text,) if entry.multiple else text, Recorded())


def test_a_recording_takes_numbers_and_paths() -> None:
    """What records hold can be compared: numbers, names of processes, paths of cgroups."""
    assert ranges("1000") == recorded("uid", "1000")
    assert (4026531840,) == recorded("netns", "4026531840")
    for text in ("/sys/fs/cgroup/a/b", "/a/b", "a/b/"):
        assert (Cgroup(None, "/a/b"),) == recorded("cgroup", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("uid", "postgres"),
        ("netns", "blue"),
        ("netns", "/proc/1/ns/net"),
        ("cgroupmap", "/sys/fs/bpf/web"),
        ("mntnsmap", "/sys/fs/bpf/web"),
    ],
)
def test_what_a_recording_cannot_tell_is_refused(name: str, text: str) -> None:
    """Names that only the host knew and maps of its kernel are refused, not guessed."""
    with pytest.raises(ValueError, match="recording"):
        recorded(name, text)


def test_a_filter_that_was_not_asked_for_keeps_all() -> None:
    """Its test passes any values, and a record without a process has the id 0."""
    assert Filters({}).test("port")(80, 443) is True
    assert not Filters({"pid": BY_NAME["pid"].parse(["1"], Host())}).test("pid")(None)
