"""Recordings in object storage, with a server of S3 on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs
from tests.unit.conftest import Run
from tests.unit.fleet import Fleet, Host
from tests.unit.test_recordings import recorded  # noqa: F401 - a fixture

from tcptrace.sinks import bucket

SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
while not server.get_host_and_port()[1]:  # its thread has not got that far
    time.sleep(0.01)
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
URL = "s3://records/fleet/"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of a server without any bucket; its program ends with its standard input."""
    with subprocess.Popen(
        (sys.executable, "-c", SERVER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()


@pytest.fixture(autouse=True)
def storage(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fs.S3FileSystem:
    """The server, as the environment names it; files wait in a directory of this test."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return fs.S3FileSystem(
        endpoint_override=endpoint, allow_bucket_creation=True, allow_bucket_deletion=True
    )


def spooled(tmp_path: Path) -> list[Path]:
    """Return the files that wait."""
    return [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


def test_a_bucket_is_kept_and_read(
    run: Run,
    storage: fs.S3FileSystem,
    recorded: Path,  # noqa: F811 - a fixture
) -> None:
    """What has ended is there, below its day and host, and nothing waits any more."""
    storage.create_dir("records")
    done = run("accept", "-r", "x.jsonl", "--failed", "-w", URL)
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert "files that wait" not in done.stderr
    assert [] == spooled(recorded.parent)
    infos = storage.get_file_info(fs.FileSelector("records", recursive=True))
    (name,) = (info.path for info in infos if info.is_file)
    assert name.startswith("records/fleet/date=2026-09-21/host=host/accept-")
    expected = run("accept", "-r", "x.jsonl", "--json", "--failed").stdout.splitlines()
    actual = run("accept", "-r", URL, "--json", "--failed").stdout.splitlines()
    assert sorted(expected) == sorted(actual)
    assert 10 == len(actual)
    done = run("accept", "-r", URL, "--until", "2026-01-01")
    assert (1, True) == (done.returncode, "no recording" in done.stderr)
    storage.delete_dir("records")


def test_files_wait_until_there_is_storage(
    run: Run,
    storage: fs.S3FileSystem,
    recorded: Path,  # noqa: F811 - a fixture
) -> None:
    """Where it cannot be written to, that is said; the next run carries what has waited."""
    done = run("accept", "-r", "x.jsonl", "--failed", "-w", URL)
    assert 0 == done.returncode
    assert f"cannot write to {URL}" in done.stderr
    assert "files that wait in" in done.stderr
    assert 1 == len(spooled(recorded.parent))
    done = run("accept", "-r", URL)
    assert (1, True) == (done.returncode, f"cannot read {URL}" in done.stderr)
    storage.create_dir("records")
    run("accept", "-r", "x.jsonl", "-w", URL)
    assert [] == spooled(recorded.parent)
    assert 9 + 9 == len(run("accept", "-r", URL, "--json").stdout.splitlines())
    storage.delete_dir("records")


def test_each_bucket_has_a_place_of_its_own(tmp_path: Path) -> None:
    """What waits for one goes to no other."""
    places = {bucket.spool_for(url) for url in (URL, "s3://records/other/", f"{URL}?region=x")}
    assert 3 == len(places)
    assert {tmp_path / "state/spool"} == {place.parent for place in places}


def test_a_fleet_in_a_bucket_is_joined(run: Run, storage: fs.S3FileSystem, tmp_path: Path) -> None:
    """The map is that of the same files in a directory; other days are not even fetched."""
    fleet, web, db = Fleet(tmp_path / "fleet"), Host("we b", "10.0.0.1"), Host("db", "10.0.0.2")
    fleet.connect(web, db, 5432)
    place = fleet.keep(web, db)
    (place / "date=2026-11-30" / "host=we b").rename(place / "date=2026-11-30" / "host=we%20b")
    storage.create_dir("records")
    fs.copy_files(str(place), "records/fleet", destination_filesystem=storage)
    with storage.open_output_stream("records/fleet/date=2026-11-20/host=db/tracer.parquet") as old:
        old.write(b"no Parquet")
    done = run("map", "--json", "--since", "2026-11-29", URL)
    assert 0 == done.returncode, done.stderr
    (edge,) = map(json.loads, done.stdout.splitlines())
    assert ("we b", "db", 5432) == (edge["client_host"], edge["server_host"], edge["port"])
    assert "left out" not in done.stderr
    done = run("map", "--json", f"{URL}date=2026-11-30/host=db/tracer-0.parquet")
    assert ["unmonitored"] == [json.loads(line)["client_kind"] for line in done.stdout.splitlines()]
    done = run("map", "--since", "2027-01-01", URL)
    assert (1, True) == (done.returncode, f"no recordings in {URL}, or none of" in done.stderr)
    storage.delete_dir("records")
    done = run("map", URL)
    assert (1, True) == (done.returncode, f"cannot read {URL}" in done.stderr)


def test_fleets_in_buckets_are_compared(run: Run, storage: fs.S3FileSystem, tmp_path: Path) -> None:
    """A bucket can be BASE, and NEW, and be kept as a baseline; what cannot be read is said."""
    fleet, web = Fleet(tmp_path / "fleet"), Host("web", "10.0.0.1")
    fleet.connect(web, None, 443, address="198.51.100.1")
    storage.create_dir("records")
    fs.copy_files(str(fleet.keep(web)), "records/base", destination_filesystem=storage)
    fleet.connect(web, None, 80, address="198.51.100.1")
    fs.copy_files(str(fleet.keep(web)), "records/fleet", destination_filesystem=storage)
    done = run("diff", "--fail", "--json", "s3://records/base/", URL)
    (found,) = map(json.loads, done.stdout.splitlines())
    assert (3, "new", 80) == (done.returncode, found["change"], found["port"])
    assert 0 == run("diff", "--save", "kept", "s3://records/base/").returncode
    with storage.open_output_stream("records/fleet/date=2026-11-30/host=db/tracer.parquet") as bad:
        bad.write(b"no Parquet")
    done = run("diff", "--fail", "kept", URL)
    assert (3, True) == (done.returncode, "left out: " in done.stderr)
    storage.delete_dir("records")
