"""The outermost layer: errors become one message with a hint and an exit code, never a traceback.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 nothing satisfies the constraint; 4 run folder, checkpoint or table
unreadable or incompatible; 5 missing optional dependency; 130 interrupted.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from nas.cli.printable import printable

FAILED, USAGE, INFEASIBLE, UNREADABLE, MISSING, INTERRUPTED = 1, 2, 3, 4, 5, 130
DEBUG_VARIABLE = "NAS_DEBUG"

Command = TypeVar("Command", bound=Callable[..., object])


def handles_errors(command: Command) -> Command:
    """Wrap a command so that whatever it raises ends as a message on standard error and an exit code.

    With the environment variable ``NAS_DEBUG`` set, unexpected errors keep their traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: object, **kwargs: object) -> object:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            show_error("interrupted", way_on(command))
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            from search_spaces.errors import NasError

            code = exit_code(error)
            if code is None:
                if os.environ.get(DEBUG_VARIABLE):
                    raise
                show_error(
                    f"unexpected {type(error).__name__}: {error}",
                    f"this is a fault of nas; run again with {DEBUG_VARIABLE}=1 and report the traceback",
                )
                raise typer.Exit(FAILED) from None
            show_error(str(error), error.hint if isinstance(error, NasError) else "")
            raise typer.Exit(code) from None

    return wrapped  # type: ignore[return-value]


def way_on(command: Callable[..., object]) -> str:
    """What to do after a command was interrupted."""
    if "resume" in inspect.signature(command).parameters:
        return "finished work is kept: go on with `--resume`"
    return "give the same command again: what was measured is kept, and all else begins anew"


def exit_code(error: Exception) -> int | None:
    """The exit code of an expected error; None for one that nobody foresaw."""
    from search_spaces.errors import NasError

    if isinstance(error, NasError):
        return error.exit_code
    if isinstance(error, ModuleNotFoundError):
        return MISSING
    return FAILED if isinstance(error, OSError) else None


def run_folder(output: Path | None, resume: Path | None) -> Path | None:
    """The run folder that `--output` or `--resume` names; None where neither is given.

    Raises:
        RunError: There is no run to go on with.
        typer.BadParameter: Both are given.
    """
    from nas.errors import RunError

    if resume is not None and output is not None:
        raise typer.BadParameter("`--resume RUN` names the folder already; leave `--output` out")
    if resume is not None and not (resume / "settings.json").exists():
        raise RunError(f"`{resume}` holds no run to resume", "start one with `--output`")
    return resume or output


def show_error(message: str, hint: str = "") -> None:
    """Print an error, and a hint where there is one, to standard error."""
    typer.echo(f"error: {printable(message)}", err=True)
    if hint:
        typer.echo(f"hint: {printable(hint)}", err=True)
