"""The program: one place where errors become exit statuses."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from tcptrace.cli import cli
from tcptrace.errors import TcptraceError

OUTPUT_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}


def _discard_output() -> None:
    """Let nothing that is still buffered fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: TcptraceError) -> int:
    click.echo(f"tcptrace: {error}", err=True)
    if error.details and {"-v", "--verbose"} & set(sys.argv):
        click.echo(error.details, err=True)
    return error.exit_status


def _refuse(error: click.ClickException) -> int:
    """Say what was wrong with the command line, in one or two lines."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"\nTry: {context.command_path} --help" if context else ""
    click.echo(f"tcptrace: {error.format_message()}{hint}", err=True)
    return error.exit_code


def _invoke() -> None:
    """Run the command line without click's `main`, which ends with 1 at a closed pipe."""
    with cli.make_context("tcptrace", sys.argv[1:]) as context:
        cli.invoke(context)


def run() -> int:
    """Run the command line; return the exit status."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        _invoke()
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _refuse(error)
    except TcptraceError as error:
        return _complain(error)
    except (KeyboardInterrupt, click.Abort):
        return 0
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        what = "cannot write to standard output" if error.errno in OUTPUT_ERRORS else "cannot go on"
        return _complain(TcptraceError(f"{what}: {error.strerror or error}"))
    return 0


def main() -> NoReturn:
    """Run the command line and end the process."""
    sys.exit(run())


if __name__ == "__main__":
    main()
