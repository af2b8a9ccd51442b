"""A board over ssh, through the OpenSSH client of this machine, with its user's keys, configuration and known hosts.

Nothing is ever asked and no host key is accepted here: a host must be known, and let the user in by key.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import PurePosixPath

from latency_tables.errors import AddressError, TransportError
from latency_tables.transports.shell import Explanation, ShellTransport, last_line

# What starts with a hyphen would be an option to ssh.
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}
_REASONS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the known one"),
    ("Host key verification failed", "its host key is not known"),
    ("Permission denied", "it refuses our keys"),
    ("Connection refused", "nothing listens on that port"),
    ("Could not resolve hostname", "no such host"),
    ("timed out", "no answer"),
    ("No route to host", "no way there"),
)


class SshTransport(ShellTransport):
    """Commands and files on a board.

    Args:
        host: A name of the user's ssh configuration, a host name, or an address.
        user: Name of the user; None leaves it to the configuration.
        port: Number of the port; None leaves it to the configuration.

    Raises:
        TransportError: The host cannot be reached.
    """

    def __init__(self, host: str, user: str | None = None, port: int | None = None) -> None:
        program = shutil.which("ssh")
        if program is None:
            raise TransportError("`ssh` is not installed", "apt install openssh-client")
        self._login = host if user is None else f"{user}@{host}"
        self._known_as = host if port in (None, 22) else f"'[{host}]:{port}'"
        self._by_hand = f"ssh {'' if port is None else f'-p {port} '}{self._login}"
        settings = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
        where = [] if port is None else ["-p", str(port)]
        client = [program, *settings, *where, "--", self._login]
        super().__init__(f"host `{self._login}`", client, PurePosixPath("/"))
        made = self.run(["mktemp", "-d", "/tmp/nas-XXXXXXXX"], timeout=60)
        folder = made.stdout.strip()
        if made.returncode != 0 or not folder.startswith("/tmp/nas-"):
            raise TransportError(f"{self.name}: no folder can be made in /tmp: {last_line(made.stderr, folder)}")
        self.scratch = PurePosixPath(folder)

    @classmethod
    def open(cls, address: str) -> SshTransport:
        """The transport to ``[user@]host[:port]``; an IPv6 address stands in brackets.

        Raises:
            AddressError: The address is malformed.
            TransportError: The host cannot be reached.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
            raise AddressError(
                f"ssh address `{address}`: expected `[user@]host[:port]`", "for example `ssh:pi@raspberrypi`"
            )
        port = None if match["port"] is None else int(match["port"])
        return cls(match["host"].strip("[]"), match["user"], port)

    def wrap(self, script: str) -> str:
        """The script for a POSIX shell; the login shell over there may be another."""
        return f"exec sh -c {shlex.quote(script)}"

    def explain(self, stderr: str) -> Explanation:
        """What ssh's last words mean."""
        found = last_line(stderr, "the connection was lost before the command ended")
        for words, reason in _REASONS:
            if words in stderr:
                return Explanation(f"{reason} ({found})", self._hint(words))
        return Explanation(found, f"try `{self._by_hand} true`; going on later loses no finished measurement")

    def _hint(self, words: str) -> str:
        if "IDENTIFICATION" in words:
            return f"somebody may be listening in; only if the board was set up anew: `ssh-keygen -R {self._known_as}`"
        if "Host key" in words:
            return f"log in once with `{self._by_hand}`, compare the fingerprint with the board's, and accept it"
        if "Permission" in words:
            return f"`ssh-copy-id {self._by_hand.removeprefix('ssh ')}` lets this machine's key in"
        return f"`{self._by_hand} true` must work without a question; is the board on, and on this network?"
