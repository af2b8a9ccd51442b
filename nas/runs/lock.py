"""One writer per run folder, on local and on network file systems.

Two things hold a folder. An advisory lock of the operating system (`flock`) ends with its process however that ends. It
decides between processes of one machine, and on file systems that forward it (NFS, GPFS) between machines too. A lease
in the same file says who holds the folder and is renewed every few seconds. It decides where the lock is local to each
machine or is not offered at all (Lustre without ``-o flock``, many FUSE file systems).

The age of a lease is the difference of two modification times of one file system, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from nas.errors import NasError, RunError

HEARTBEAT_SECONDS = 10.0
"""A lease is renewed so often."""
STALE_SECONDS = 60.0
"""A lease of another machine that was not renewed for so long is stale."""
SETTLE_SECONDS = 1.0
"""Where no lock orders two processes that take over a stale lease at once, the later one wins after this time."""
_NOT_OFFERED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """Who holds a folder.

    Attributes:
        since: When it was taken, in UTC.
        boot: Identity of the running kernel, which changes at each start of a machine; empty where there is none.
        pids: Identity of the namespace that ``pid`` is of; containers have their own.
        started: When the process was started, in the kernel's ticks: a number is used again, this is not.
        token: Tells this lease from any other.
    """

    pid: int
    host: str
    since: str
    boot: str = ""
    pids: str = ""
    started: str = ""
    token: str = ""

    @classmethod
    def of_this_process(cls) -> Holder:
        """This process, from now."""
        return cls(
            pid=os.getpid(),
            host=socket.gethostname() or platform.node(),
            since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            pids=_namespace(),
            started=_start_time(os.getpid()),
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return f"process {self.pid} on `{self.host}` since {self.since}"

    def shares_kernel(self, other: Holder) -> bool:
        """Whether both run on the same machine, since its last start."""
        return self.boot == other.boot if self.boot or other.boot else self.host == other.host

    def is_running_here(self, here: Holder) -> bool | None:
        """Whether the process lives, asked on its own machine; None where its number means nothing here."""
        if self.pids != here.pids:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.started or _start_time(self.pid) == self.started


class RunLock:
    """Holds a folder until it is released, or the process ends.

    Args:
        path: The lock file; made if missing, left behind empty.

    Attributes:
        stale: Who held the folder before and ended without releasing it; None where nobody did.

    Raises:
        RunError: Another process holds the folder, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._me = Holder.of_this_process()
        self._taken_by: str | None = None
        self._stop = threading.Event()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"run folder `{path.parent}` cannot be written: {error.strerror}") from error
        try:
            is_locked = self._lock()
            self.stale = self._replace_stale(is_locked)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._beaten = time.time()
        self._thread = threading.Thread(target=self._renew, name="run-folder-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the folder is still held; cheap enough to be asked before every write.

        Raises:
            RunError: This process stood still for so long that another one took the folder over.
        """
        if self._taken_by is None and abs(time.time() - self._beaten) > STALE_SECONDS / 2:
            self._beat()
        if self._taken_by is not None:
            raise RunError(
                f"run folder `{self._path.parent}` was taken over by {self._taken_by}: process {self._me.pid} on"
                f" `{self._me.host}` gave no sign of life for over {STALE_SECONDS:g} s",
                hint="let the other process go on; finished trials are kept",
            )

    def release(self) -> None:
        """Let the folder go."""
        self._stop.set()
        self._thread.join()
        if self._taken_by is None:
            self._write("")
        os.close(self._descriptor)

    def _lock(self) -> bool:
        """Take the operating system's lock; False where the file system has none."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._in_use(_parse(self._contents())) from error
            if error.errno not in _NOT_OFFERED:
                raise RunError(
                    f"run folder `{self._path.parent}` cannot be locked: {error.strerror}",
                    hint="choose a folder on another file system",
                ) from error
            return False
        return True

    def _replace_stale(self, is_locked: bool) -> Holder | None:
        """Put this process's lease in place of one that has ended; returns the other one."""
        other = _parse(self._contents())
        is_elsewhere = other is not None and not other.shares_kernel(self._me)
        if other is not None and self._is_alive(other, is_locked):
            raise self._in_use(other)
        self._write(json.dumps(asdict(self._me)))
        if not is_locked or is_elsewhere:
            time.sleep(SETTLE_SECONDS)
            winner = _parse(self._path.read_text(errors="replace"))
            if winner is None or winner.token != self._me.token:
                raise self._in_use(winner)
        return other

    def _is_alive(self, other: Holder, is_locked: bool) -> bool:
        if other.shares_kernel(self._me):
            if is_locked:  # a living holder on this machine would have kept the lock
                return False
            is_running = other.is_running_here(self._me)
            if is_running is not None:
                return is_running
        return self._age() < STALE_SECONDS

    def _age(self) -> float:
        """Seconds since the lease was renewed, by the clock of the file system."""
        probe = self._path.with_name(f".{self._path.name}.{self._me.token}.tmp")
        try:
            probe.write_bytes(b"now")
            return probe.stat().st_mtime - self._path.stat().st_mtime
        except OSError as error:
            raise RunError(f"run folder `{self._path.parent}` cannot be written: {error.strerror}") from error
        finally:
            probe.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        try:
            found = _parse(self._path.read_text(errors="replace"))
            if found is None or found.token != self._me.token:
                self._taken_by = "another process" if found is None else str(found)
                return
            os.utime(self._descriptor)
            self._beaten = time.time()
        except FileNotFoundError:
            self._taken_by = "whoever removed its lock"
        except OSError:
            return  # the file server does not answer: the next beat, or the next write, tells more

    def _contents(self) -> str:
        return os.pread(self._descriptor, 4096, 0).decode(errors="replace")

    def _write(self, text: str) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise NasError(f"the run's lock `{self._path}` cannot be written: {error.strerror}") from error

    def _in_use(self, holder: Holder | None) -> RunError:
        hint = "wait for it to end, or name another folder"
        if holder is not None and not holder.shares_kernel(self._me):
            hint += f"; if it has ended already, its lock counts as stale {STALE_SECONDS:g} s after that"
        return RunError(f"run folder `{self._path.parent}` is in use by {holder or 'another process'}", hint=hint)


def _parse(text: str) -> Holder | None:
    try:
        data = json.loads(text)
        known = {name: data[name] for name in Holder.__dataclass_fields__ if name in data}
        return Holder(**known)
    except (ValueError, TypeError):
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _start_time(pid: int) -> str:
    """Field 22 of ``/proc/PID/stat``; the second one, the name, may hold blanks and brackets."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""
