"""A root for emulated arm64 machines: Debian's packages for arm64, its kernel among them, unpacked.

None of their install scripts runs, as no program in it can run here. What they would have made, and
a machine needs, is made below. What pip would install there it installs from here.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

from tests.vm import roots
from tests.vm.kernels import Archive, Kernel, VmError, cache_directory, output_of, unpack

NAME = "arm64"
SUITE = "trixie"
QEMU = "qemu-system-aarch64"
# apt's name for all packages that any Debian system has.
PACKAGES = ("?essential", f"linux-image-{NAME}", *roots.PACKAGES)
PYTHON = Path("/usr/bin/python3")
SITE = Path("/opt/site")
# Of the project's requirements those that no test in a machine needs.
TOOLS = ("hatchling", "mkdocs", "mypy", "nox", "ruff", "types-", "virtme")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")


def fetch() -> tuple[Kernel, Path]:
    """Return the kernel and the root, with this work tree in it. Raises VmError."""
    if not shutil.which(QEMU):
        raise VmError(f"{QEMU} is missing; run sudo ./setup.sh test -s vm -- {NAME}")
    root = cache_directory("roots") / f"{NAME}-{zlib.crc32(' '.join(PACKAGES).encode()):08x}"
    if not root.exists():
        make(root)
    roots.copy_tree(root)
    install(root)
    if kernel := Kernel.find(root, NAME):
        return kernel, root
    raise VmError(f"no kernel in {root}; delete it, and run this again")


def make(root: Path) -> None:
    """Unpack the packages. Raises VmError."""
    if os.geteuid() != 0:
        raise VmError(f"only root can make a root for {NAME}; run this with sudo")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        work = Path(name) / "root"
        archive = Archive(Path(name) / "state", (SUITE,), NAME)
        packages = archive.download_all(PACKAGES)
        # This one has the links from /lib and the like to /usr, which the others go through.
        packages.sort(key=lambda package: not package.name.startswith("base-files_"))
        unpack(packages, work)
        configure(work)
        work.chmod(0o755)
        work.rename(root)


def configure(root: Path) -> None:
    """Make what the packages' scripts would have made."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    (root / "usr/bin/awk").symlink_to("mawk")
    # For virtme-ng's init; systemd's is in a package that brings an init of its own.
    (root / "usr/sbin/poweroff").symlink_to("../bin/busybox")
    (root / "usr/lib/python3/dist-packages/site.pth").write_text(f"{SITE}\n")


def install(root: Path) -> None:
    """Install the project and what its tests need, for the root's Python. Raises VmError."""
    version = roots.inside(root, PYTHON).readlink().name.removeprefix("python")
    site = roots.inside(root, SITE)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", f"--target={site}")
    target = (*(f"--platform={name}" for name in PLATFORMS), f"--python-version={version}")
    if not site.exists():
        needed = [each for each in roots.requirements() if not each.startswith(TOOLS)]
        try:
            output_of(*pip, *target, "--only-binary=:all:", *needed)
        except VmError:
            shutil.rmtree(site, ignore_errors=True)
            raise
    for old in site.glob("tcptrace*"):
        shutil.rmtree(old)
    output_of(*pip, "--no-deps", "--no-build-isolation", str(roots.ROOT))
