"""ssh: who is let in, who is not, and a host that vanishes, against a real sshd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from latency_tables.errors import TransportError
from latency_tables.transports import open_transport
from tests.support.loopback_ssh import Server, free_port, loopback_ssh, make_key
from tests.support.processes import wait_for_end


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with loopback_ssh(tmp_path_factory.mktemp("ssh")) as started:
        yield started


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    kept = {path: path.read_text() for path in (running.config, running.known_hosts)}
    yield running
    for path, text in kept.items():
        path.write_text(text)


def refused(server: Server) -> TransportError:
    with pytest.raises(TransportError) as caught:
        open_transport(server.target)
    return caught.value


def test_an_unknown_host_key_is_not_accepted(server: Server) -> None:
    server.known_hosts.write_text("")
    error = refused(server)
    assert "its host key is not known" in str(error)
    assert f"log in once with `ssh -p {server.port} " in error.hint
    assert server.known_hosts.read_text() == ""


def test_nor_is_one_where_the_users_configuration_would(server: Server) -> None:
    server.known_hosts.write_text("")
    server.config.write_text(server.config.read_text() + "StrictHostKeyChecking no\n")
    assert "its host key is not known" in str(refused(server))
    assert server.known_hosts.read_text() == ""


def test_a_changed_host_key_is_called_by_its_name(server: Server) -> None:
    make_key(server.folder / "other_key")
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'other_key.pub').read_text()}")
    error = refused(server)
    assert "its host key is not the known one" in str(error)
    assert "somebody may be listening in" in error.hint
    assert f"`ssh-keygen -R '[127.0.0.1]:{server.port}'`" in error.hint


def test_a_wrong_key_is_refused(server: Server) -> None:
    make_key(server.folder / "wrong_key")
    server.config.write_text(server.config.read_text().replace("user_key", "wrong_key"))
    error = refused(server)
    assert "it refuses our keys" in str(error)
    assert "ssh-copy-id" in error.hint


def test_a_closed_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="nothing listens on that port") as caught:
        open_transport(f"ssh:somebody@127.0.0.1:{free_port()}")
    assert "must work without a question" in caught.value.hint


def test_a_host_that_vanishes_is_noticed_and_stops_the_command(tmp_path: Path) -> None:
    with loopback_ssh(tmp_path) as server:
        check_vanishing(server)


def check_vanishing(server: Server) -> None:
    pids: list[int] = []

    def vanish(line: str) -> None:
        pids.append(int(line))
        server.vanish()

    transport = open_transport(server.target)
    with pytest.raises(TransportError, match=r"host `.*@127\.0\.0\.1`: .*(closed|reset|lost)") as caught:
        transport.run(["sh", "-c", "echo $$; exec sleep 600"], on_line=vanish)
    assert "loses no finished measurement" in caught.value.hint
    wait_for_end(pids[0])
    transport.close()  # no error, although nobody is there any more
    with pytest.raises(TransportError, match="nothing listens on that port"):
        transport.run(["true"])


@pytest.mark.parametrize(
    "address",
    [
        "-oProxyCommand=touch pwned",
        "user@-oProxyCommand=touch",
        "-l@host",
        "host:0",
        "host:65536",
        "host:port",
        "two words",
        "host;reboot",
        "$(reboot)",
        "a@b@c",
        "@host",
        "::1",
    ],
)
def test_addresses_that_could_be_something_else_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("ssh was started"))
    with pytest.raises(TransportError, match=r"expected `\[user@\]host\[:port\]`"):
        open_transport(f"ssh:{address}")


def test_without_ssh_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TransportError, match="`ssh` is not installed") as caught:
        open_transport("ssh:pi@raspberrypi")
    assert caught.value.hint == "apt install openssh-client"


def test_the_measuring_worker_runs_over_there(server: Server, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
    from latency_tables.repeats import Protocol
    from latency_tables.runtimes.registry import get_runtime

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", value[:1], value[1:])
    model = tmp_path / "a 'tiny' network.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    protocol = Protocol(rounds=2, rounds_limit=2, warm_up_runs=1, warm_up_seconds=0, runs=5, seconds=0, drift_limit=1e9)
    with open_transport(server.target) as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        session = measure(runner, [NetworkFile(model)], protocol)
        assert [found.name for found in Path(transport.scratch).glob("*.onnx")] != []
    (measurement,) = session.measurements
    assert (measurement.rounds, measurement.ms > 0) == (2, True)
