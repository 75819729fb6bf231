"""Build a Debian package: `make_deb.py DIRECTORY`, the directory for the .deb.

Debian has a package and a program `tcptrace`, which analyse captures. Ours are called tcptrace-bpf,
so that both can be installed. The libraries that Debian 12 has too old are inside, below
/usr/lib/tcptrace-bpf, where no other program sees them; bcc is Debian's. The same sources give the
same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import make_man

import tcptrace
from tcptrace.cli import cli
from tcptrace.commands.completion import script

ROOT = Path(__file__).resolve().parent.parent
NAME = "tcptrace-bpf"
LIBRARY = Path("usr/lib") / NAME
_LAUNCHER = (ROOT / "bin" / "tcptrace").read_text(encoding="utf-8")
# How Ctrl-C ends the program while the rest is imported.
_BEGINNING = _LAUNCHER[_LAUNCHER.index("import _signal") : _LAUNCHER.index("import site")]
PROGRAM = f"""\
#!/usr/bin/python3 -I
{_BEGINNING}sys.path.insert(0, "/{LIBRARY}")
from tcptrace.__main__ import main

main()
"""
CONTROL = f"""\
Package: {NAME}
Version: {tcptrace.__version__}
Architecture: all
Maintainer: tcptrace maintainers <root@localhost>
Section: net
Priority: optional
Depends: python3 (>= 3.11), python3-bpfcc
Description: who connects to whom on this host, right now
 tcptrace-bpf traces TCP connections and DNS questions with their process,
 user and container, by small BPF programs that filter in the kernel.
 .
 It is not the program in the package tcptrace, which analyses captures.
"""
SYSTEMD = "[ ! -d /run/systemd/system ] || systemctl"
PAGE = f"usr/share/man/man{make_man.SECTION}/{{}}.{make_man.SECTION}.gz"
# The program's own name, unless a file of another package has it: links give way to files.
SHORT = "tcptrace"
SCRIPTS = {
    "postinst": f"""\
py3compile -p {NAME} /{LIBRARY}
if [ ! -e /usr/bin/{SHORT} ] || [ -L /usr/bin/{SHORT} ]; then
    update-alternatives --quiet --install /usr/bin/{SHORT} {SHORT} /usr/bin/{NAME} 50 \\
        --slave /{PAGE.format(SHORT)} {SHORT}.{make_man.SECTION}.gz /{PAGE.format(NAME)}
fi
{SYSTEMD} daemon-reload""",
    "prerm": f"""\
py3clean -p {NAME}
if [ "$1" = remove ]; then
    update-alternatives --quiet --remove {SHORT} /usr/bin/{NAME}
    {SYSTEMD} stop 'tcptrace-record@*.service'
    rm -f /etc/systemd/system/*.wants/tcptrace-record@*.service
    rm -rf /var/cache/tcptrace
fi""",
    # Recordings are the user's: they go with a purge alone.
    "postrm": f"""\
if [ "$1" = purge ]; then
    rm -rf /var/cache/tcptrace /var/lib/tcptrace /etc/systemd/system/tcptrace-record@*.service.d
fi
{SYSTEMD} daemon-reload""",
}
COMPLETIONS = {
    "bash": f"usr/share/bash-completion/completions/{NAME}",
    "zsh": f"usr/share/zsh/vendor-completions/_{NAME}",
    "fish": f"usr/share/fish/vendor_completions.d/{NAME}.fish",
}
UNITS = ROOT / "extras" / "systemd"
COMPAT = ROOT / "extras" / "compat" / "compat.py"
OLD_TOOLS = ("tcpaccept", "tcpconnect", "tcptracer")
DOCUMENTS = ("LICENSE", "LICENSE-GPL-2.0", "README.md", "CHANGELOG.md")


def run(*command: str | Path) -> str:
    """Run a program; return what it prints, and end with its words if it fails."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def install_library(stage: Path) -> None:
    """Install tcptrace and the libraries that it needs, all for any machine."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    target = stage / LIBRARY
    run(
        *pip,
        "--no-compile",
        "--only-binary=:all:",
        "--ignore-installed",
        f"--target={target}",
        ROOT,
    )
    shutil.rmtree(target / "bin", ignore_errors=True)
    for record in target.glob("*.dist-info"):
        for file in ("RECORD", "direct_url.json", "REQUESTED", "INSTALLER"):
            (record / file).unlink(missing_ok=True)


def install_documents(stage: Path) -> None:
    """Install man pages, compressed without their time, and documents."""
    for name, text in make_man.pages(NAME).items():
        page = stage / PAGE.format(name).removesuffix(".gz")
        write(page, text)
        run("gzip", "-9n", page)
    for name in DOCUMENTS:
        write(stage / f"usr/share/doc/{NAME}" / name, (ROOT / name).read_text(encoding="utf-8"))


def install_completions(stage: Path) -> None:
    """Install what shells read to complete the program's command lines."""
    for shell, place in COMPLETIONS.items():
        write(stage / place, script(cli, shell, NAME))


def install_units(stage: Path) -> None:
    """Install systemd's units, with the program's name here."""
    for unit in UNITS.iterdir():
        text = unit.read_text("utf-8").replace("man:tcptrace-", f"man:{NAME}-")
        start = f"ExecStart=/usr/bin/{NAME}"
        text, count = re.subn(r"^ExecStart=\S+", start, text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{unit} does not start tcptrace once")
        write(stage / "usr/lib/systemd/system" / unit.name, text)


def install_compat(stage: Path) -> None:
    """Install the old tools' command lines, where they hide nobody else's program."""
    directory = stage / LIBRARY / "compat"
    write(directory / COMPAT.name, COMPAT.read_text(encoding="utf-8"), 0o755)
    for name in OLD_TOOLS:
        (directory / name).symlink_to(COMPAT.name)


def build(directory: Path) -> Path:
    """Build the package and return its file."""
    epoch = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    os.environ.setdefault("SOURCE_DATE_EPOCH", epoch)
    os.umask(0o022)  # directories are for all
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name) / "stage"
        write(stage / "usr/bin" / NAME, PROGRAM, 0o755)
        install_library(stage)
        install_documents(stage)
        install_completions(stage)
        install_units(stage)
        install_compat(stage)
        write(stage / "DEBIAN/control", CONTROL)
        for script, command in SCRIPTS.items():
            write(stage / "DEBIAN" / script, f"#!/bin/sh\nset -e\n{command}\n", 0o755)
        stage.chmod(0o755)
        run("dpkg-deb", "--build", "--root-owner-group", stage, directory)
    return directory / f"{NAME}_{tcptrace.__version__}_all.deb"


def main(arguments: Sequence[str]) -> None:
    """Build the package into the directory that is named."""
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{build(directory)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
