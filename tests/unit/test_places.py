"""Filters by unit, container and pod: what they match, and how events are judged by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.records import DECODER, accept_bytes, made

from tcptrace.errors import RefusedError
from tcptrace.kernel import cgroups
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.identity import UNKNOWN, Identity
from tcptrace.model.places import units_of
from tcptrace.model.systems import Recorded
from tcptrace.probes.accept.probe import ACCEPT, Accept
from tcptrace.probes.connect.counts import Count, merged
from tcptrace.probes.places import DROPPED, KEPT, PATH_BYTES, _path
from tcptrace.probes.tracer.records import (
    ASKED,
    BY_CLOSER,
    BY_OPENER,
    PASSED,
    Closed,
)
from tcptrace.sources import places as module
from tcptrace.sources.attach import Attaching
from tcptrace.sources.places import Places
from tcptrace.sources.plan import Plan

ID, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
USER = "/user.slice/user-1000.slice/user@1000.service"


def parsed(name: str, *texts: str) -> Any:
    """Return what a filter reads of a command line."""
    return BY_NAME[name].parse(texts, Recorded())


def keeps(name: str, text: str, identity: Identity) -> bool:
    """Tell whether a filter keeps who is in a cgroup."""
    return bool(BY_NAME[name].test(parsed(name, text))(identity))


def unit(path: str, name: str | None = None) -> Identity:
    """Return who is in a unit's cgroup."""
    return Identity(path, name or path.rpartition("/")[2])


@pytest.mark.parametrize(
    ("text", "path", "is_kept"),
    [
        ("nginx", "/system.slice/nginx.service", True),
        ("nginx.service", "/system.slice/nginx.service", True),
        ("nginx", "/system.slice/nginx2.service", False),
        ("nginx", "/system.slice/nginx.scope", False),
        ("ngin*", "/system.slice/nginx.service", True),
        ("ngin?", "/system.slice/nginx.service", False),
        ("[mn]ginx.s*", "/system.slice/nginx.service", True),
        ("getty@tty1", "/system.slice/system-getty.slice/getty@tty1.service", True),
        ("getty@tty1", "/system.slice/system-getty.slice/getty@tty2.service", False),
        ("getty@", "/system.slice/system-getty.slice/getty@tty2.service", True),
        ("getty@.service", "/system.slice/system-getty.slice/getty@tty2.service", True),
        ("getty@*", "/system.slice/system-getty.slice/getty@tty2.service", True),
        ("getty", "/system.slice/system-getty.slice/getty@tty2.service", False),
        ("system.slice", "/system.slice/nginx.service", True),
        ("user@1000", f"{USER}/app.slice/web.service", True),
        ("user@1000.service", f"{USER}/init.scope", True),
        ("app.slice", f"{USER}/app.slice/web.service", True),
        ("web", f"{USER}/app.slice/web.service", True),
        ("user@1001", f"{USER}/app.slice/web.service", False),
        (r"my\x2dapp", r"/system.slice/my\x2dapp.service", True),
        ("cpu", "/system.slice/_cpu.service", True),
        ("Nginx", "/system.slice/nginx.service", False),
    ],
)
def test_units(text: str, path: str, *, is_kept: bool) -> None:
    """A unit by its name or pattern, and what is below it; a template's name is its instances."""
    name = path.rpartition("/")[2].removeprefix("_")
    assert is_kept == keeps("unit", text, unit(path, name))


def test_a_unit_in_a_container_is_the_container_s() -> None:
    """Names below a container's cgroup are not this host's units."""
    inside = Identity(f"/system.slice/web.service/libpod-payload-{ID}/nginx.service", "web.service")
    assert ("system.slice", "web.service") == units_of(inside)
    assert () == units_of(Identity(f"/docker/{ID}/nginx.service", None, ID))
    assert ("web.service",) == units_of(Identity(None, "web.service"))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("unit", "", "not a unit"),
        ("unit", "/dev/sda", "not a unit"),
        ("unit", "backup.timer", "give the service"),
        ("container", "", "not empty"),
        ("pod", "", "NAMESPACE/NAME"),
        ("pod", "a/", "NAMESPACE/NAME"),
        ("pod", "/b", "NAMESPACE/NAME"),
        ("pod", "a/b/c", "NAMESPACE/NAME"),
    ],
)
def test_what_names_nothing_is_refused(name: str, text: str, word: str) -> None:
    """In words that say what to give."""
    with pytest.raises(ValueError, match=word):
        parsed(name, text)


NESTED = Identity(
    f"/lxc.payload.box/docker-{OTHER}.scope/docker/{ID}",
    container=ID,
    runtime="docker",
    outer_containers="box/build-1",
)
WEB = Identity("/x", container=ID, container_name="web-1", runtime="docker")


@pytest.mark.parametrize(
    ("text", "identity", "is_kept"),
    [
        ("web-1", WEB, True),
        ("web", WEB, False),
        ("web*", WEB, True),
        (ID, WEB, True),
        (ID[:4], WEB, True),
        (ID[:3], WEB, False),
        (ID[1:9], WEB, False),
        ("0123", WEB._replace(container_name=None), True),
        ("web-1", WEB._replace(container_name=None), False),
        ("*", Identity("/x"), False),
        ("my-web", Identity("/x", container="my-web", container_name="my-web"), True),
        ("box", NESTED, True),
        ("build*", NESTED, True),
        ("box/build-1", NESTED, False),
        (OTHER, NESTED, True),
        (OTHER[:12], NESTED, True),
        (OTHER[1:], NESTED, False),
        (ID[:12], NESTED, True),
        ("box", NESTED._replace(container=None), False),
    ],
)
def test_containers(text: str, identity: Identity, *, is_kept: bool) -> None:
    """A container by its name, a pattern, or at least four digits that its id begins with.

    What runs in a container inside it is in it, too.
    """
    assert is_kept == keeps("container", text, identity)


POD = Identity("/x", container=ID, pod="web-1", pod_namespace="shop")


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("shop/web-1", True),
        ("web-1", True),
        ("shop/*", True),
        ("*/web-?", True),
        ("sh*/web-1", True),
        ("shop/web", False),
        ("other/web-1", False),
        ("shop", False),
    ],
)
def test_pods(text: str, *, is_kept: bool) -> None:
    """A pod by name, in any namespace or in one."""
    assert is_kept == keeps("pod", text, POD)
    assert not keeps("pod", text, WEB)


def test_several_values_are_alternatives_and_filters_conditions() -> None:
    """As with all other filters; and the C of all three is the same."""
    values = {"unit": parsed("unit", "a", "b"), "container": parsed("container", "web-1")}
    filters = Filters(values)
    assert {"KEEP_PLACES": "1"} == filters.defines()
    assert {"unit": "a.service,b.service", "container": "web-1"} == filters.texts()
    event = DECODER.decode(accept_bytes())
    for name, is_kept in (("a.service", True), ("b.service", True), ("c.service", False)):
        event.identity = WEB._replace(unit=name)
        assert is_kept == filters.keeps(event)
    event.identity = Identity("/x", "a.service")
    assert not filters.keeps(event)


class Known:
    """Who is in which cgroup, as a test says."""

    def __init__(self, known: dict[int, Identity], nameless: set[int] | None = None) -> None:
        """Know these."""
        self.known = known
        self.nameless = nameless or set()
        self.asked: list[int] = []

    def of(self, cgroup_id: int | None) -> Identity:
        """Return who is there."""
        self.asked.append(cgroup_id or 0)
        return self.known.get(cgroup_id or 0, UNKNOWN)

    def learn(self, cgroup_id: int, path: str | None) -> Identity:
        """Return who is there, of a new cgroup."""
        self.known.setdefault(cgroup_id, Identity(path))
        return self.of(cgroup_id)

    def learn_all(self) -> Iterator[tuple[int, Identity]]:
        """Yield all."""
        yield from self.known.items()

    def expects_name(self, cgroup_id: int) -> bool:
        """Tell what the test says."""
        return cgroup_id in self.nameless


def places(known: Known, **asked: str) -> Places:
    """Return what judges by filters."""
    values = {name: parsed(name, text) for name, text in asked.items()}
    judged: Any = known
    return Places(Filters(values), [Accept], judged)


def accept(cgroup_id: int, ts_ns: int = 10, pid: int = 1) -> Any:
    """Return an event from a cgroup."""
    return DECODER.decode(accept_bytes(cgroup_id=cgroup_id, ts_ns=ts_ns, pid=pid))


def told(judge: Places) -> dict[int, int]:
    """Return what the kernel is told."""
    return {int.from_bytes(key, "little"): value[0] for key, value in judge.verdicts()}


def pids(sifted: tuple[list[Any], int]) -> list[int]:
    """Return whose events came out."""
    return [event.pid for event in sifted[0]]


def test_a_cgroup_is_judged_once_and_the_kernel_is_told() -> None:
    """What it has been told is not said again, unless it does not know it any more."""
    known = Known({1: Identity("/a", "a.service"), 2: Identity("/b", "b.service")})
    judge = places(known, unit="a")
    events = [accept(1, pid=7), accept(2, pid=8), accept(1, pid=9), accept(2, pid=8)]
    assert [7, 9] == pids(judge.sift(events, 20, is_last=False))
    assert {1: KEPT, 2: DROPPED} == told(judge)
    assert [1, 2] == known.asked
    assert [7] == pids(judge.sift([accept(1, pid=7)], 30, is_last=False))
    assert {} == told(judge)
    assert [] == pids(judge.sift([accept(2)], 40, is_last=False))
    assert {2: DROPPED} == told(judge)


def test_those_that_are_there_are_judged_before_and_the_missing_named() -> None:
    """Each value of a filter that nothing satisfies is said, once."""
    judge = Places(
        Filters({"unit": ("a.service", "z.service"), "pod": ("shop/*",)}),
        [Accept],
        Known({1: Identity("/a", "a.service")}),  # type: ignore[arg-type]
    )
    missing = judge.look_round()
    assert ["unit z.service", "pod shop/*"] == [
        text.removeprefix("there is no ").partition(" yet")[0] for text in missing
    ]
    assert {1: DROPPED} == told(judge)


def test_what_no_filter_is_for_passes() -> None:
    """Answers of DNS in a `connect -d`, and what has no cgroup, are not judged here."""
    judge = places(Known({}), unit="a")
    (event,), _ = judge.sift([accept(0)], 20, is_last=False)
    assert event.cgroup_id is None
    other = Places(Filters({"unit": ("a.service",)}), [], Known({}))  # type: ignore[arg-type]
    assert [5] == pids(other.sift([accept(1, pid=5)], 20, is_last=False))


def test_a_new_cgroup_is_known_by_the_path_that_the_kernel_tells() -> None:
    """It may be gone when its events are read."""
    known = Known({})
    judge = places(known, unit="a")
    known.known[3] = Identity("/a.service", "a.service")
    assert [4] == pids(judge.sift([made(3, "/a.service"), accept(3, pid=4)], 20, is_last=False))
    assert {3: KEPT} == told(judge)


def test_events_wait_for_a_new_container_s_name() -> None:
    """And those behind them, so that all come out in order; the time waits, too."""
    known = Known({1: WEB, 3: Identity("/c", container=ID)}, nameless={3})
    judge = places(known, container="web-1")
    events = [accept(1, 11, pid=6), made(3), accept(3, 12, pid=7), accept(1, 13, pid=8)]
    assert ([6], 12) == (pids(found := judge.sift(events, 20, is_last=False)), found[1])
    assert 2 == judge.waiting
    assert 3 not in told(judge)
    known.known[3] = WEB
    known.nameless.clear()
    sifted = judge.sift([accept(1, 21, pid=9)], 30, is_last=False)
    assert ([7, 8, 9], 30) == (pids(sifted), sifted[1])
    assert {3: KEPT} == {number: verdict for number, verdict in told(judge).items() if number == 3}


def test_a_name_is_not_waited_for_when_none_will_come_or_the_trace_ends() -> None:
    """What is not known is not wanted then."""
    for is_last in (False, True):
        known = Known({1: WEB, 3: Identity("/c", container=ID)}, nameless={3})
        judge = places(known, container="web-1")
        judge.sift([made(3), accept(3, pid=7), accept(1, pid=8)], 20, is_last=False)
        if not is_last:
            known.nameless.clear()
        assert [8] == pids(judge.sift([], 30, is_last=is_last))
        assert ({} if is_last else {3: DROPPED}) == {
            number: verdict for number, verdict in told(judge).items() if number == 3
        }


def test_no_name_is_waited_for_by_a_filter_of_units() -> None:
    """A unit is in the path."""
    known = Known({3: Identity("/c", container=ID)}, nameless={3})
    judge = places(known, unit="a")
    judge.sift([made(3), accept(3)], 20, is_last=False)
    assert {3: DROPPED} == told(judge)


def test_an_older_container_without_a_name_holds_nothing_up() -> None:
    """Its events are dropped, but not for good as long as its name may come."""
    known = Known({3: Identity("/c", container=ID)}, nameless={3})
    judge = places(known, container="web-1")
    judge.look_round()
    assert [] == pids(judge.sift([accept(3)], 20, is_last=False))
    assert {} == told(judge)
    known.known[3] = WEB
    assert [9] == pids(judge.sift([accept(3, pid=9)], 30, is_last=False))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest verdict goes, and what waits is limited."""
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    monkeypatch.setattr(module, "MOST_HELD", 2)
    known = Known({number: Identity("/a", "a.service") for number in range(1, 5)})
    judge = places(known, unit="a")
    judge.sift([accept(number) for number in range(1, 5)], 20, is_last=False)
    assert 2 == len(judge._verdicts)
    known = Known({1: WEB, 3: Identity("/c", container=ID)}, nameless={3})
    judge = places(known, container="web-1")
    judge.sift([made(3), accept(3), accept(1), accept(1)], 20, is_last=False)
    assert [1, 1, 9] == pids(judge.sift([accept(1, pid=9)], 30, is_last=False))
    assert 0 == judge.waiting


def closed(flags: int, opened_in: int, closed_in: int | None) -> Closed:
    """Return the end of a connection."""
    event: Any = object.__new__(Closed)
    event._flags, event._opened_in, event.cgroup_id = flags, opened_in, closed_in
    ended: Closed = event
    return ended


def test_an_end_is_kept_by_its_opener_or_its_closer() -> None:
    """By those whom the other filters have kept it for."""
    assert (1, 2) == closed(BY_OPENER | BY_CLOSER, 1, 2).origins
    assert (1,) == closed(BY_OPENER, 1, 2).origins
    assert (2,) == closed(BY_CLOSER, 1, 2).origins
    assert () == closed(0, 1, 2).origins


def test_an_end_that_is_wanted_all_the_same_has_not_passed() -> None:
    """The command decides then."""
    event = closed(PASSED | ASKED, 1, 2)
    assert event.fail()
    assert not event.passed
    assert not closed(PASSED, 1, 2).fail()


def test_a_path_that_was_cut_is_none() -> None:
    """It would name another cgroup."""
    assert "/a" == _path(b"/a".ljust(PATH_BYTES, b"\0"))
    assert _path(b"/" + b"a" * (PATH_BYTES - 2) + b"\0") is None
    assert _path(bytes(PATH_BYTES)) is None


def test_counts_of_the_kernel_and_of_here_are_one() -> None:
    """Of the same ends."""
    rows = [
        Count(1, 4, "127.0.0.1", None, "127.0.0.1", port, number)
        for port, number in ((80, 2), (81, 5), (80, 1))
    ]
    assert [(80, 3), (81, 5)] == [(row.rport, row.connects) for row in merged(rows)]


def test_all_cgroups_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Each by its inode number, with its path from the hierarchy's root."""
    for name in ("a.slice/b.service", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(cgroups, "mount_point", lambda: str(tmp_path))
    monkeypatch.setattr(cgroups, "_above", lambda: "")
    expected = {"/": tmp_path, "/a.slice": tmp_path / "a.slice", "/c": tmp_path / "c"}
    expected["/a.slice/b.service"] = tmp_path / "a.slice/b.service"
    assert {path: place.stat().st_ino for path, place in expected.items()} == {
        path: number for number, path in cgroups.everywhere()
    }
    monkeypatch.setattr(cgroups, "_above", lambda: None)
    assert [] == [*cgroups.everywhere()]


@pytest.mark.parametrize(("mounted", "above"), [(None, None), ("/sys/fs/cgroup", None)])
def test_without_cgroups_there_is_nothing_to_judge_by(
    monkeypatch: pytest.MonkeyPatch, mounted: str | None, above: str | None
) -> None:
    """The filters are refused by name, before anything is attached."""
    monkeypatch.setattr(cgroups, "mount_point", lambda: mounted)
    monkeypatch.setattr(cgroups, "_above", lambda: above)
    plan = Plan(ACCEPT, Filters({"unit": ("a.service",), "pod": ("b",)}))
    with pytest.raises(RefusedError, match=r"--unit, --pod: .* mounted"):
        Attaching(plan)
