"""Spark, the engine of a cluster, which reads the same directories with the same SQL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from tcptrace.errors import TcptraceError
from tcptrace.map.engine import Files
from tcptrace.map.place import Place, before_removal

GLOB = re.compile(r"[][{}*?\\]")
"""What would stand for several files in a path."""
PATIENCE_S = 10
"""So long Java has to remove what is its own."""
TABLE = re.compile(r"\bCREATE TABLE (\w+) AS\b")
SETTINGS = {
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # the times of recordings
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",  # hosts are names
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # Snappy's native library does not load where musl is beside glibc.
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}


class Spark:
    """An engine of a run; what is kept between statements is in a directory that goes with it."""

    name = "spark"
    time_ns = "CAST(time AS BIGINT)"

    def __init__(self, master: str, memory: int, place: str | None = None) -> None:
        """Connect to a cluster, or start one of this machine with so many bytes of memory."""
        self._place = Place(place)
        before_removal.append(end_java)
        builder = SparkSession.builder.master(master).appName("tcptrace map")
        settings = {
            **SETTINGS,
            "spark.driver.memory": f"{memory >> 20}m",
            "spark.local.dir": str(Path(self._place.name, "spilled")),
            "spark.sql.warehouse.dir": str(Path(self._place.name, "tables")),
        }
        if master.startswith("local"):  # the usual 200 are for clusters
            settings["spark.sql.shuffle.partitions"] = str(4 * (os.cpu_count() or 1))
        for key, value in settings.items():
            builder = builder.config(key, value)
        handler, tempfile.tempdir = signal.getsignal(signal.SIGINT), self._place.name
        try:
            self._session = builder.getOrCreate()
        except (PySparkException, Py4JError, OSError) as error:
            self._clean()
            raise _failed(error) from error
        finally:
            tempfile.tempdir = None
            signal.signal(signal.SIGINT, handler)  # pyspark has set its own

    def scan(self, table: Files, view: str) -> Collection[str]:
        """Make a view of files; return the names of its columns."""
        reader = self._session.read.option("recursiveFileLookup", "true")  # no columns of paths
        paths = (GLOB.sub(r"\\\g<0>", path) for path in table.paths)
        frame = reader.parquet(*paths).selectExpr("*", "_metadata.file_path AS filename")
        frame.createOrReplaceTempView(view)
        return [*frame.columns]

    def in_filename(self, part: str) -> str:
        """Return a part of a path as it stands in the column `filename`, which is a URI."""
        return quote(part, safe="=!$&'()*+,;:@")

    def text(self, value: str) -> str:
        """Return a text as it stands in a query."""
        return f"decode(unhex('{value.encode().hex()}'), 'UTF-8')"

    def hashed(self, *expressions: str) -> str:
        """Return the expression of a 64-bit hash of others."""
        known = (f"COALESCE(CAST({each} AS STRING), '')" for each in expressions)
        return f"xxhash64({', '.join(known)})"

    def run(self, statement: str) -> None:
        """Run a statement. Raises TcptraceError."""
        self.rows(TABLE.sub(r"CREATE TABLE \1 USING parquet AS", statement))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query selects. Raises TcptraceError."""
        try:
            return [tuple(row) for row in self._session.sql(query).collect()]
        except (PySparkException, Py4JError) as error:
            raise _failed(error) from error

    def close(self) -> None:
        """Let go of all that was made."""
        self._session.stop()
        self._clean()

    def _clean(self) -> None:
        """Remove what was on disk, when nothing can write there again."""
        end_java()
        before_removal.remove(end_java)
        self._place.cleanup()


def end_java() -> None:
    """End the program in Java that does the work; the next engine starts its own.

    Otherwise it lives as long as this process, and makes its directories again.
    """
    gateway = SparkContext._gateway  # noqa: SLF001 - there is no other way to it
    process: subprocess.Popen[bytes] | None = gateway and gateway.proc
    if process is None:
        return
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # it stands still within the kernel
            process.wait(PATIENCE_S)
    SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001 - as above


def _failed(error: Exception) -> TcptraceError:
    first = str(error).strip().partition("\n")[0]
    return TcptraceError(f"Spark could not make the map: {first}", details=str(error))
