"""What all transports share: commands through a POSIX shell that a local program reaches.

Whatever the program (``sh -c``, ``ssh host``, ``adb shell``), it takes one string, runs it in a shell over there, and
carries standard input, output and error. Two things are added to the command in that string:

- its exit status is reported on standard error. Clients of remote shells have exit codes of their own (ssh 255, adb 1)
  that a command may have too; a connection that is lost reports none.
- a watcher that stops the command as soon as standard input ends, as it does when this process dies, is interrupted, or
  the connection is lost. Nothing is left running on the device, where it would disturb the next measurement.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

from latency_tables.errors import CommandTimeoutError, TransportError
from latency_tables.transports.base import CommandResult, OnLine, Transport

_EXIT = re.compile(r"\n?nas-exit:(\d+)\n")
_REPORT = r"printf '\nnas-exit:%s\n' $? >&2"
_PATIENCE_S = 5.0
"""How long a command that was told to stop may take to do so."""


@dataclass(frozen=True)
class Explanation:
    """What a client's message means, and what to do about it."""

    message: str
    hint: str = ""


class ShellTransport:
    """A device behind a shell.

    Attributes:
        name: The device, for messages.
        scratch: As in `latency_tables.transports.base.Transport`.
        client: The local program and its arguments, to which the string for the shell is appended.
    """

    def __init__(self, name: str, client: Sequence[str], scratch: PurePosixPath) -> None:
        self.name = name
        self.client = tuple(client)
        self.scratch = scratch
        self._closed = False

    def run(self, argv: Sequence[str], *, on_line: OnLine | None = None, timeout: float | None = None) -> CommandResult:
        """As `latency_tables.transports.base.Transport`."""
        script = (
            f"exec 3<&0; {shlex.join(argv)} </dev/null 3<&- & command=$!;"
            " (cat <&3; kill $command) >/dev/null 2>&1 & watcher=$!;"
            f" wait $command; {_REPORT}; kill $watcher 2>/dev/null"
        )
        return self.converse(script, argv[0], on_line=on_line, timeout=timeout)

    def push(self, local: Path, remote: PurePosixPath) -> None:
        """As `latency_tables.transports.base.Transport`."""
        part, whole = shlex.quote(f"{remote}.part"), shlex.quote(str(remote))
        try:
            with local.open("rb") as file:
                size = local.stat().st_size
                # A connection that is lost ends the input too: only a file of the right size gets its name.
                script = f"cat > {part} && test $(wc -c < {part}) -eq {size} && mv -f {part} {whole}; {_REPORT}"
                result = self.converse(script, "cat", stdin=file)
        except OSError as error:
            raise TransportError(f"`{local}` cannot be sent to {self.name}: {error.strerror}") from error
        if result.returncode != 0:
            raise TransportError(
                f"`{local}` cannot be sent to {self.name}: {last_line(result.stderr, 'the file arrived incomplete')}"
            )

    def pull(self, remote: PurePosixPath, local: Path) -> None:
        """As `latency_tables.transports.base.Transport`."""
        part = local.with_name(f".{local.name}.part")
        try:
            try:
                with part.open("wb") as file:
                    result = self.converse(f"cat -- {shlex.quote(str(remote))}; {_REPORT}", "cat", stdout=file)
                if result.returncode != 0:
                    raise TransportError(
                        f"`{remote}` cannot be fetched from {self.name}: {last_line(result.stderr, 'no reason given')}"
                    )
                part.replace(local)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise TransportError(f"`{local}` cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """As `latency_tables.transports.base.Transport`."""
        if self._closed:
            return
        self._closed = True
        try:
            self.run(["rm", "-rf", str(self.scratch)], timeout=30)
        except TransportError:
            pass  # the device has gone, and its folder is out of reach

    def __enter__(self) -> Transport:
        """The transport itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def wrap(self, script: str) -> str:
        """What the client is given to run a POSIX shell's script."""
        return script

    def explain(self, stderr: str) -> Explanation:
        """What the client's last words mean, where it reached no shell or lost it."""
        return Explanation(last_line(stderr, "no reason given"))

    def converse(
        self,
        script: str,
        program: str,
        *,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        on_line: OnLine | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        """Run a script that ends in a report of its exit status.

        Args:
            script: For the device's shell.
            program: What runs, for messages.
            stdin: What the script reads; None is an open pipe that says nothing.
            stdout: Where its output goes; None returns it.
            on_line: Called with every line of the output, where it is returned.
            timeout: Seconds after which it is stopped.

        Raises:
            CommandTimeoutError: It was.
            TransportError: No exit status came back.
        """
        process = subprocess.Popen(
            [*self.client, self.wrap(script)],
            stdin=stdin or subprocess.PIPE,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to handle; a client that dies of it cannot stop the command
        )
        errors: list[str] = []
        reader = threading.Thread(target=_each_line, args=(process.stderr, errors.append), daemon=True)
        reader.start()
        late = threading.Event()

        def stop_late() -> None:
            late.set()
            _stop(process)

        timer = threading.Timer(timeout or 0, stop_late)
        timer.daemon = True
        if timeout is not None:
            timer.start()
        lines: list[str] = []
        try:
            if process.stdout is not None:
                _each_line(process.stdout, lines.append if on_line is None else _both(lines.append, on_line))
            process.wait()
        finally:
            timer.cancel()
            _stop(process)
        reader.join(_PATIENCE_S)
        stderr = "".join(f"{line}\n" for line in errors)
        report = None if late.is_set() else _EXIT.search(stderr)
        if late.is_set():
            raise CommandTimeoutError(f"`{program}` on {self.name}: found no end after {timeout:g} s, stopped")
        if report is None:
            explanation = self.explain(stderr)
            raise TransportError(f"{self.name}: {explanation.message}", explanation.hint)
        return CommandResult(int(report[1]), "".join(f"{line}\n" for line in lines), stderr[: report.start()])


def last_line(text: str, otherwise: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else otherwise


def _each_line(stream: IO[bytes] | None, consume: Callable[[str], object]) -> None:
    if stream is not None:
        with stream:
            for line in stream:
                consume(line.decode("utf-8", errors="replace").rstrip("\r\n"))


def _both(first: Callable[[str], object], second: Callable[[str], object]) -> Callable[[str], object]:
    return lambda line: (first(line), second(line))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the input, which stops the command over there, and then whatever is left of the client."""
    patience = 0.0
    if process.stdin is not None:
        patience = _PATIENCE_S
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of them have ended by themselves
        process.wait()
