"""Baselines from recordings, and in files of their own, which need nothing but Python to read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tcptrace.diff.baseline import Attempt, Baseline, Counts, network_of
from tcptrace.errors import TcptraceError, pip_install
from tcptrace.model.window import ALWAYS

KIND, META = "baseline", "meta"
"""What the first line is of a baseline, and of a recording."""
VERSION = 1
ESTABLISHED = "established"
COLUMNS = ("type", "comm", "query", "raddr", "rport", "outcome", "error")
WITHOUT_PYARROW = (
    f"Parquet needs pyarrow, which is not installed.\nInstall it: {pip_install('pyarrow')}"
)


def read_baseline(
    paths: Iterable[Path | str],
    say: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Baseline:
    """Return what recordings, directories or URLs of recordings, or files of baselines tell.

    Args:
        paths: of these.
        say: tells people which files of a directory could not be read.
        note: tells them that events were lost when it was recorded.

    Raises:
        TcptraceError: one cannot be read, or tells of no attempt.

    """
    reader, every = _Reader(say), [*paths]
    for path in every:
        reader.add(path)
    baseline = reader.baseline
    if reader.lost:
        names = ", ".join(map(str, every))
        note(f"events were lost when {names} was recorded ({reader.lost}): edges can be missing")
    if not baseline.counts:
        raise TcptraceError(
            f"there is no attempt to connect in {', '.join(map(str, every))}.\n"
            "They are recorded with: tcptrace tracer -d --failed -w FILE"
        )
    return baseline


class _Reader:
    """Reads one path after the other into a baseline, each file once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.baseline = Baseline()
        self.lost = 0
        """How many events may be missing in Parquet files."""
        self._say = say
        self._taken: set[str] = set()
        self._ends: set[bytes] = set()
        """Digests of what Parquet files end in: those of copies are the same."""

    def add(self, path: Path | str) -> None:
        """Take a path, or a URL. Raises TcptraceError."""
        if isinstance(path, str):
            self._add_bucket(path)
        elif path.is_dir():
            self._add_directory(path)
        else:
            self._add_file(path)

    def _leave_out(self, _path: Path, error: TcptraceError) -> None:
        self._say(f"left out: {error}")

    def _add_directory(self, root: Path) -> None:
        """Take what can be read below a directory. Raises TcptraceError where there is nothing."""
        _require_pyarrow()
        from tcptrace.map.directory import in_directory  # noqa: PLC0415 - needs pyarrow

        for path in in_directory(root, self._leave_out):
            try:
                self._add_file(path)
            except TcptraceError as error:
                self._leave_out(path, error)

    def _add_bucket(self, url: str) -> None:
        """The same below a URL."""
        _require_pyarrow()
        from tcptrace.map.fetch import names_in  # noqa: PLC0415 - needs pyarrow
        from tcptrace.sources.recording.bucket import Bucket  # noqa: PLC0415

        bucket = Bucket(url)
        for name in names_in(bucket, url, ALWAYS):
            with bucket.open(f"{bucket.root}/{name}") as file:
                try:
                    self._add_parquet(Path(name), file)
                except TcptraceError as error:
                    self._leave_out(Path(name), error)

    def _add_file(self, path: Path) -> None:
        real = os.path.realpath(path)
        if real in self._taken:
            return
        self._taken.add(real)
        if path.suffix == ".parquet":
            _require_pyarrow()
            self._add_parquet(path)
            return
        try:
            with path.open("rb") as file:
                self._take(_of_lines(path, file).items())
        except OSError as error:
            raise TcptraceError(f"cannot read {path}: {error.strerror}") from None

    def _add_parquet(self, name: Path, file: Any = None) -> None:
        """Take the attempts of a Parquet file, all of them or none; `file` is one elsewhere.

        No file of Python's is given to pyarrow, and of a local one no thread reads ahead: it would
        let go of that when Python ends, and end the process with a signal.

        Raises:
            TcptraceError: it cannot be read.

        """
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow
        import pyarrow.parquet as pq  # noqa: PLC0415

        from tcptrace.map.ends import digest_of, look, unreadable  # noqa: PLC0415 - needs pyarrow
        from tcptrace.model.ends import refuse_pipe  # noqa: PLC0415

        if file is None:
            refuse_pipe(str(name))
        try:
            with file or pa.memory_map(os.fsencode(name)) as opened:
                parquet = pq.ParquetFile(opened, pre_buffer=file is not None)
                kept, _ = look(name, parquet.metadata)
                end = digest_of(parquet.metadata)
                if end in self._ends:
                    return
                found = [*_of_file(parquet)]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise TcptraceError(unreadable(name, error)) from None
        self._ends.add(end)
        self.lost += kept.losses.total
        self._take(found)

    def _take(self, found: Iterable[tuple[Attempt, Counts]]) -> None:
        for attempt, counts in found:
            self.baseline.add(attempt, counts)


def _of_lines(path: Path, lines: Iterable[bytes]) -> dict[Attempt, Counts]:
    """Return the attempts of JSON Lines, of a recording or a baseline. Raises TcptraceError."""
    baseline, first = Baseline(), ""
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            kind = values["type"]
            first = first or kind
            if kind == "connect":
                outcome = _outcome(values.get("outcome"), values.get("error"))
                ends = (values.get(key) for key in ("comm", "query", "raddr", "rport"))
                baseline.add(_checked(_attempt(*ends)), Counts(1, int(outcome != ESTABLISHED)))
            elif kind == KIND:
                _check_version(path, values)
            elif kind == "edge":
                baseline.add(*_kept(values))
        except (ValueError, KeyError, TypeError, RecursionError):
            if first == META and not line.endswith(b"\n"):  # its writer was killed
                break
            raise TcptraceError(
                f"{path}, line {number}, is neither of a recording nor of a baseline"
            ) from None
    return baseline.counts


def _check_version(path: Path, values: dict[str, Any]) -> None:
    """Raise TcptraceError for the baseline of a newer tcptrace."""
    version = values["version"]
    if version > VERSION:
        raise TcptraceError(
            f"{path} has version {version}, of a newer tcptrace; this one knows {VERSION}"
        )


def _checked(attempt: Attempt) -> Attempt:
    """Return an attempt. Raises ValueError where something in it is not what it has to be."""
    *texts, port = attempt
    are_texts = all(text is None or isinstance(text, str) for text in texts)
    if not are_texts or not (port is None or isinstance(port, int)):
        raise ValueError(attempt)
    return attempt


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


def _of_file(parquet: Any) -> Iterator[tuple[Attempt, Counts]]:
    names = [name for name in COLUMNS if name in parquet.schema_arrow.names]
    for number in range(parquet.num_row_groups):
        table = parquet.read_row_group(number, columns=names, use_threads=False)
        grouped = table.group_by(names, use_threads=False).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            if row["type"] == "connect":
                failed = _outcome(row.get("outcome"), row.get("error")) != ESTABLISHED
                ends = (row.get(key) for key in ("comm", "query", "raddr", "rport"))
                count = row["count_all"]
                yield _attempt(*ends), Counts(count, count if failed else 0)


def _kept(values: dict[str, Any]) -> tuple[Attempt, Counts]:
    """Return what a line of a baseline tells. Raises ValueError."""
    attempt = _checked(Attempt(*(values.get(key) for key in Attempt._fields)))
    counts = Counts(values["attempts"], values["failed"])
    if "client_kind" in values:  # of a map
        raise ValueError(values)
    if not all(isinstance(count, int) for count in counts) or not 0 <= counts[1] <= counts[0]:
        raise ValueError(counts)
    return attempt, counts


def baseline_lines(baseline: Baseline) -> Iterator[str]:
    """Yield the lines of a file that keeps a baseline."""
    yield json.dumps({"type": KIND, "version": VERSION}) + "\n"
    for attempt, counts in sorted(baseline.counts.items(), key=str):
        known = {key: value for key, value in attempt._asdict().items() if value is not None}
        yield json.dumps({"type": "edge", **known, **counts._asdict()}) + "\n"
