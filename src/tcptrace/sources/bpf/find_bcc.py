"""Find the real bcc: the distribution's package, which a virtual environment may not see."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import platform
import re
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from tcptrace.sources.bpf.compiler import Compiler, NoCompilerError, state_of

PACKAGES = {
    "debian": "apt install python3-bpfcc",
    "ubuntu": "apt install python3-bpfcc",
    "fedora": "dnf install python3-bcc",
    "rhel": "dnf install python3-bcc",
    "centos": "dnf install python3-bcc",
    "arch": "pacman -S python-bcc",
    "opensuse": "zypper install python3-bcc",
    "suse": "zypper install python3-bcc",
    "alpine": "apk add py3-bcc",
}


def _install_hint() -> str:
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    for name in [system.get("ID", ""), *system.get("ID_LIKE", "").split()]:
        if name in PACKAGES:
            return f"Install it: {PACKAGES[name]}"
    return "Install your distribution's bcc package for Python (python3-bcc or python3-bpfcc)"


def _system_site_directories() -> list[str]:
    """Return where distributions put packages for this Python, whatever environment runs."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = Path("/usr")
    candidates = [
        prefix / "lib/python3/dist-packages",
        prefix / "lib" / version / "site-packages",
        prefix / "lib64" / version / "site-packages",
        Path(sysconfig.get_path("purelib", vars={"base": sys.base_prefix})),
    ]
    return [str(path) for path in candidates if path.is_dir()]


def _is_bpf_compiler(spec: importlib.machinery.ModuleSpec | None) -> bool:
    """Tell the BPF compiler's package from PyPI's `bcc`, a crystal-lattice library."""
    places = (spec.submodule_search_locations or []) if spec else []
    return any((Path(place) / "libbcc.py").is_file() for place in places)


def find_spec() -> importlib.machinery.ModuleSpec:
    """Return where bcc is: on this Python's path, or in the system's site directories.

    Raises:
        NoCompilerError: it is not installed, or only its namesake is.

    """
    finder = importlib.machinery.PathFinder
    own = finder.find_spec("bcc")
    for spec in (own, finder.find_spec("bcc", _system_site_directories())):
        if spec and _is_bpf_compiler(spec):
            return spec
    if own:
        raise NoCompilerError(
            f"the package bcc in {Path(own.origin or '').parent} is not the BPF compiler but its "
            f"namesake from PyPI.\n{_install_hint()}; and: pip uninstall bcc"
        )
    raise NoCompilerError(
        f"bcc is not installed (PyPI's bcc is another package).\n{_install_hint()}"
    )


def import_bcc() -> ModuleType:
    """Import bcc, and nothing else from where it is found. Raises NoCompilerError."""
    spec = find_spec()
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr] # a package has one
    except (ImportError, OSError) as error:
        del sys.modules["bcc"]
        raise NoCompilerError(
            f"bcc is installed but cannot be imported: {error}\n{_install_hint()}"
        ) from error
    return module


def compiler_of(module: ModuleType) -> Compiler:
    """Return which compiler an imported bcc is."""
    libraries = sorted(path for path in _libraries() if re.search(r"/lib(?:bcc|LLVM)[^/]*$", path))
    files = (module.__file__ or "", *libraries)
    return Compiler(str(module.__version__), _llvm_version(), tuple(map(state_of, files)))


def describe() -> dict[str, str]:
    """Import bcc; return its version, its place and LLVM's version. Call it in a child process.

    Raises:
        NoCompilerError: bcc is not installed, or cannot be imported.

    """
    module = import_bcc()
    place = str(Path(module.__file__ or "").parent.parent)
    return {"version": str(module.__version__), "place": place, "llvm": _llvm_version()}


class _Library(ctypes.Structure):
    """`struct dl_phdr_info` of link.h, its beginning."""

    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


_TakeLibrary = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(_Library), ctypes.c_size_t, ctypes.c_void_p
)


def _libraries() -> list[str]:
    """Return the paths of the shared libraries in this process, as they were opened.

    /proc/self/maps has other paths in a chroot that has got a mount namespace of its own.
    """
    paths: list[str] = []

    def take(library: Any, _size: int, _data: int) -> int:
        paths.append(os.fsdecode(library.contents.name or b""))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(_TakeLibrary(take), None)
    return paths


def _llvm_version() -> str:
    """Return the version of the LLVM that is in this process."""
    library = next((path for path in _libraries() if "/libLLVM" in path), None)
    if not library:
        return "built into libbcc"
    try:
        version = ctypes.CDLL(library).LLVMGetVersion
    except AttributeError:  # before LLVM 16: its name tells
        number = re.search(r"libLLVM\D*([0-9.]*[0-9])", library)
        return number[1] if number else "unknown"
    parts = [ctypes.c_uint() for _ in range(3)]
    version(*map(ctypes.byref, parts))
    return ".".join(str(part.value) for part in parts)
