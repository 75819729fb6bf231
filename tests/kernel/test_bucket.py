"""What a tracer keeps in object storage, after it has given up its rights."""

from __future__ import annotations

import pytest
from pyarrow import fs
from tests.kernel.harness import take_port
from tests.kernel.tracers import Tracer, run_tcptrace
from tests.kernel.traffic import accept_once
from tests.unit.test_bucket import URL, endpoint, storage  # noqa: F401 - fixtures

pytestmark = pytest.mark.anywhere


def test_what_is_kept_is_in_storage_at_the_end(
    storage: fs.S3FileSystem,  # noqa: F811 - a fixture
) -> None:
    """It is carried by a program that was started before."""
    storage.create_dir("records")
    port = take_port()
    with Tracer("-P", str(port), "-w", URL, "--print", "--json") as tracer:
        accept_once(port=port)
        tracer.wait_for(1)
        live = tracer.stop()
    assert [] == live.complaints
    again = run_tcptrace("accept", "--json", "-r", URL)
    assert (0, live.stdout) == (again.status, again.stdout)
