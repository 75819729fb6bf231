"""A virtual machine that boots a kernel over this host's files, or another root's, by virtme-ng.

The guest sees these files; what it writes is lost, but for one directory. QEMU emulates the
processors in software: a /dev/kvm may be there and still hang a stock kernel.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.vm.kernels import Kernel, VmError

SHARED = Path("/run/tcptrace-vm")
"""Where the guest finds the directory that it shares with the host."""

HOST = Path("/")
"""The root file system of this host."""

# What virtme-ng puts under an overlay by itself.
OVERLAID = tuple(map(Path, ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")))  # noqa: S108

# With a thread for each processor, QEMU 7.2 may run an old translation of code that the kernel has
# patched since: both processors then hit for ever a breakpoint that memory no longer has. A loop
# that switches tracepoints on and off hung Linux 5.10 within three minutes.
EMULATION = ("--disable-kvm", "--qemu-opts=-accel tcg,thread=single")

# virtme-ng's input and output are virtio ports, which udev names. Where there is no udev, we name
# them, and move our output there.
GUEST_SCRIPT = """\
if ! [ -e /dev/virtio-ports/virtme.stdout ]; then
    mkdir -p /dev/virtio-ports
    for port in /sys/class/virtio-ports/*; do
        ln -s "/dev/${{port##*/}}" "/dev/virtio-ports/$(cat "$port/name")"
    done
    exec </dev/null >/dev/virtio-ports/virtme.stdout 2>/dev/virtio-ports/virtme.stderr
fi
mount -t bpf bpf /sys/fs/bpf
for headers in {headers}; do
    [ -e "/usr/src/${{headers##*/}}" ] || ln -s "$headers" /usr/src/
done
{exports}
cd {cwd} && {command}
echo $? >{status}
"""


def run(
    kernel: Kernel,
    command: Sequence[str],
    *,
    root: Path,
    shared: Path,
    cwd: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    has_systemd: bool = False,
) -> int:
    """Run a command as root under a kernel, its output being ours; return its exit status.

    Args:
        kernel: what to boot.
        command: what to run.
        root: the machine's root file system.
        shared: the directory that the guest may write to; it is `SHARED` there.
        cwd: where the command runs.
        environment: its variables, beside the few that a guest has.
        timeout_s: after so long the machine is killed.
        has_systemd: whether its first process is to be systemd, as `tests/vm/init` starts it.

    Raises:
        VmError: the machine did not boot, or ended before the command, or took too long.

    """
    script = GUEST_SCRIPT.format(
        headers=shlex.join(map(str, kernel.headers)),
        exports="\n".join(f"export {key}={shlex.quote(environment[key])}" for key in environment),
        cwd=shlex.quote(str(cwd)),
        command=shlex.join(command),
        status=SHARED / "status",
    )
    (shared / "script").write_text(script)
    writes = ["--systemd", "--rw"] if has_systemd else overlays(cwd)
    boot(vng_command(kernel, root, shared, writes), {"TMPDIR": str(shared)}, timeout_s)
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((shared / "status").read_text())
    raise VmError("the machine ended before its command")


def overlays(cwd: Path) -> list[str]:
    """Return the options that have the machine write to overlays over the host's files.

    No --rw: the host stays unharmed, and files are read through overlays, which cache them; 9p
    alone does not, and Python starts 5 times slower.
    """
    return [f"--overlay-rwdir={path}" for path in uncovered(Path.home(), cwd)]


def vng_command(kernel: Kernel, root: Path, shared: Path, writes: Sequence[str]) -> list[str]:
    """Return the virtme-ng command that boots a kernel and runs the script in `shared`."""
    kvm = os.environ.get("TCPTRACE_VM_KVM") == "1" and not kernel.architecture
    return [
        *("vng", "--run", str(kernel.image), "--force-9p", *([] if kvm else EMULATION)),
        *(["--arch", kernel.architecture] if kernel.architecture else []),
        *("--cpus", "2", "--memory", "4G", *(["--root", str(root)] if root != HOST else [])),
        *writes,
        f"--rwdir={SHARED}={shared}",
        *("--", f"sh {SHARED}/script"),
    ]


def uncovered(*paths: Path) -> list[Path]:
    """Return those directories that need an overlay of their own."""
    chosen = list(OVERLAID)
    for path in paths:
        if path != Path("/") and not any(path.is_relative_to(covered) for covered in chosen):
            chosen.append(path)
    return chosen[len(OVERLAID) :]


def boot(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> None:
    """Run virtme-ng until the machine is off. Raises VmError.

    QEMU opens its output anew by name, which truncates files and fails with sockets: it is given
    pipes, and no terminal.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which(command[0], path=path)
    if not program:
        raise VmError(f"{command[0]} is missing; run ./setup.sh test")
    with subprocess.Popen(
        [program, *command[1:]],
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as machine:
        relays = [
            threading.Thread(target=relay, args=(machine.stdout, sys.stdout.buffer)),
            threading.Thread(target=relay, args=(machine.stderr, sys.stderr.buffer)),
        ]
        for thread in relays:
            thread.start()
        try:
            machine.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise VmError(f"no end after {timeout_s:g} s; give more with --timeout") from None
        finally:
            # QEMU is in this session too, and may outlive virtme-ng.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            for thread in relays:
                thread.join()


def relay(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy a stream to another as it comes."""
    while data := os.read(source.fileno(), 1 << 16):
        target.write(data)
        target.flush()
