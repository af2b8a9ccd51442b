"""A phone over adb, through Android's own client."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

from latency_tables.errors import TransportError
from latency_tables.transports.shell import Explanation, ShellTransport, last_line

SCRATCH = PurePosixPath("/data/local/tmp/nas")
"""Below the one folder of a phone that both lets the shell user write and lets programs run."""

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:()\[\] -]*")
_DEVICE = re.compile(r"(?P<serial>\S.*?)\s*\t\s*(?P<state>\S.*)")
_STATES = {
    "unauthorized": ("it has not authorised this computer", "unlock the phone and answer its question about debugging"),
    "authorizing": (
        "it is still authorising this computer",
        "unlock the phone and answer its question about debugging",
    ),
    "offline": ("it is offline", "unplug it and plug it in again, or `adb kill-server`"),
    "no permissions": ("this user may not open it", "https://developer.android.com/studio/run/device (udev rules)"),
}


class AdbTransport(ShellTransport):
    """Commands and files on a phone.

    Args:
        serial: Serial number, as ``adb devices`` shows it.

    Raises:
        TransportError: The phone does not answer.
    """

    def __init__(self, serial: str) -> None:
        self._adb = (find_adb(), "-s", serial)
        super().__init__(f"phone `{serial}`", [*self._adb, "shell"], SCRATCH)
        made = self.run(["sh", "-c", f"rm -rf {SCRATCH} && mkdir -p {SCRATCH}"], timeout=60)
        if made.returncode != 0:
            raise TransportError(
                f"{self.name}: `{SCRATCH}` cannot be made: {last_line(made.stderr, 'no reason given')}"
            )

    @classmethod
    def open(cls, serial: str = "") -> AdbTransport:
        """The transport to a phone; without a serial to the only one.

        Raises:
            TransportError: There is no such phone, it is not ready, or several are and no serial chooses.
        """
        phones = connected_phones()
        known = ", ".join(f"`{name}`" for name in phones) or "none"
        if not serial:
            if len(phones) != 1:
                raise TransportError(
                    f"target `adb`: found {len(phones)} phones ({known}), expected one",
                    "choose one with `adb:SERIAL`" if phones else _NO_PHONE,
                )
            serial = next(iter(phones))
        if _SERIAL.fullmatch(serial) is None:
            raise TransportError(f"serial `{serial}`: expected one that `adb devices` lists")
        if serial not in phones:
            raise TransportError(f"phone `{serial}` is not connected; connected: {known}", _NO_PHONE)
        state = phones[serial]
        if state != "device":
            reason, hint = next(
                (known for name, known in _STATES.items() if state.startswith(name)),
                (f"its state is `{state}`, expected `device`", "start the phone's Android and turn on USB debugging"),
            )
            raise TransportError(f"phone `{serial}`: {reason}", hint)
        return cls(serial)

    def push(self, local: Path, remote: PurePosixPath) -> None:
        """As `latency_tables.transports.base.Transport`, through adb's own protocol, which checks what arrives."""
        part = f"{remote}.part"
        result = subprocess.run([*self._adb, "push", str(local.absolute()), part], capture_output=True, check=False)
        if result.returncode != 0:
            output = (result.stdout + result.stderr).decode("utf-8", errors="replace")
            explanation = self.explain(output)
            raise TransportError(f"`{local}` cannot be sent to {self.name}: {explanation.message}", explanation.hint)
        moved = self.run(["mv", "-f", part, str(remote)])
        if moved.returncode != 0:
            raise TransportError(f"`{remote}` on {self.name}: {last_line(moved.stderr, 'cannot be named')}")

    def explain(self, stderr: str) -> Explanation:
        """What adb's last words mean."""
        found = last_line(stderr, "the connection was lost before the command ended")
        hint = "is the cable in, and the phone still on? going on later loses no finished measurement"
        if "No space left" in stderr:
            hint = "free some space on the phone"
        return Explanation(found.removeprefix("adb: ").removeprefix("error: "), hint)


_NO_PHONE = "plug it in, turn on USB debugging in the developer options, and look at `adb devices`"


def find_adb() -> str:
    """The path of Android's client.

    Raises:
        TransportError: It is not installed.
    """
    program = shutil.which("adb")
    if program is None:
        raise TransportError(
            "`adb` is not installed", "apt install adb, or https://developer.android.com/tools/releases/platform-tools"
        )
    return program


def connected_phones() -> dict[str, str]:
    """States of the connected phones by serial: ``device`` where one is ready.

    Raises:
        TransportError: adb is missing or does not answer.
    """
    try:
        result = subprocess.run([find_adb(), "devices"], capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise TransportError("`adb devices` gives no answer", "adb kill-server") from error
    if result.returncode != 0:
        message = last_line(result.stderr.decode("utf-8", errors="replace"), "no reason given")
        raise TransportError(f"`adb devices` failed: {message}", "adb kill-server")
    lines = result.stdout.decode("utf-8", errors="replace").splitlines()
    matches = [_DEVICE.fullmatch(line.rstrip()) for line in lines if not line.startswith(("*", "List of"))]
    return {match["serial"]: match["state"] for match in matches if match is not None}
