"""Standard streams that a reader may leave, or that are not there at all: work goes on, and nobody is told."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

INPUT, OUTPUT, ERRORS = 0, 1, 2


class _LeftPipe(io.FileIO):
    """A file whose reader may have gone, for example `nas spaces | head -1`; what is written then is lost."""

    has_failed = False

    def write(self, data: Any) -> int:
        """Write what can be written; what cannot for another reason, a full disk, is told once."""
        try:
            return len(data) if self.has_failed else super().write(data)
        except OSError as error:
            self.has_failed = True
            if isinstance(error, BrokenPipeError):
                return len(data)
            raise


def keep_streams() -> None:
    """Make standard output and standard error bear readers that leave, and letters that they have no code for.

    Those that were closed when the process began lead nowhere, so that no file of a run gets their number.
    """
    if os.name != "posix":
        return
    for number in (INPUT, OUTPUT, ERRORS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdout, sys.stderr = _patient(sys.stdout, OUTPUT), _patient(sys.stderr, ERRORS)


def _patient(stream: TextIO | None, number: int) -> TextIO:
    """A stream in place of ``stream``, which is None where it was closed."""
    encoding = "utf-8"
    if stream is not None:
        stream.flush()
        encoding = stream.encoding
    raw = _LeftPipe(number, "w", closefd=False)
    by_line = number == ERRORS or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=by_line)


def end_output() -> None:
    """Write what is still to be written.

    Raises:
        OSError: It cannot be, for example because a disk is full.
    """
    sys.stdout.flush()
