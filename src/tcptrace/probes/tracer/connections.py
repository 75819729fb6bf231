"""Connections followed by samples of tracefs, as tracer.bpf.c follows them in the kernel."""

from __future__ import annotations

import dataclasses
import enum
import errno
from collections.abc import Iterator
from typing import Any

from tcptrace.model.events import Event, error_name
from tcptrace.probes.accept.probe import accepted
from tcptrace.probes.trace_points import IPPROTO_MPTCP, Sample, Wants, head, is_added_subflow
from tcptrace.probes.tracer.records import BY_OWNER, OLDER, PASSED, Closed, Connected

SOCK_DONE = 1  # enum sock_flags in include/net/sock.h: a FIN was received


class State(enum.IntEnum):
    """include/net/tcp_states.h, in part."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    CLOSING = 11


ENDING = frozenset({State.FIN_WAIT1, State.LAST_ACK, State.CLOSE})
IS_ESTABLISHED = frozenset(State) - {State.SYN_SENT, State.SYN_RECV, State.CLOSE}
CUT_OFF = frozenset({errno.ECONNRESET, errno.EPIPE})  # tcp_reset in net/ipv4/tcp_input.c


class _Stage(enum.Enum):
    CONNECTING = enum.auto()
    QUEUED = enum.auto()
    OPEN = enum.auto()


@dataclasses.dataclass(slots=True)
class _Connection:
    """The task is the owner, which connected or accepted; later the closer, where it is known."""

    head: dict[str, Any]
    stage: _Stage
    since_ns: int = 0
    """SYN_SENT, later ESTABLISHED; 0 if that was before the trace."""
    keep: bool = False
    is_closed: bool = False
    """Whether the closer is known."""
    is_older: bool = False


NOBODY = {"pid": None, "tid": None, "comm": None}
"""The user of a socket stays known, and is shown with a task only."""


class Connections:
    """Makes records of samples; the comments are in probes/tracer/tracer.bpf.c."""

    def __init__(self, wants: Wants, wants_ports: Wants) -> None:
        """Follow none yet; `wants` and `wants_ports` are the filters by task and by port."""
        self._wants = wants
        self._wants_ports = wants_ports
        self._followed: dict[int, _Connection] = {}

    def __call__(self, sample: Sample) -> Iterator[Event]:
        """Yield the events that a sample completes."""
        if sample.name == "accept":
            yield from self._accepted(sample)
            return
        sk = sample.fields["sk"]
        if sample.name == "close":
            if sk in self._followed:
                self._closed_by(self._followed[sk], sample)
            return
        to = sample.fields["to"]
        if sk not in self._followed and is_added_subflow(sample):
            return
        if to in ENDING:
            self._follow_older(sk, sample)
            found = self._followed.get(sk)
            if found:
                self._closing(found, sample)
                if to == State.CLOSE:
                    yield from self._closed(sk, found, sample, sample.fields["from"])
        elif to == State.SYN_SENT:
            self._followed[sk] = _Connection(
                head(sample), _Stage.CONNECTING, sample.ts_ns, self._wants(sample)
            )
        else:
            yield from self._established(sk, sample)

    def _established(self, sk: int, sample: Sample) -> Iterator[Event]:
        found = self._followed.get(sk)
        now_ns = sample.ts_ns
        if found and found.stage is _Stage.OPEN:
            found.since_ns = found.since_ns or now_ns
        elif not self._wants_ports(sample):
            self._followed.pop(sk, None)
        elif found and found.stage is _Stage.CONNECTING:
            task = {key: found.head[key] for key in NOBODY}
            latency_ns, found.since_ns = now_ns - _syn_left(found.since_ns, sample), now_ns
            found.head = {**head(sample), **task}
            found.stage = _Stage.OPEN
            if found.keep:
                yield _connected(found.head, latency_ns)
        elif sample.fields["from"] == State.SYN_SENT:
            if self._wants(_of_nobody(sample)):
                yield _connected({**head(sample), **NOBODY}, 0)
        else:
            fresh = _Connection({**head(sample), **NOBODY}, _Stage.QUEUED, now_ns)
            self._followed[sk] = fresh

    def _accepted(self, sample: Sample) -> Iterator[Event]:
        fields = sample.fields
        is_mptcp = fields["protocol"] == IPPROTO_MPTCP
        sk = fields["first_sk"] if is_mptcp else fields["sk"]
        found = self._followed.get(sk)
        connection = _Connection(head(sample), _Stage.OPEN, keep=self._wants(sample))
        if found:
            connection.since_ns = found.since_ns
        for event in accepted(sample):
            if sk:  # an MPTCP connection may have lost its first subflow
                self._followed[sk] = connection
            if connection.keep:
                yield event
            # One that is reset at that moment has its error before its new state.
            was_reset = found is None and fields["error"] in CUT_OFF
            if (fields["from"] == State.CLOSE or was_reset) and not is_mptcp:
                yield from self._closed(sk, connection, sample, State.CLOSE)

    def _follow_older(self, sk: int, sample: Sample) -> None:
        before = sample.fields["from"]
        if before not in IS_ESTABLISHED or sk in self._followed:
            return
        if sample.fields["socket"] or sample.fields["owned"]:  # or it is let go of just now
            beginning = {**head(sample), **NOBODY}
            self._followed[sk] = _Connection(beginning, _Stage.OPEN, is_older=True)

    def _closing(self, connection: _Connection, sample: Sample) -> None:
        fields = sample.fields
        if not fields["owned"]:
            return
        before = {State.ESTABLISHED, State.CLOSE_WAIT, State.SYN_RECV}
        if fields["to"] == State.CLOSE and (fields["error"] or fields["from"] not in before):
            return
        self._closed_by(connection, sample)

    def _closed_by(self, connection: _Connection, sample: Sample) -> None:
        if connection.is_closed or sample.is_kernel:
            return
        connection.head |= {key: getattr(sample, key) for key in ("pid", "tid")}
        connection.head["comm"] = sample.fields["comm"]
        connection.keep |= self._wants(sample)
        connection.is_closed = True

    def _closed(
        self, sk: int, connection: _Connection, sample: Sample, before: int
    ) -> Iterator[Event]:
        del self._followed[sk]
        connection.head["ts_ns"] = sample.ts_ns
        fields, known = sample.fields, connection.head["pid"] is not None
        keep = connection.keep or (not known and self._wants(_of_nobody(sample)))
        if connection.stage is not _Stage.OPEN or not keep:
            return
        since_ns = connection.since_ns
        flags = PASSED | (OLDER if connection.is_older else 0)
        if known and not connection.is_closed:
            flags |= BY_OWNER
        yield Closed(
            **_shown(connection.head),
            duration_ms=(sample.ts_ns - since_ns) / 1e6 if since_ns else None,
            tx_bytes=fields["bytes_sent"] - fields["bytes_retrans"],
            rx_bytes=max(0, fields["bytes_received"] - (fields["flags"] >> SOCK_DONE & 1)),
            retransmits=fields["total_retrans"],
            ended_by=_who_ended(fields, before),
            error=error_name(-fields["error"]),
            _flags=flags,
            iss=None,
            irs=None,
            _link=0,
            _opened_in=0,
        )


def _syn_left(begun_ns: int, sample: Sample) -> int:
    """Return when the SYN left: with TCP_FASTOPEN_CONNECT long after SYN_SENT."""
    fields = sample.fields
    if fields["total_retrans"] or fields["from"] != State.SYN_SENT:
        return begun_ns
    return max(begun_ns, min(int(fields["sent_ns"]), sample.ts_ns))


def _of_nobody(sample: Sample) -> Sample:
    """Return a sample without its task, which has nothing to do with the connection."""
    return dataclasses.replace(sample, pid=0, fields={**sample.fields, "comm": ""})


def _shown(beginning: dict[str, Any]) -> dict[str, Any]:
    """Return what a row begins with."""
    return beginning if beginning["pid"] is not None else {**beginning, "uid": None}


def _connected(beginning: dict[str, Any], latency_ns: int) -> Connected:
    return Connected(
        **_shown(beginning),
        latency_ms=latency_ns / 1e6 if latency_ns else None,
        iss=None,
        irs=None,
        _link=0,
    )


def _who_ended(fields: Any, before: int) -> str:
    """Return who sent the first FIN, or that a reset cut off what a process still had."""
    if fields["error"] in CUT_OFF and (fields["socket"] or before == State.CLOSE):
        return "reset"
    return "remote" if before in {State.CLOSE_WAIT, State.LAST_ACK} else "local"
