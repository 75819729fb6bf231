"""A stand-in for kernel headers, written from the running kernel's BTF.

bcc takes a directory in BCC_KERNEL_SOURCE and includes ``linux/kconfig.h`` from it first. Ours is
part of this package; it includes the kernel's types, which are written to memory. bcc searches the
current directory before all others, so that must be one of ours where it compiles: a hostile one
would otherwise supply headers to root. Where the kernel has no BTF, bcc finds the distribution's
headers by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from tcptrace.errors import TcptraceError
from tcptrace.kernel.btf import VMLINUX, running_kernel
from tcptrace.kernel.syscalls import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, mount, unshare

CHOICES = ("auto", "btf", "system")
SOURCE = Path(__file__).parent
SYMBOLS = SOURCE / "kallsyms"
STRUCTS = (
    *("sock", "inet_sock", "inet_connection_sock", "tcp_sock", "socket", "net"),
    *("mptcp_sock", "mptcp_subflow_context"),
    *("task_struct", "css_set", "cgroup", "kernfs_node", "nsproxy", "mnt_namespace", "pt_regs"),
    *("files_struct", "fdtable", "file", "inode"),
    *("trace_event_raw_sys_enter", "trace_event_raw_sys_exit"),
)
# What differs from kernel to kernel in the types that a probe names, by what it looks like in C.
FEATURES = {
    "IPV6": rb"\bskc_v6_daddr;",  # a kernel can be built without
    "ITER_UBUF": rb"\bITER_UBUF\b",  # enum iter_type, fcb14cb1bdac (6.0)
    "ITER_IOV": rb"\b__iov;",  # struct iov_iter, de4f5fed3f23 (6.4); `iov` before
    "TCP_WSTAMP": rb"\btcp_wstamp_ns;",  # struct tcp_sock, d3edd06ea8ea (4.20)
    "ITER_TYPE": rb"\biter_type;",  # struct iov_iter, 8cd54c1c8480 (5.14); flags in `type` before
}
URING_STRUCTS = ("io_kiocb", "io_uring_cqe", "io_accept")
"""Where the raw tracepoint io_uring_complete passes the completion; it has had other arguments."""
OPTIONAL_STRUCTS = ("mnt_namespace", "mptcp_sock")

# Kernels from 6.19 have anonymous tagged members, which clang drops without the first flag, with
# nothing but a warning: every offset behind one would be wrong.
# Debug information, which bcc asks for and nobody reads, is a quarter of the time to compile.
CFLAGS = ("-fms-extensions", "-Wno-microsoft-anon-tag", "-Werror=missing-declarations", "-g0")


def kernel_version() -> tuple[int, int, int]:
    """Return the running kernel's version; 255 at most for the last part, as in KERNEL_VERSION."""
    parts = os.uname().release.split("-")[0].split(".")[:3]
    numbers = [int(digits[0]) for part in parts if (digits := re.match("[0-9]+", part))]
    major, minor, patch = (*numbers, 0, 0)[:3]
    return major, minor, min(patch, 255)


def _name_padding(text: bytes) -> bytes:
    """Make members with names of the unnamed 64-bit fields that libbpf pads structs with.

    clang makes one wide integer of several in a row. bcc compiles for the host, where LLVM aligns
    that to 8 bytes, then generates code for BPF, where it is 16: without an error, members behind
    it would be read from wrong places (`task_struct.files` in 5.10, `net.ns` in 7.2).
    """
    numbers = itertools.count()
    return re.sub(rb"\blong: 64;", lambda _: b"long padding_%d;" % next(numbers), text)


def _shorten_symbols() -> None:
    """Have bcc find a short /proc/kallsyms, in a mount namespace of this process's own.

    To see whether the kernel has two functions that came before ring buffers did, bcc takes in all
    symbols, which are some 120,000. That was a quarter of the processor time until all is attached.
    """
    with contextlib.suppress(OSError):  # without the right to mount, it takes that time
        unshare(CLONE_NEWNS)
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        mount(str(SYMBOLS), "/proc/kallsyms", "", MS_BIND)


def signature() -> bytes:
    """Return what decides, beside the kernel, what its types look like in C."""
    stubs = (SOURCE / "include/linux" / name for name in ("kconfig.h", "types.h", "bpf_common.h"))
    return b"".join(path.read_bytes() for path in (Path(__file__), *stubs))


def from_btf(choice: str) -> bool:
    """Tell whether types come from BTF, for one of `CHOICES`."""
    return choice == "btf" or (choice == "auto" and VMLINUX.exists())


def _features(text: bytes) -> list[str]:
    """Return the names of the `FEATURES` that a kernel's C has."""
    return [name for name, sign in FEATURES.items() if re.search(sign, text)]


def prepare(choice: str = "auto", extra: Iterable[str] = ()) -> list[str]:
    """Make this process ready to compile with bcc; return flags for clang.

    Args:
        choice: one of `CHOICES`; auto takes BTF where the kernel has it.
        extra: names of kernel structs that are needed beside `STRUCTS`.

    Raises:
        TcptraceError: the kernel does not have what was chosen, or libbpf is missing or too old.

    """
    os.chdir(SOURCE)
    _shorten_symbols()
    if not from_btf(choice):
        return [f"-DHAVE_{name}=1" for name in _features(_installed_header("linux/uio.h"))]
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE)
    types = os.memfd_create("kernel_types.h")
    with os.fdopen(types, "wb", closefd=False) as file:
        file.write(kernel_types(extra))
    return ["-DHAVE_BTF=1", f'-DKERNEL_TYPES="/proc/self/fd/{types}"']


def _installed_header(name: str) -> bytes:
    """Return one of the installed kernel headers; Debian has them in two directories.

    Raises TcptraceError without headers: bcc would unpack some in /tmp, where all can write.
    """
    release = os.uname().release
    for place in ("build", "source"):
        with contextlib.suppress(FileNotFoundError):
            return Path("/lib/modules", release, place, "include", name).read_bytes()
    missing = "" if VMLINUX.exists() else f" and no BTF ({VMLINUX})"
    raise TcptraceError(
        f"there are no kernel headers for {release} here{missing}.\n"
        f"Install your distribution's, such as linux-headers-{release}"
    )


def tells_of_uring() -> bool:
    """Tell whether what io_uring completes can be seen without hooking functions."""
    return running_kernel().parameter("__probestub_io_uring_complete", "cqe") is not None


def kernel_types(extra: Iterable[str] = ()) -> bytes:
    """Return the running kernel's own C for the types above and `extra`, by name.

    Raises:
        TcptraceError: the kernel has no BTF, or libbpf is missing or too old.

    """
    btf = running_kernel()
    major, minor, patch = kernel_version()
    uring = URING_STRUCTS if tells_of_uring() else ()
    types = btf.c_types((*STRUCTS, *uring, *extra))
    lines = [
        '#line 1 "kernel_types.h"',
        *(f"#define HAVE_{name} 1" for name in _features(types)),
        *["#define HAVE_URING 1"][: len(uring)],
        *(f"#define HAVE_{name.upper()} 1" for name in OPTIONAL_STRUCTS if btf.has_struct(name)),
        f"#define PAGE_SIZE {os.sysconf('SC_PAGE_SIZE')}UL",
        "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))",
        f"#define LINUX_VERSION_CODE KERNEL_VERSION({major}, {minor}, {patch})",
    ]
    return "\n".join(lines).encode() + b"\n" + _name_padding(types)
