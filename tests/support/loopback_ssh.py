"""A real sshd on a free port of 127.0.0.1, with keys of its own, for tests that want the real thing."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Server:
    """A running sshd.

    Attributes:
        config: The client's configuration, which the ``ssh`` on the test's path reads: keys and known hosts.
    """

    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    config: Path

    @property
    def target(self) -> str:
        return f"ssh:{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def vanish(self) -> None:
        """Kill sshd and the processes that serve its connections, as a power cut would."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (*map(int, children), self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def loopback_ssh(folder: Path) -> Iterator[Server]:
    """A server that lives in ``folder``; while it runs, ``ssh`` on the path knows it and is known to it."""
    sshd, ssh = (shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("sshd", "ssh"))
    if sshd is None or ssh is None:
        pytest.skip("needs sshd: apt install openssh-client openssh-server")
    for key in ("host_key", "user_key"):
        make_key(folder / key)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nLogLevel ERROR\n"
    )
    command = [sshd, "-f", str(folder / "sshd_config")]
    check = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    if check.returncode != 0:
        pytest.skip(f"sshd does not run here: {check.stderr.strip()}")
    key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    config = folder / "ssh_config"
    config.write_text(
        f"IdentityFile {folder}/user_key\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile none\n"
    )
    client = folder / "bin" / "ssh"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\nexec {ssh} -F "{config}" "$@"\n')
    client.chmod(0o755)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "-D", "-e"], stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(port, process, folder / "log")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
            yield Server(port, process, folder, config)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"sshd did not start: {log.read_text()}")


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
