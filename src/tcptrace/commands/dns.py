"""``tcptrace dns``."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator

import click

from tcptrace.probes.dns import codes
from tcptrace.probes.dns.probe import DNS, Query
from tcptrace.shell.command import command
from tcptrace.shell.options import option
from tcptrace.shell.times import parse_seconds
from tcptrace.shell.trace import Trace

Wanted = Callable[[Query], bool]


def _types(
    _context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> frozenset[str]:
    """Read record types; one that no message can have is a mistake."""
    names = [name.strip().upper() for value in values for name in value.split(",")]
    for name in names:
        if not codes.is_type(name):
            raise click.BadParameter(
                f"{name!r} is no record type; give names such as A,AAAA,HTTPS, or TYPE65280",
                param=parameter,
            )
    return frozenset(names)


def _names(
    _context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    if "" in values:
        raise click.BadParameter("a name is not empty; the root is '.'", param=parameter)
    return values


def _filter(globs: tuple[str, ...], types: frozenset[str], *, failed: bool) -> Wanted:
    """Return what tells whether a row is to be shown."""
    patterns = [glob.lower().rstrip(".") or "." for glob in globs]

    def wanted(row: Query) -> bool:
        if failed and row.rcode == "NOERROR":
            return False
        qtype = row.qtype or ""
        if types and types.isdisjoint({qtype, qtype.partition("/")[0]}):
            return False
        name = (row.query or "").lower()
        return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return wanted


@command(DNS)
@option(
    "--name",
    metavar="GLOB",
    multiple=True,
    callback=_names,
    help="Names like this: '*.example.org'; repeatable.",
)
@option(
    "--type",
    "types",
    metavar="TYPES",
    multiple=True,
    callback=_types,
    help="Record types that were asked for: A,AAAA.",
)
@option(
    "--failed",
    is_flag=True,
    help="What failed: NXDOMAIN and the like, no answer in time, not sent, malformed messages.",
)
@option(
    "--timeout",
    metavar="TIME",
    default="5s",
    callback=parse_seconds,
    help="Show a question as timeout when no answer came in this time. Default: 5s.",
)
def dns(
    trace: Trace,
    *,
    name: tuple[str, ...],
    types: frozenset[str],
    failed: bool,
    timeout: float,
) -> Iterable[Query]:
    """Trace DNS questions and answers of this host's processes.

    A row is shown when the answer has been received, when it did not come in time, or when the
    question could not be sent. RCODE ends in /truncated when the server says that the answer was
    cut off, in /tcp when it came over TCP, in /tcp-retry when that was because of a truncated one,
    and in /sent when the process sent an answer, as responders of multicast DNS do.

    \b
    Examples:
      tcptrace dns                         all
      tcptrace dns --failed                what failed or was not answered
      tcptrace dns --name '*.example.org'  about these names
      tcptrace dns --type AAAA -p 181      one process, IPv6 addresses
      tcptrace dns -P 53,5353 --json       multicast DNS as well, for a program
    """  # noqa: D301 - click's own mark for lines that stay as they are
    return filter(_filter(name, types, failed=failed), _rows(trace, timeout))


def _rows(trace: Trace, timeout_s: float) -> Iterator[Query]:
    from tcptrace.probes.dns.transactions import Transactions  # noqa: PLC0415 - for this command alone

    exchanges = Transactions(int(timeout_s * 1e9))
    for batch in trace.batches:
        yield from exchanges.rows(batch.events)
        exchanges.note_lost(trace.lost, batch.until_ns)
        yield from exchanges.timed_out(batch.until_ns)
        trace.give_up(exchanges.given_up)
