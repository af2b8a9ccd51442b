"""adb: what its client says, and what becomes of commands and files on a recorded phone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from latency_tables.errors import TransportError
from latency_tables.transports import open_transport
from latency_tables.transports.adb import SCRATCH
from tests.support.loopback_ssh import free_port
from tests.support.recorded_phone import RecordedPhone, make_phone

SERIAL = "1A2B3C4D"
AWKWARD = "a 'quoted' \"name\" $(touch pwned) `id` ; * \\ é.bin"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedPhone:
    return make_phone(tmp_path / "phone", monkeypatch, SERIAL)


def refused(target: str) -> TransportError:
    with pytest.raises(TransportError) as caught:
        open_transport(target)
    return caught.value


def test_the_only_phone_needs_no_serial(phone: RecordedPhone) -> None:
    with open_transport("adb") as transport:
        assert transport.run(["echo", "hello"]).stdout == "hello\n"
    assert '["-s", "1A2B3C4D", "shell"' in phone.lines("asked.log")[-1]


def test_arguments_and_names_survive_the_shell_of_the_phone(phone: RecordedPhone, tmp_path: Path) -> None:
    sent = tmp_path / AWKWARD
    sent.write_bytes(bytes(range(256)))
    with open_transport(f"adb:{SERIAL}") as transport:
        transport.push(sent, SCRATCH / AWKWARD)
        transport.pull(SCRATCH / AWKWARD, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == bytes(range(256))
        shown = transport.run(["printf", r"%s|", AWKWARD, "", "$HOME"])
        assert shown.stdout == f"{AWKWARD}||$HOME|\n"
        assert transport.run(["sh", "-c", "echo err >&2; exit 1"]).returncode == 1
    assert not (phone.folder / "data/local/tmp/nas").exists()


def test_a_phone_that_is_unplugged_is_no_exit_code(phone: RecordedPhone) -> None:
    transport = open_transport("adb")
    phone.change(gone_after_visits=0)
    with pytest.raises(TransportError, match=r"phone `1A2B3C4D`: device '1A2B3C4D' not found") as caught:
        transport.run(["true"])
    assert "is the cable in" in caught.value.hint
    with pytest.raises(TransportError, match="cannot be sent to phone `1A2B3C4D`: device '1A2B3C4D' not found"):
        transport.push(Path(__file__), SCRATCH / "x")
    transport.close()


def test_a_full_phone_says_so(phone: RecordedPhone) -> None:
    phone.change(full=True)
    with open_transport("adb") as transport, pytest.raises(TransportError, match="No space left on device") as caught:
        transport.push(Path(__file__), SCRATCH / "x")
    assert caught.value.hint == "free some space on the phone"


@pytest.mark.parametrize(
    ("state", "message", "hint"),
    [
        ("unauthorized", "has not authorised this computer", "answer its question about debugging"),
        ("authorizing", "is still authorising", "unlock the phone"),
        ("offline", "is offline", "plug it in again"),
        ("no permissions (user in plugdev group; are your udev rules wrong?)", "may not open it", "udev rules"),
        ("recovery", "its state is `recovery`, expected `device`", "turn on USB debugging"),
    ],
)
def test_a_phone_that_is_not_ready_says_what_it_needs(
    phone: RecordedPhone, state: str, message: str, hint: str
) -> None:
    phone.change(phones={SERIAL: state})
    for target in ("adb", f"adb:{SERIAL}"):
        error = refused(target)
        assert message in str(error)
        assert hint in error.hint


def test_one_of_several_phones_must_be_named(phone: RecordedPhone) -> None:
    phone.change(phones={SERIAL: "device", "emulator-5554": "device"})
    error = refused("adb")
    assert "found 2 phones (`1A2B3C4D`, `emulator-5554`), expected one" in str(error)
    assert error.hint == "choose one with `adb:SERIAL`"
    open_transport("adb:emulator-5554").close()


@pytest.mark.parametrize("serial", ["-e", "a;reboot", "a$(reboot)", "a`b`", "two\nlines"])
def test_serials_that_could_be_something_else_are_refused(phone: RecordedPhone, serial: str) -> None:
    assert "expected one that `adb devices` lists" in str(refused(f"adb:{serial}"))
    assert all("shell" not in line for line in phone.lines("asked.log"))


def test_a_phone_that_is_not_there(phone: RecordedPhone) -> None:
    assert "phone `other` is not connected; connected: `1A2B3C4D`" in str(refused("adb:other"))


def test_without_adb_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    error = refused("adb")
    assert str(error) == "`adb` is not installed"
    assert error.hint.startswith("apt install adb")


@pytest.mark.skipif(shutil.which("adb") is None, reason="needs Android's client: apt install adb")
def test_the_real_client_finds_no_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    try:
        error = refused("adb")
        assert "found 0 phones (none), expected one" in str(error)
        assert "turn on USB debugging" in error.hint
        assert "phone `1A2B3C4D` is not connected" in str(refused(f"adb:{SERIAL}"))
    finally:
        subprocess.run(["adb", "-P", port, "kill-server"], env=os.environ, capture_output=True, check=False)
