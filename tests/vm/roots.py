"""The user space of another Debian release: a root for machines, made once by debootstrap.

It has that release's bcc and Python, and a virtual environment with the project. What pip installs
there is downloaded here, with this host's settings: neither the root nor a machine has a network.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

from tests.vm.kernels import KEYRING, Kernel, VmError, cache_directory, host_mirrors, output_of

# As setup.sh has them for `test`, without other tracers and QEMU.
PACKAGES = (
    *("bpftool", "busybox-static", "dnsmasq-base", "file", "gcc", "iproute2", "kmod"),
    *("musl-tools", "python3-bpfcc", "python3-venv"),
)
# systemd with users' managers, and what runs containers.
RUNTIMES = (
    *("containerd", "crun", "dbus-user-session", "docker-cli", "docker.io", "iptables"),
    *("libpam-systemd", "lxc", "podman", "runc", "systemd-container", "systemd-sysv"),
)
ROOT = Path(__file__).resolve().parents[2]
# Below /opt, which a machine puts an overlay on.
TREE, VENV, WHEELS = Path("/opt/tcptrace"), Path("/opt/venv"), Path("/opt/wheels")
PYTHON = VENV / "bin" / "python"
LINKS = {
    # virtme-ng starts this where systemd is to be the first process.
    Path("/usr/sbin/init"): TREE / "tests" / "vm" / "init",
    # Here it is found as it is where it was installed.
    Path("/usr/local/bin/tcptrace"): VENV / "bin" / "tcptrace",
}


def fetch(suite: str, kernel: Kernel, more: Sequence[str] = ()) -> Path:
    """Return the root of a Debian release, with this work tree and a kernel's modules in it.

    `more` are packages beside those of every root. Raises VmError.
    """
    packages = (*PACKAGES, *more)
    # A root of other packages is another root.
    root = cache_directory("roots") / f"{suite}-{zlib.crc32(' '.join(packages).encode()):08x}"
    if not root.exists():
        make(suite, root, more)
    modules = root / "usr" / "lib" / "modules" / kernel.release
    if not modules.exists():
        shutil.copytree(kernel.modules, modules, symlinks=True, copy_function=os.link)
    settings = inside(root, TREE) / "pyproject.toml"
    current = settings.exists() and filecmp.cmp(ROOT / settings.name, settings, shallow=False)
    copy_tree(root)
    if not current:
        try:
            install(root)
        except VmError:
            settings.unlink()
            raise
    in_root(root, str(PYTHON), "-m", "compileall", "-q", str(TREE))
    return root


def copy_tree(root: Path) -> None:
    """Copy this work tree into the root, but what begins with a dot: environments and caches."""
    tree = inside(root, TREE)
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__"))


def inside(root: Path, path: Path) -> Path:
    """Return where a path of the root is on this host."""
    return root / path.relative_to("/")


def in_root(root: Path, *command: str) -> str:
    """Run a program in the root and return its output. Raises VmError."""
    return output_of("chroot", str(root), *command)


def make(suite: str, root: Path, more: Sequence[str]) -> None:
    """Make a root from this host's Debian mirror, with more packages. Raises VmError."""
    if os.geteuid() != 0:
        raise VmError(f"only root can make a root of Debian {suite}; run this with sudo")
    root.parent.mkdir(parents=True, exist_ok=True)
    options = ("--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}")
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        work = Path(name) / suite
        output_of("debootstrap", *options, suite, str(work), host_mirrors()[0])
        if more:
            add(work, more)
        work.rename(root)


def add(root: Path, packages: Sequence[str]) -> None:
    """Install packages, which debootstrap cannot bring into an order. Raises VmError."""
    in_root(root, "apt-get", "update")
    options = ("--yes", "--no-install-recommends")
    in_root(
        root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", *options, *packages
    )


def requirements() -> list[str]:
    """Return what tcptrace and its tests need of PyPI."""
    parts = [requirement.partition(";") for requirement in requires("tcptrace") or ()]
    return [needed for needed, _, extra in parts if not extra or "dev" in extra]


def install(root: Path) -> None:
    """Make the virtual environment with the project and what its tests need. Raises VmError."""
    version = in_root(root, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    needed = [*requirements(), "editables"]  # hatchling's, for what is editable
    target = ("--only-binary=:all:", f"--python-version={version.strip()}")
    wheels = inside(root, WHEELS)
    shutil.rmtree(wheels, ignore_errors=True)
    output_of(sys.executable, "-m", "pip", "download", *target, f"--dest={wheels}", *needed)
    in_root(root, "python3", "-m", "venv", "--clear", "--system-site-packages", str(VENV))
    pip = (str(PYTHON), "-m", "pip", "install", "--no-index", f"--find-links={WHEELS}")
    in_root(root, *pip, *needed)
    in_root(root, *pip, "--no-build-isolation", "--no-deps", f"--editable={TREE}")
    for link, place in LINKS.items():
        inside(root, link).unlink(missing_ok=True)
        inside(root, link).symlink_to(place)
