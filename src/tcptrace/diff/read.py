"""Baselines from recordings, and in files of their own, which need nothing but Python to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tcptrace.diff.baseline import Attempt, Baseline, Counts, network_of
from tcptrace.errors import TcptraceError, pip_install
from tcptrace.model.window import ALWAYS

KIND = "baseline"
VERSION = 1
ESTABLISHED = "established"
COLUMNS = ("type", "comm", "query", "raddr", "rport", "outcome", "error")
WITHOUT_PYARROW = (
    f"Parquet needs pyarrow, which is not installed.\nInstall it: {pip_install('pyarrow')}"
)


def read_baseline(
    paths: Iterable[Path | str], say: Callable[[str], None] = lambda _: None
) -> Baseline:
    """Return what recordings, directories or URLs of recordings, or files of baselines tell.

    Args:
        paths: of these.
        say: tells people which files of a directory could not be read.

    Raises:
        TcptraceError: one cannot be read, or tells of no attempt.

    """
    baseline = Baseline()
    every = [*paths]
    for path in every:
        if isinstance(path, str):
            _read_bucket(path, baseline, say)
        elif path.is_dir():
            _read_directory(path, baseline, say)
        else:
            _read(path, baseline)
    if not baseline.counts:
        raise TcptraceError(
            f"there is no attempt to connect in {', '.join(map(str, every))}.\n"
            "They are recorded with: tcptrace tracer -d --failed -w FILE"
        )
    return baseline


def _read_directory(root: Path, baseline: Baseline, say: Callable[[str], None]) -> None:
    """Read what can be read below a directory. Raises TcptraceError where there is nothing."""
    _require_pyarrow()
    from tcptrace.map.find import in_directory  # noqa: PLC0415 - needs pyarrow

    for path in in_directory(root):
        try:
            _read(path, baseline)
        except TcptraceError as error:
            say(f"left out: {error}")


def _read_bucket(url: str, baseline: Baseline, say: Callable[[str], None]) -> None:
    """The same below a URL."""
    _require_pyarrow()
    from tcptrace.map.fetch import names_in  # noqa: PLC0415 - needs pyarrow
    from tcptrace.sources.recording.bucket import Bucket  # noqa: PLC0415

    bucket = Bucket(url)
    for name in names_in(bucket, url, ALWAYS):
        with bucket.open(f"{bucket.root}/{name}") as file:
            try:
                _add(_of_parquet(Path(name), file), baseline)
            except TcptraceError as error:
                say(f"left out: {error}")


def _read(path: Path, baseline: Baseline) -> None:
    if path.suffix == ".parquet":
        _require_pyarrow()
        _add(_of_parquet(path, path), baseline)
        return
    try:
        with path.open("rb") as file:
            _read_lines(path, file, baseline)
    except OSError as error:
        raise TcptraceError(f"cannot read {path}: {error.strerror}") from None


def _add(found: Iterable[tuple[Attempt, Counts]], baseline: Baseline) -> None:
    for attempt, counts in found:
        baseline.add(attempt, counts)


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


def _require_pyarrow() -> None:
    """Raise TcptraceError where Parquet cannot be read."""
    if not find_spec("pyarrow"):
        raise TcptraceError(WITHOUT_PYARROW)


def _of_parquet(name: Path, file: Any) -> list[tuple[Attempt, Counts]]:
    """Return the attempts of a Parquet file, all of them or none. Raises TcptraceError."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, and slow
    import pyarrow.parquet as pq  # noqa: PLC0415

    from tcptrace.map.find import unreadable  # noqa: PLC0415 - needs pyarrow

    try:
        with pq.ParquetFile(file) as parquet:
            return [*_of_file(parquet)]
    except (OSError, pa.ArrowInvalid) as error:
        raise TcptraceError(unreadable(name, error)) from None


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
