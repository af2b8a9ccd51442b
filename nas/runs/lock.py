"""One writer per run folder, on local and on network file systems.

A folder is held by a lease of filelock: the file ``lease`` names its holder and is renewed every few seconds. A holder
on this machine that has ended is recognised by its process and replaced at once. Any other is replaced after it was
watched for a minute without a renewal, by this process's own clock, so clocks of machines need not agree.

What filelock leaves open is added here: a lease that was renewed lately is refused at once instead of being watched,
errors name the holder, and a check before every write finds a takeover even where this process stood still together
with the thread that renews its lease.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from nas.errors import RunError

LEASE = "lease"
"""Name of the lease in a run folder; the file is gone while nobody holds the folder."""
HEARTBEAT_SECONDS = 10.0
"""A lease is renewed at this interval."""
STALE_SECONDS = 60.0
"""A lease that was not renewed for this time is stale; all that share a folder must agree on it."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder.

    Attributes:
        pid: Number of the process.
        host: Name of its machine.
        token: What tells its lease from any other.
    """

    pid: int
    host: str
    token: str | None

    def __str__(self) -> str:
        return f"process {self.pid} on `{self.host}`"


class RunLock:
    """Holds a folder until it is released, or the process ends.

    Args:
        folder: The folder, which exists.

    Attributes:
        stale: Who held the folder before and ended without releasing it; None where nobody did.

    Raises:
        RunError: Another process holds the folder, or the lease cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEASE
        self._lease = SoftFileLease(
            self._path, lease_duration=STALE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS, thread_local=False
        )
        self.stale = self._holder()
        try:
            self._acquire()
        except Timeout as error:
            raise self._in_use() from error
        except OSError as error:
            raise RunError(
                f"run folder `{folder}` cannot be written: {error.strerror}", hint="choose another folder"
            ) from error
        self._token = self._lease.token
        self._checked = time.time()

    def check(self) -> None:
        """Make sure that the folder is still held; cheap enough to be asked before every write.

        Raises:
            RunError: Another process took the folder over, or its file system did not answer for too long.
        """
        lost, now = self._lease.compromise, time.time()
        if lost is None and abs(now - self._checked) < HEARTBEAT_SECONDS:
            return
        holder = self._holder()
        is_ours = holder is not None and holder.token == self._token
        is_unread = holder is None and os.path.lexists(self._path)  # the file server does not answer just now
        if lost is None and (is_ours or is_unread):
            self._checked = now
            return
        me = f"process {os.getpid()} on `{socket.gethostname()}`"
        if is_ours:
            raise RunError(
                f"run folder `{self._path.parent}` was out of reach of {me} for nearly {STALE_SECONDS:g} s",
                hint="go on with `--resume`; finished trials are kept",
            )
        raise RunError(
            f"run folder `{self._path.parent}` was taken over by {holder or 'whoever removed its lease'}: {me} gave no"
            f" sign of life for over {STALE_SECONDS:g} s",
            hint="let the other process go on; finished trials are kept",
        )

    def release(self) -> None:
        """Let the folder go, unless another process has taken it over."""
        with contextlib.suppress(OSError):  # what cannot be removed now is found stale later
            self._lease.release()

    def _acquire(self) -> None:
        with contextlib.suppress(Timeout):
            self._lease.acquire(timeout=0.1, poll_interval=0.05)
            return
        holder = self._holder()
        if holder is None:  # damaged, or just being written
            self._lease.acquire(timeout=3)
            return
        if self._age() < STALE_SECONDS:
            raise Timeout(str(self._path))
        _log.warning(
            "run folder `%s`: waiting %g s for a sign of life from %s", self._path.parent, STALE_SECONDS, holder
        )
        self._lease.acquire(
            timeout=STALE_SECONDS + HEARTBEAT_SECONDS,
            poll_interval=min(1.0, HEARTBEAT_SECONDS),
            cancel_check=lambda: self._age() < STALE_SECONDS,
        )

    def _age(self) -> float:
        """Seconds since the lease was renewed, by the clock of the file system; infinite where there is no lease."""
        probe = self._path.with_name(f".{LEASE}.{uuid.uuid4().hex}.tmp")
        try:
            probe.write_bytes(b"now")
            now = probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
        try:
            return now - self._path.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def _holder(self) -> Holder | None:
        owner = self._lease.owner
        return None if owner is None else Holder(owner.pid, owner.hostname.partition("?")[0], owner.token)

    def _in_use(self) -> RunError:
        holder = self._holder()
        hint = "wait for it to end, or name another folder"
        if holder is None:
            hint += f"; if none writes there, remove `{self._path}`"
        elif holder.host != socket.gethostname():
            hint += f"; if it has ended already, its lease counts as stale {STALE_SECONDS:g} s after that"
        return RunError(f"run folder `{self._path.parent}` is in use by {holder or 'another process'}", hint=hint)
