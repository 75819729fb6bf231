"""The program: one place where errors become exit statuses."""

from __future__ import annotations

import errno
import os
import sys

import click

from tcptrace.cli import cli
from tcptrace.errors import TcptraceError
from tcptrace.kernel.shortage import check_shortage, short_of
from tcptrace.shell.complete import INSTRUCTION
from tcptrace.shell.say import say, tell
from tcptrace.sinks.output import buffered, discard

OUTPUT_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EBADF}


def run_command_line() -> int:
    """Run the command line; return the exit status."""
    sys.stdout = buffered(sys.stdout)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
    try:
        return _status()
    except (KeyboardInterrupt, click.Abort):
        return 0
    except BrokenPipeError:
        discard(sys.stdout)
        return 0
    except TcptraceError as error:
        return _complain(error)


def _status() -> int:
    """Run the command line; raise nothing but what `run_command_line` knows."""
    try:
        status = _invoke()
        sys.stdout.flush()
    except click.ClickException as error:
        return _refuse(error)
    except (TcptraceError, click.Abort, BrokenPipeError):
        raise
    except OSError as error:
        raise _of_system(error) from None
    except MemoryError:
        raise short_of(errno.ENOMEM, "cannot go on") from None
    except Exception as error:  # noqa: BLE001 - a plugin's function may raise anything
        raise _unexpected(error) from None
    return status


def _invoke() -> int:
    """Run the command line without click's `main`, which ends with 1 at a closed pipe."""
    if INSTRUCTION in os.environ:
        return _complete(os.environ[INSTRUCTION])
    try:
        with cli.make_context("tcptrace", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _complete(instruction: str) -> int:
    """Answer a shell that asks what a word may become."""
    from click.shell_completion import shell_complete  # noqa: PLC0415 - for few runs

    return shell_complete(cli, {}, "tcptrace", INSTRUCTION, instruction)


def _refuse(error: click.ClickException) -> int:
    """Say what was wrong with the command line, in one or two lines."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        tell(error.format_message())
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"\nTry: {context.command_path} --help" if context else ""
    say(f"{error.format_message()}{hint}")
    return error.exit_code


def _complain(error: TcptraceError) -> int:
    say(str(error))
    if error.details and {"-v", "--verbose"} & set(sys.argv):
        tell(error.details)
    return error.exit_status


def _of_system(error: OSError) -> TcptraceError:
    """Return what to tell of a system call's error that nobody has expected."""
    if error.errno in OUTPUT_ERRORS:
        if error.filename:
            return TcptraceError(
                f"cannot write to {error.filename}: {error.strerror}.\n"
                "What was written can be read up to its last whole row"
            )
        discard(sys.stdout)
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        return TcptraceError(f"cannot write to standard output: {why}")
    try:
        check_shortage(error, "cannot go on")
    except TcptraceError as short:
        return short
    return TcptraceError(f"cannot go on: {error.strerror or error}")


def _unexpected(error: Exception) -> TcptraceError:
    """Return what to tell of a fault of tcptrace's own, or of a plugin's."""
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    return TcptraceError(
        f"this should not have happened: {what}.\nRun again with -v, and please report its words",
        details=_words(error),
    )


def _words(error: Exception) -> str:
    """Return where an error comes from; nothing where a process without rights cannot tell."""
    try:
        import traceback  # noqa: PLC0415 - slow to import, and seldom needed
    except ImportError:
        return ""
    return "".join(traceback.format_exception(error))
