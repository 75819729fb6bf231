"""Baselines from recordings, and in files of their own, which need nothing but Python to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tcptrace.diff.baseline import Attempt, Baseline, Counts, network_of
from tcptrace.errors import TcptraceError

KIND = "baseline"
VERSION = 1
ESTABLISHED = "established"
COLUMNS = ("type", "comm", "query", "raddr", "rport", "outcome", "error")
WITHOUT_PYARROW = (
    "Parquet needs pyarrow, which is not installed.\nInstall it: pip install 'tcptrace[record]'"
)


def read_baseline(paths: Iterable[Path]) -> Baseline:
    """Return what recordings, directories of recordings, or files of baselines tell.

    Raises:
        TcptraceError: one cannot be read, or tells of no attempt.

    """
    baseline = Baseline()
    every = [*paths]
    for path in every:
        _read(path, baseline)
    if not baseline.counts:
        raise TcptraceError(
            f"there is no attempt to connect in {', '.join(map(str, every))}.\n"
            "They are recorded with: tcptrace tracer -d --failed -w FILE"
        )
    return baseline


def _read(path: Path, baseline: Baseline) -> None:
    if path.is_dir() or path.suffix == ".parquet":
        for attempt, counts in _of_parquet(path):
            baseline.add(attempt, counts)
        return
    try:
        with path.open("rb") as file:
            _read_lines(path, file, baseline)
    except OSError as error:
        raise TcptraceError(f"cannot read {path}: {error.strerror}") from None


def _read_lines(path: Path, lines: Iterable[bytes], baseline: Baseline) -> None:
    """Read JSON Lines: of a recording, or of a baseline."""
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            kind = values["type"]
            if kind == "connect":
                outcome = _outcome(values.get("outcome"), values.get("error"))
                ends = (values.get(key) for key in ("comm", "query", "raddr", "rport"))
                baseline.add(_attempt(*ends), Counts(1, int(outcome != ESTABLISHED)))
            elif kind == "edge":
                baseline.add(*_kept(values))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise TcptraceError(
                f"{path}, line {number}, is neither of a recording nor of a baseline"
            ) from None


def _outcome(outcome: str | None, error: str | None) -> str:
    return outcome or error or ESTABLISHED


def _attempt(
    program: str | None, name: str | None, address: str | None, port: int | None
) -> Attempt:
    return Attempt(program, name, network_of(address), port)


def _of_parquet(path: Path) -> Iterator[tuple[Attempt, Counts]]:
    """Yield the attempts of Parquet files, added up file by file."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise TcptraceError(WITHOUT_PYARROW) from None
    from tcptrace.map.find import in_directory, unreadable  # noqa: PLC0415 - needs pyarrow

    for file in in_directory(path) if path.is_dir() else [path]:
        try:
            with pq.ParquetFile(file) as parquet:
                yield from _of_file(parquet)
        except (OSError, pa.ArrowInvalid) as error:
            raise TcptraceError(unreadable(file, error)) from None


def _of_file(parquet: Any) -> Iterator[tuple[Attempt, Counts]]:
    names = [name for name in COLUMNS if name in parquet.schema_arrow.names]
    for number in range(parquet.num_row_groups):
        table = parquet.read_row_group(number, columns=names)
        grouped = table.group_by(names, use_threads=False).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            if row["type"] == "connect":
                failed = _outcome(row.get("outcome"), row.get("error")) != ESTABLISHED
                ends = (row.get(key) for key in ("comm", "query", "raddr", "rport"))
                count = row["count_all"]
                yield _attempt(*ends), Counts(count, count if failed else 0)


def _kept(values: dict[str, Any]) -> tuple[Attempt, Counts]:
    """Return what a line of a baseline tells."""
    attempt = Attempt(*(values.get(key) for key in Attempt._fields))
    return attempt, Counts(int(values["attempts"]), int(values["failed"]))


def baseline_lines(baseline: Baseline) -> Iterator[str]:
    """Yield the lines of a file that keeps a baseline."""
    yield json.dumps({"type": KIND, "version": VERSION}) + "\n"
    for attempt, counts in sorted(baseline.counts.items(), key=str):
        known = {key: value for key, value in attempt._asdict().items() if value is not None}
        yield json.dumps({"type": "edge", **known, **counts._asdict()}) + "\n"
