"""Processes that read are killed, at chosen and at random moments: what they owed arrives all the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernets.data.reader_process import ATTEMPTS, ReaderProcess
from supernets.data.sources import load_data
from supernets.errors import DataError
from tests.support.processes import is_running, wait_for

STREAM = """
import sys
from supernets.data.sources import load_data

if __name__ == "__main__":
    data = load_data(sys.argv[1], 8, workers=3)
    batches = data.train_batches(2, 0, 0)
    next(batches)
    import multiprocessing
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    input()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top, pixels = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (top / name).mkdir()
        for number in range(60):
            image = Image.fromarray(pixels.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            image.save(top / name / f"{number:02}.png")
    return top


def readers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


class DiesOnce:
    """Answers with a tensor; the process that takes ``token`` away dies at one moment of its work."""

    def __init__(self, moment: str, token: Path) -> None:
        self.moment, self.token = moment, token

    def __call__(self, number: int) -> Any:
        mine = number == 3 and self._took()
        if mine and self.moment == "reading":
            die()
        if mine and self.moment == "packing":
            return DiesWhenPacked()
        if mine and self.moment == "half a message":
            Connection._send_bytes = half_a_message  # type: ignore[attr-defined]
        if mine and self.moment == "handed over":
            threading.Timer(0.2, die).start()
        return torch.full((256, 256), float(number))

    def _took(self) -> bool:
        try:
            self.token.unlink()
        except FileNotFoundError:
            return False
        return True


class DiesWhenPacked:
    def __reduce__(self) -> Any:
        die()


def half_a_message(connection: Connection, buffer: memoryview) -> None:
    os.write(connection.fileno(), len(buffer).to_bytes(4, "big") + bytes(buffer[: len(buffer) // 2]))
    die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails(_asked: int) -> int:
    raise ZeroDivisionError("as asked")


def runs_out(_asked: int) -> int:
    raise OSError(24, "Too many open files")


def always_dies(_asked: int) -> int:
    os._exit(7)


@pytest.mark.parametrize("moment", ["reading", "packing", "half a message", "handed over"])
def test_what_a_killed_process_owed_is_read_by_another(tmp_path: Path, moment: str) -> None:
    token = tmp_path / "token"
    token.touch()
    reader = ReaderProcess(DiesOnce(moment, token))
    for number in range(6):
        reader.ask(number)
    if moment == "handed over":
        time.sleep(1.0)  # its messages lie there, and the tensors that they stand for have gone with it
    first = readers()
    assert [float(reader.receive()[0, 0]) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert not token.exists()
    assert moment == "handed over" or set(first) != set(readers())


def test_a_process_that_dies_again_and_again_is_an_error() -> None:
    reader: ReaderProcess[int, int] = ReaderProcess(always_dies)
    reader.ask(0)
    with pytest.raises(
        DataError, match=f"{ATTEMPTS} worker processes died one after another, the last one exit code 7"
    ):
        reader.receive()


def test_a_fault_keeps_its_traceback_and_what_runs_out_is_named() -> None:
    faulty: ReaderProcess[int, int] = ReaderProcess(fails)
    faulty.ask(0)
    with pytest.raises(RuntimeError, match=r"(?s)in fails.*ZeroDivisionError: as asked"):
        faulty.receive()
    short: ReaderProcess[int, int] = ReaderProcess(runs_out)
    short.ask(0)
    with pytest.raises(DataError, match="Too many open files") as caught:
        short.receive()
    assert "ulimit -n" in caught.value.hint


def test_processes_end_with_what_they_read_for_and_with_a_killed_parent(folder: Path) -> None:
    before = set(readers())
    data = load_data(str(folder), 8, workers=2)
    next(data.train_batches(2, 0, 0))
    mine = set(readers()) - before
    assert len(mine) == 2
    del data
    assert not mine & set(readers())
    parent = subprocess.Popen(
        [sys.executable, "-c", STREAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    children = [int(number) for number in parent.stdout.readline().split()]
    assert len(children) == 3
    parent.kill()
    parent.communicate()
    wait_for(lambda: not any(map(is_running, children)), 30)


@pytest.mark.parametrize("kills", [3, pytest.param(300, marks=pytest.mark.slow)])
def test_batches_are_the_same_whatever_is_killed(folder: Path, kills: int, record_property: Any) -> None:
    expected = list(load_data(str(folder), 8, workers=0).train_batches(2, 0, 0))
    data, random = load_data(str(folder), 8, workers=3), np.random.default_rng(kills)
    arrived, ended, killed = threading.Event(), time.monotonic() + 30 + kills, set()

    def kill() -> None:
        """After a batch, one process at a moment of chance; then another batch is to come first."""
        while len(killed) < kills and arrived.wait(max(0.0, ended - time.monotonic())):
            time.sleep(float(random.exponential(0.01)))
            known = {process.pid for process in list(multiprocessing.process._children)}  # without waiting for any
            alive = sorted(pid for pid in known - killed if pid is not None)
            if alive:
                killed.add(chosen := int(random.choice(alive)))
                os.kill(chosen, signal.SIGKILL)
            arrived.clear()

    killer = threading.Thread(target=kill)
    killer.start()
    while killer.is_alive():
        for found, right in zip(data.train_batches(2, 0, 0), expected, strict=True):
            arrived.set()
            assert torch.equal(found[0], right[0])
            assert torch.equal(found[1], right[1])
    assert len(killed) == kills
    record_property("worker processes killed", len(killed))
