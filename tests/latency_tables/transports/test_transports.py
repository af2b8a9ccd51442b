"""What every transport promises, on this machine and over a real ssh connection to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latency_tables.errors import CommandTimeoutError, TransportError
from latency_tables.transports import Transport, open_transport
from tests.support.loopback_ssh import loopback_ssh
from tests.support.processes import wait_for, wait_for_end

AWKWARD = "a 'quoted' \"name\" $(touch pwned) `id` ; * \\ é.bin"
"""A file name that any shell would mangle that ever saw it unquoted."""


@pytest.fixture(scope="module")
def ssh_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loopback_ssh(tmp_path_factory.mktemp("ssh")) as server:
        yield server.target


@pytest.fixture(scope="module", params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    target = "local" if request.param == "local" else request.getfixturevalue("ssh_target")
    with open_transport(target) as opened:
        yield opened


def test_a_file_makes_the_way_there_and_back(transport: Transport, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    sent, back = tmp_path / AWKWARD, tmp_path / ("back " + AWKWARD)
    sent.write_bytes(content)
    transport.push(sent, transport.scratch / AWKWARD)
    transport.pull(transport.scratch / AWKWARD, back)
    assert back.read_bytes() == content
    listed = transport.run(["ls", str(transport.scratch)])
    assert listed.stdout.splitlines() == [AWKWARD]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_arguments_arrive_as_they_were_given(transport: Transport) -> None:
    arguments = [AWKWARD, "", "-n", "$HOME", "two\nlines", "{braces}", "!history", "~"]
    result = transport.run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *arguments])
    assert result.stdout == f"{arguments}\n"
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("code", [1, 255])
def test_exit_codes_are_the_commands_own(transport: Transport, code: int) -> None:
    result = transport.run(["sh", "-c", f"echo out; echo err >&2; exit {code}"])
    assert (result.returncode, result.stdout, result.stderr) == (code, "out\n", "err\n")


def test_a_missing_program_is_a_result(transport: Transport) -> None:
    result = transport.run(["no-such-program"])
    assert result.returncode == 127
    assert "not found" in result.stderr


def test_lines_arrive_while_the_command_runs(transport: Transport, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        if line == "waiting":
            gate.touch()  # the command goes on only after its first line was seen here

    script = f"echo waiting; while ! test -e '{gate}'; do sleep 0.02; done; printf 'last, without an end'"
    result = transport.run(["sh", "-c", script], on_line=on_line, timeout=30)
    assert seen == ["waiting", "last, without an end"]
    assert result.stdout == "waiting\nlast, without an end\n"


def test_output_of_other_worlds_is_text(transport: Transport) -> None:
    result = transport.run(["printf", r"one\r\n\377two\n"])
    assert result.stdout == "one\n�two\n"


def test_a_command_that_takes_too_long_is_stopped(transport: Transport, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(CommandTimeoutError, match=r"`sh` on .*: found no end after 1 s"):
        transport.run(["sh", "-c", f"echo $$ > '{pid_file}'; exec sleep 600"], timeout=1)
    wait_for_end(int(pid_file.read_text()))
    assert transport.run(["echo", "still there"]).stdout == "still there\n"


def test_an_interrupt_stops_the_command(transport: Transport) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transport.run(["sh", "-c", "echo $$; exec sleep 600"], on_line=interrupt)
    wait_for_end(pids[0])


def test_what_cannot_be_copied_says_why(transport: Transport, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("old")
    with pytest.raises(TransportError, match=r"`.*none` cannot be fetched from .*No such file"):
        transport.pull(transport.scratch / "none", kept)
    assert kept.read_text() == "old"
    assert [path.name for path in tmp_path.glob(".kept*")] == []
    with pytest.raises(TransportError, match=r"`.*missing` cannot be sent to .*: No such file"):
        transport.push(tmp_path / "missing", transport.scratch / "x")
    with pytest.raises(TransportError, match=r"kept` cannot be sent to .*"):
        transport.push(kept, transport.scratch / "no-such-folder" / "x")
    transport.push(kept, transport.scratch / "y")
    with pytest.raises(TransportError, match=r"`.*no-such-folder/x` cannot be written"):
        transport.pull(transport.scratch / "y", tmp_path / "no-such-folder" / "x")


def test_closing_removes_the_folder_and_may_be_repeated() -> None:
    transport = open_transport("local")
    folder = Path(transport.scratch)
    assert folder.is_absolute()
    assert list(folder.iterdir()) == []
    transport.run(["touch", str(folder / "left behind")])
    transport.close()
    transport.close()
    assert not folder.exists()


def test_a_caller_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "from latency_tables.transports import open_transport\n"
        f"open_transport('local').run(['sh', '-c', 'echo $$ > {pid_file}; exec sleep 600'])"
    )
    caller = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_for_end(int(pid_file.read_text()))


@pytest.mark.parametrize("target", ["", "phone", "local:x", "ssh:", "usb:1"])
def test_unknown_targets_say_what_there_is(target: str) -> None:
    expected = r"expected `local`, `browser`, `ssh:user@host\[:port\]`, `adb:SERIAL` or `aihub:DEVICE`"
    with pytest.raises(TransportError, match=expected):
        open_transport(target)
