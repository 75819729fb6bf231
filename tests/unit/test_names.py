"""Names found by the answers that have passed."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from tests.unit.dns import answer, message

from tcptrace.probes.dns.names import DAY_NS, Names
from tcptrace.probes.dns.probe import SENT, Message


def attempt(raddr: str, ts_ns: int = 1, *, pid: int = 1, netns: int = 1) -> Message:
    """Return an event with a remote address."""
    return message(b"", raddr=raddr, ts_ns=ts_ns, pid=pid, netns=netns)


def connected(raddr: str) -> Any:
    """Return what is to be named."""
    return SimpleNamespace(raddr=raddr, ts_ns=1, pid=1, netns=1, query=None, query_age_ms=None)


def named(names: Names, event: Message) -> str | None:
    """Return the name that is found for an event."""
    found = names.find(event)
    return found[0] if found else None


def learn(names: Names, name: str, address: str, ts_ns: int = 0, **values: int) -> None:
    """Let `names` see an answer."""
    kind = "A" if ip_address(address).version == 4 else "AAAA"
    data = answer(name, f"{name}. 60 IN {kind} {address}")
    names.learn(message(data, ts_ns=ts_ns, **values))


def test_latest_name_counts() -> None:
    """Of several names for an address the latest that came before the attempt is found."""
    names = Names()
    learn(names, "old.test", "192.0.2.1", 10)
    learn(names, "new.test", "192.0.2.1", 20)
    assert "new.test" == named(names, attempt("192.0.2.1", 30))
    assert "old.test" == named(names, attempt("192.0.2.1", 15))
    assert named(names, attempt("192.0.2.1", 5)) is None
    assert named(names, attempt("192.0.2.2", 30)) is None


def test_asking_again_takes_no_name_away() -> None:
    """An attempt keeps its name when the same name is asked for again before it is shown."""
    names = Names()
    learn(names, "other.test", "192.0.2.1", 5)
    for ts_ns in range(10, 1000, 10):
        learn(names, "a.test", "192.0.2.1", ts_ns)
    assert ("a.test", 5) == names.find(attempt("192.0.2.1", 15))
    assert "a.test" == named(names, attempt("192.0.2.1", 500))
    assert ("a.test", 5) == names.find(attempt("192.0.2.1", 995))
    assert "other.test" == named(names, attempt("192.0.2.1", 7))


def test_a_name_has_its_age() -> None:
    """The age is from the answer to the attempt, in milliseconds."""
    names = Names()
    learn(names, "a.test", "192.0.2.1", 1_000_000)
    event = connected(raddr="192.0.2.1")
    event.ts_ns = 3_500_000
    names.name(event)
    assert ("a.test", 2.5) == (event.query, event.query_age_ms)


def test_only_answers_give_names_and_all_that_is_unreadable_counts() -> None:
    """A question with records is no answer; each message that cannot be read is counted."""
    names = Names()
    data = bytearray(answer("a.test", "a.test. 60 IN A 192.0.2.1"))
    data[2] &= 0x7F  # no response any more
    names.learn(message(bytes(data)))
    assert named(names, attempt("192.0.2.1")) is None
    for _ in range(2):
        names.learn(message(bytes(data[:-2])))
    assert 2 == names.malformed


def test_what_was_open_is_named_by_what_was_asked_since() -> None:
    """An open connection has the time of the trace's beginning, and answers come after it."""
    names = Names()
    learn(names, "late.test", "192.0.2.1", 20)
    late, event = connected(raddr="192.0.2.1"), connected(raddr="192.0.2.1")
    names.name_late(late)
    names.name(event)
    assert (("late.test", 0.0), (None, None)) == tuple(
        (row.query, row.query_age_ms) for row in (late, event)
    )


def test_own_answers_count_most() -> None:
    """A process's own answers come first, then its network namespace's, then all."""
    names = Names()
    learn(names, "own.test", "2001:db8::1", pid=1, netns=1)
    learn(names, "beside.test", "2001:db8::1", pid=2, netns=1)
    learn(names, "elsewhere.test", "2001:db8::1", pid=3, netns=2)
    assert "own.test" == named(names, attempt("2001:db8::1", pid=1, netns=1))
    assert "beside.test" == named(names, attempt("2001:db8::1", pid=9, netns=1))
    assert "elsewhere.test" == named(names, attempt("2001:db8::1", pid=9, netns=9))


def test_answers_end_after_a_day() -> None:
    """An answer names attempts of the next 24 hours."""
    names = Names()
    learn(names, "a.test", "192.0.2.1")
    assert ("a.test", DAY_NS) == names.find(attempt("192.0.2.1", DAY_NS))
    assert names.find(attempt("192.0.2.1", DAY_NS + 1)) is None


def test_answers_end_with_their_ttl_when_asked() -> None:
    """With own_ttl an answer ends when its time to live does."""
    names = Names(own_ttl=True)
    learn(names, "a.test", "192.0.2.1")
    assert names.find(attempt("192.0.2.1", 60_000_000_000))
    assert names.find(attempt("192.0.2.1", 60_000_000_001)) is None


def test_cache_is_bounded() -> None:
    """It keeps the last 10,240 answers."""
    names = Names()
    for number in range(Names.MOST + 1):
        learn(names, "a.test", str(ip_address("10.0.0.0") + number))
    assert named(names, attempt("10.0.0.0")) is None
    assert "a.test" == named(names, attempt("10.0.0.1"))


def test_questions_and_malformed_answers_name_nothing() -> None:
    """Only what was received and can be read counts; what cannot be is counted."""
    names = Names()
    data = answer("a.test", "a.test. IN A 192.0.2.1")
    names.learn(message(data, flags=SENT))
    names.learn(message(data[:-1]))
    assert (None, 1) == (names.find(attempt("192.0.2.1")), names.malformed)
