"""Disks that fill up and folders that cannot be written, in a process's own view of the file system.

Root ignores permissions, so read-only folders are mounts. Others may mount in a namespace of users, where the system
allows that.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18


def own_mounts() -> None:
    """From now on this process, and those that it starts, mount for themselves alone.

    Raises:
        OSError: The system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)


def small_disk(folder: Path, size: int) -> None:
    """An empty disk of so many bytes at a folder."""
    _mount("tmpfs", str(folder), "tmpfs", 0, f"size={size}")


def grow_disk(folder: Path, size: int) -> None:
    """More bytes for a disk."""
    _mount("tmpfs", str(folder), "tmpfs", MS_REMOUNT, f"size={size}")


def make_read_only(folder: Path) -> None:
    """Make a folder, with what is in it, one that cannot be written."""
    _mount(str(folder), str(folder), "", MS_BIND)
    _mount(str(folder), str(folder), "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode() or None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
