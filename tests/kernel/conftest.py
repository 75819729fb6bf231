"""The surroundings of the kernel tests: root, a network namespace of their own, mounts."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kernel.backends import need_backend
from tests.kernel.connections import OURS, THEIR_MAC, THEIRS, Older, Run
from tests.kernel.harness import eventually, limit
from tests.kernel.tracers import Tracer, ended_well
from tests.kernel.traffic import cgroup2_mount, ip, raise_loopback

from tcptrace.kernel.netns import NAMED, enter
from tcptrace.kernel.syscalls import CLONE_NEWNET, setns
from tcptrace.probes.probe import BACKENDS, Backend

TIMEOUT_S = 120
MOST_S = 600
"""More than a slow machine needs, and so little that a test that hangs there is told, and another
time, before the machine itself is given up: TIMEOUT_S in tests/vm/run.py."""


@pytest.hookimpl(trylast=True)  # pytest sorts by parameters first
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow machines more time; say what tests are about; judge the fields seen at the end."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(min(limit(TIMEOUT_S), MOST_S)))
            item.user_properties += subject(item)
    items.sort(key=lambda item: item.path.name == "test_fields.py")


def subject(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Yield which command and backend a test is about, for tests/vm/results.py."""
    marker = item.get_closest_marker("command")
    if marker and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        for backend in set(BACKENDS).intersection(map(str, item.callspec.params.values())):
            yield "command", marker.args[0]
            yield "backend", backend


@pytest.fixture(scope="session", autouse=True)
def _release(record_testsuite_property: Callable[[str, object], None]) -> None:
    """The kernel's release, for tests/vm/results.py."""
    record_testsuite_property("kernel", os.uname().release)


@pytest.fixture(scope="session", autouse=True)
def _kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store of programs of this session's own, or the one that is given.

    Tracers start from what others have compiled; tests about compiling give ``--no-cache``.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "CACHE_DIRECTORY" not in os.environ:
            patch.setenv("CACHE_DIRECTORY", str(tmp_path_factory.mktemp("programs")))
        yield


@pytest.fixture(scope="session")
def whole_run(request: pytest.FixtureRequest) -> bool:
    """Whether all files of this directory run, and all that is in them."""
    here = Path(__file__).parent
    files = {item.path for item in request.session.items}
    unrestricted = not request.config.option.keyword and all(
        "::" not in argument for argument in request.config.args
    )
    return unrestricted and set(here.glob("test_*.py")) <= files


@pytest.fixture(scope="session", autouse=True)
def netns() -> Iterator[str]:
    """A network namespace that the test process is in; its name under /run/netns."""
    if os.geteuid() != 0:
        pytest.fail("tests/kernel loads BPF programs: run it as root")
    name = f"tcptrace-test-{os.getpid()}"
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    ip(f"netns add {name}")
    try:
        enter(NAMED / name)
        raise_loopback()
        yield name
    finally:
        setns(before, CLONE_NEWNET)
        os.close(before)
        ip(f"netns delete {name}")


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that this kernel has; the others are skipped by name, or fail if required."""
    name: Backend = request.param
    need_backend(name)
    return name


@contextlib.contextmanager
def mounted(kind: str, place: Path) -> Iterator[Path]:
    """Mount a file system of this kind, for as long as it is wanted."""
    subprocess.run(["mount", "-t", kind, "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpf file system in a private directory, to pin maps in."""
    with mounted("bpf", tmp_path_factory.mktemp("bpffs")) as place:
        yield place


def is_removed(cgroup: Path) -> bool:
    """Remove a cgroup, unless there is a process in it, as a killed one for a moment."""
    try:
        cgroup.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@pytest.fixture
def cgroup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new cgroup v2 directory; it and what is below it must be empty of processes at the end."""
    with contextlib.ExitStack() as stack:
        mount = cgroup2_mount() or stack.enter_context(
            mounted("cgroup2", tmp_path_factory.mktemp("cgroup2"))
        )
        place = mount / f"tcptrace-test-{os.getpid()}"
        place.mkdir()
        try:
            yield place
        finally:
            for child in (*filter(Path.is_dir, place.iterdir()), place):
                eventually(functools.partial(is_removed, child), f"no process in {child}")


@pytest.fixture(scope="module")
def run(backend: Backend, netns: str) -> Iterator[Run]:
    """Start a tracer when some connections are there already."""
    older = Older()
    with Tracer("--json", "--backend", backend, "-N", netns, command="tracer") as running:
        yield Run(running, older)
        if not older.ended:  # its test was not selected
            older.end()
        ended_well(running)


@pytest.fixture
def other_host() -> Iterator[str]:
    """A network namespace behind a link, where `THEIRS` is; its name."""
    name = f"tcptrace-peer-{os.getpid()}"
    ip(f"netns add {name}")
    ip(f"link add tr0 type veth peer name tr1 address {THEIR_MAC} netns {name}")
    ip(f"address add {OURS}/24 dev tr0")
    ip(f"-n {name} address add {THEIRS}/24 dev tr1")
    ip("link set tr0 up")
    ip(f"-n {name} link set tr1 up")
    ip(f"-n {name} link set lo up")
    yield name
    ip("link delete tr0")
    ip(f"netns delete {name}")
