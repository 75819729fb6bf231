"""Runs bench/ on another kernel, beside other tracers: `python tests/vm/bench.py 6.1 [SCRIPT ...]`.

The machine has this host's user space: Debian 12's bpfcc-tools, libbpf-tools and bpftrace, where
./setup.sh test has installed them. Without the processor's help everything is slow alike: ratios
count, and the rounds are few. TCPTRACE_VM_KVM=1 has that help.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.vm import kernels, machine  # noqa: E402 - found in ROOT
from tests.vm.run import ENVIRONMENT, compile_sources, say  # noqa: E402

TIMEOUT_S = 3600
START = ("start.py", "--repeats", "1", "--kept-only", "accept", "connect", "tracer")
# Of libbpf-tools, tcptracer has no columns that tcptrace's tracer has not.
COST = (
    *("cost.py", "--rounds", "1", "--connections", "500", "--idle", "0"),
    *("--only", "tcptrace (accept|connect|connect -c|tracer|tracer --json)$|libbpf"),
)
# The screen, beside bcc's tcptop; a machine without the processor's help makes few connections.
TOP = ("top.py", "--rates", "0,100", "--sockets", "0", "--only", "^top$|tcptop")
SCRIPTS = {words[0].removesuffix(".py"): words for words in (START, COST, TOP)}


def main(series: str, *names: str) -> int:
    """Boot a kernel, and run scripts there: those of these names, or all."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # has depmod
    compile_sources()
    kernel = kernels.fetch(series)
    scripts = " && ".join(
        " ".join([sys.executable, f"bench/{words[0]}", *(f"'{word}'" for word in words[1:])])
        for words in (SCRIPTS[name] for name in names or SCRIPTS)
    )
    say(f"== bench on Linux {kernel.release}")
    with tempfile.TemporaryDirectory(prefix="tcptrace-vm-") as name:
        return machine.run(
            kernel,
            ["bash", "-c", f"ulimit -l unlimited; {scripts}"],
            shared=Path(name),
            root=machine.HOST,
            cwd=ROOT,
            environment={**ENVIRONMENT, "PYTHONPATH": str(ROOT / "src")},
            timeout_s=TIMEOUT_S,
        )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
