"""This machine, reached as if it were another: the same verbs, so that what measures need not care."""

from __future__ import annotations

import tempfile
from pathlib import PurePosixPath

from latency_tables.errors import TransportError
from latency_tables.transports.shell import ShellTransport


class LocalTransport(ShellTransport):
    """Commands and files on this machine.

    Raises:
        TransportError: No folder can be made for temporary files.
    """

    def __init__(self) -> None:
        try:
            folder = tempfile.mkdtemp(prefix="nas-")
        except OSError as error:
            raise TransportError(f"no temporary folder can be made: {error.strerror}") from error
        super().__init__("this machine", ["sh", "-c"], PurePosixPath(folder))
