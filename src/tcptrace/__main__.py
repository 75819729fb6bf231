"""The program's beginning: what has to be in order before the rest of it is imported.

Little is imported here, so that Ctrl-C ends quietly from the first moment on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process."""
    let_interrupts_end()
    open_standard_streams()
    wait_in_writes()
    status = run()
    end(status)


def run() -> int:
    """Run the command line; return the exit status."""
    try:
        from tcptrace.program import run_command_line  # noqa: PLC0415 - see above
    except (ImportError, OSError, MemoryError) as error:
        return _complain(error)
    return run_command_line()


def let_interrupts_end() -> None:
    """Make Ctrl-C end the program without a word, until something is to be put in order first.

    Where SIGINT was ignored, it stays so. The launcher, bin/tcptrace, has done it before.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    """End with 1 where a command was to be run, or a gate to judge: that has not happened."""
    os._exit(any(word == "--" or word.startswith(("--fail", "--only")) for word in sys.argv))


def open_standard_streams() -> None:
    """Open what was closed of standard input, output and error, lest another file get its number.

    What is opened can be read alone: to write to it fails, as it did before.
    """
    try:
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
            pass
        os.close(descriptor)
    except OSError:
        return  # no more descriptors: whoever needs some will say so
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good


def wait_in_writes() -> None:
    """Have writes to standard output and error wait for room, also where others have them fail.

    Others share the flag that says so: a pipe or terminal is opened once more, without it.
    """
    for descriptor in (1, 2):
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not os.get_blocking(descriptor) and not is_file:
            with contextlib.suppress(OSError):
                os.dup2(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY), descriptor)


def end(status: int) -> NoReturn:
    """End the process with this status, whatever becomes of what is still to be written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # Else Python ends with 120. /dev/null may be out of reach by now.
            os.dup2(os.memfd_create("discarded"), stream.fileno())
    sys.exit(status)


def _complain(error: Exception) -> int:
    """Say that tcptrace's own code, or that of a dependency, cannot be imported."""
    try:
        sys.stderr.write(
            f"tcptrace: its code cannot be loaded: {str(error) or 'memory is short'}.\n"
            f"Is all of it installed for {sys.executable}, and do limits (ulimit -a) permit it?\n"
        )
        sys.stderr.flush()
    except OSError:
        pass
    return 1


if __name__ == "__main__":
    main()
