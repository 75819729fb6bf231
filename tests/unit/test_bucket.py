"""Recordings in object storage, with a server of S3 on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs
from tests.unit.conftest import Run
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
