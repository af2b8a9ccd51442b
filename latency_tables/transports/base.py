"""Reaching a device that measures: put a file there, run a command there, get a file back.

A transport is a context manager's worth of state: a folder of its own on the device, removed by ``close``. Commands are
argument vectors; what quoting a remote shell needs is the transport's business. A command never outlives the process
that asked for it: where the caller dies, is interrupted, or loses the connection, the device stops the command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol

OnLine = Callable[[str], None]
"""Called with every line of a command's standard output as it arrives, without its end of line."""


@dataclass(frozen=True)
class CommandResult:
    """What a command left behind. Output is text: UTF-8 with ``\\n`` ends, bytes that are not UTF-8 become U+FFFD."""

    returncode: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """A way to one device.

    Attributes:
        scratch: A folder of our own on the device, an absolute path; empty when the transport is opened.
    """

    scratch: PurePosixPath

    def push(self, local: Path, remote: PurePosixPath) -> None:
        """Copy one file to the device; its folder exists already. The file is whole there, or not there at all.

        Raises:
            TransportError: The device cannot be reached, or refuses the file.
        """

    def run(self, argv: Sequence[str], *, on_line: OnLine | None = None, timeout: float | None = None) -> CommandResult:
        """Run a command on the device and wait for it. A non-zero exit is a result, not an error.

        Args:
            argv: The program and its arguments; none of them is seen by a shell.
            on_line: Called with every line of standard output as it arrives.
            timeout: Seconds after which the command is stopped.

        Raises:
            CommandTimeoutError: The command took longer than ``timeout``.
            TransportError: The device cannot be reached, or vanished before the command ended.
        """

    def pull(self, remote: PurePosixPath, local: Path) -> None:
        """Copy one file from the device; ``local`` is replaced in one step.

        Raises:
            TransportError: The device cannot be reached, or has no such file.
        """

    def close(self) -> None:
        """Remove the scratch folder. Closing twice, or after the device vanished, is no error."""

    def __enter__(self) -> Transport:
        """The transport itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
