"""Debian's kernels, downloaded as packages and unpacked into a cache; nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Where each series is found, and whether its headers are wanted, for bcc's own tools.
SUITES = {
    "5.10": ("bullseye", "bullseye-security"),
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("bookworm-backports", "bookworm-security"),
    "7.2": ("sid",),
}
WITH_HEADERS = {"6.1"}
# This suite moves on to newer series: the newest kernel there will do.
MOVING_SUITE = "sid"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class VmError(Exception):
    """The machine could not be prepared, or ended before its command did."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel."""

    root: Path
    """Where its packages are unpacked."""
    image: Path
    """What is booted."""
    release: str
    """What uname(1) tells."""
    architecture: str = ""
    """Debian's name of the machine that it is for, if not this host's."""

    @classmethod
    def find(cls, root: Path, architecture: str = "") -> Kernel | None:
        """Return the kernel unpacked below a directory, if there is one.

        The image is in /boot, or beside its modules (Debian's 7.x kernels).
        """
        for modules in module_directories(root):
            for image in (root / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz"):
                if image.exists():
                    return cls(root, image, modules.name, architecture)
        return None

    @property
    def modules(self) -> Path:
        """The directory of its modules."""
        return next(
            directory
            for directory in module_directories(self.root)
            if directory.name == self.release
        )

    @property
    def headers(self) -> list[Path]:
        """The directories of its headers, if they were fetched; they belong in /usr/src."""
        return sorted(self.root.glob("usr/src/linux-headers-*"))


def module_directories(root: Path) -> list[Path]:
    """Return the module directories of an unpacked kernel, one per release."""
    return [*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*")]


def cache_directory(kind: str = "kernels") -> Path:
    """Return the directory that keeps the kernels, or something else for machines."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tcptrace" / kind


def output_of(*command: str, cwd: Path | None = None) -> str:
    """Run a program and return its output. Raises VmError."""
    try:
        done = subprocess.run(command, cwd=cwd, check=True, text=True, capture_output=True)
    except FileNotFoundError:
        raise VmError(f"{command[0]} is missing; run ./setup.sh test") from None
    except subprocess.CalledProcessError as error:
        raise VmError(f"{command[0]} failed: {error.stderr.strip()}") from None
    return done.stdout


class Archive:
    """Debian's archive, read through an apt of its own beside the host's.

    Mirrors, proxies and keys are the host's, the suites are ours. apt checks signatures and
    checksums. The host's package lists are left alone.
    """

    def __init__(self, state: Path, suites: Iterable[str], architecture: str = "amd64") -> None:
        """Fetch the package lists of some suites into a directory."""
        self._state = state
        self._architecture = architecture
        for name in ("lists/partial", "archives/partial"):
            (state / name).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text("".join(source_lines(suites)))
        self._apt("apt-get", "update")

    def names(self) -> list[str]:
        """Return the names of the kernel packages."""
        return self._apt("apt-cache", "pkgnames", "linux-image-").split()

    def depends(self, package: str) -> list[str]:
        """Return the names of the packages that one depends on."""
        text = self._apt("apt-cache", "depends", "--important", package)
        return re.findall(r"Depends: ([^<\s]+)", text)

    def download(self, packages: Iterable[str]) -> list[Path]:
        """Download packages and return their files."""
        self._apt("apt-get", "download", *packages)
        return sorted(self._state.glob("*.deb"))

    def download_all(self, packages: Iterable[str]) -> list[Path]:
        """Download packages and those that they depend on, and return their files."""
        self._apt(
            "apt-get", "--yes", "--no-install-recommends", "--download-only", "install", *packages
        )
        return sorted(self._state.glob("archives/*.deb"))

    def _apt(self, program: str, *arguments: str) -> str:
        settings = {
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Sandbox::User": "root",  # _apt may not read our directory
            "Acquire::Check-Valid-Until": "false",  # bullseye is not signed anew
            "Acquire::Languages": "none",
            "Dir::Cache": str(self._state),
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": str(self._state / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(self._state),
            "Dir::State::status": str(self._state / "status"),
        }
        options = [f"--option={name}={value}" for name, value in settings.items()]
        return output_of(program, *options, *arguments, cwd=self._state)


def source_lines(suites: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a sources.list, with the mirrors that the host uses."""
    mirror, security_mirror = host_mirrors()
    for suite in suites:
        url = security_mirror if suite.endswith("-security") else mirror
        yield f"deb [signed-by={KEYRING}] {url} {suite} main\n"


def host_mirrors() -> tuple[str, str]:
    """Return the URLs of the host's Debian mirror and its security mirror. Raises VmError."""
    form = "$(COMPONENT) $(RELEASE) $(REPO_URI)"
    mirrors: dict[bool, str] = {}
    for line in output_of("apt-get", "indextargets", "--format", form).splitlines():
        component, release, url = line.split(maxsplit=2)
        if component == "main" and "debian" in url:
            mirrors.setdefault(release.endswith("-security"), url.rstrip("/"))
    if False not in mirrors:
        raise VmError("apt knows no Debian mirror; add one, see sources.list(5)")
    return mirrors[False], mirrors.get(True, f"{mirrors[False]}-security")


def newest_image(names: Iterable[str], series: str = "") -> str | None:
    """Return the name of the newest kernel image package of a series, or of all."""
    prefix = re.escape(series) + r"\." if series else ""
    pattern = re.compile(rf"linux-image-{prefix}\d\S*(?<!-rt)(?<!-cloud)-amd64")
    images = [name for name in names if pattern.fullmatch(name)]
    return max(images, key=numbers_in, default=None)


def numbers_in(name: str) -> list[int]:
    """Return the numbers in a name: those of later versions are greater."""
    return [int(part) for part in re.findall(r"\d+", name)]


def choose_image(names: Iterable[str], series: str) -> str:
    """Return the image package for a series; in a suite that moves on, the newest one.

    Raises VmError.
    """
    names = list(names)
    image = newest_image(names, series)
    if not image and MOVING_SUITE in SUITES[series]:
        image = newest_image(names)
    if not image:
        raise VmError(f"the archive has no kernel {series}; choose another series")
    return image


def packages_of(archive: Archive, image: str, *, headers: bool) -> list[str]:
    """Return an image package with those that hold the rest of its kernel.

    Debian's 7.x kernels are split into image, binary, modules and base.
    """
    release = image.removeprefix("linux-image-")
    packages = [image, *(name for name in archive.depends(image) if name.endswith(f"-{release}"))]
    if headers:
        package = f"linux-headers-{release}"
        parts = ("linux-headers-", "linux-kbuild-")
        packages += [package, *(n for n in archive.depends(package) if n.startswith(parts))]
    return packages


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpack packages without their install scripts, and index the modules."""
    for package in packages:
        output_of("dpkg-deb", "--extract", str(package), str(root))
    for modules in module_directories(root):
        if (modules / "kernel").is_dir():
            output_of("depmod", "--basedir", str(modules.parents[2]), modules.name)


def cached(series: str) -> Kernel | None:
    """Return the kernel of a series if it is in the cache, with all that is wanted of it."""
    kernel = Kernel.find(cache_directory() / series)
    if kernel and series in WITH_HEADERS and not kernel.headers:
        return None
    return kernel


def fetch(series: str) -> Kernel:
    """Return the kernel of a series, downloaded if it is not in the cache. Raises VmError."""
    if kernel := cached(series):
        return kernel
    cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_directory()) as name:
        work = Path(name)
        archive = Archive(work, SUITES[series])
        image = choose_image(archive.names(), series)
        packages = packages_of(archive, image, headers=series in WITH_HEADERS)
        unpack(archive.download(packages), work / "root")
        shutil.rmtree(cache_directory() / series, ignore_errors=True)
        (work / "root").rename(cache_directory() / series)
    if kernel := cached(series):
        return kernel
    raise VmError(f"no kernel {series} in the packages {', '.join(packages)}")
