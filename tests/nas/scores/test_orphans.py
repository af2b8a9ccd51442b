"""Worker processes end when their parent is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import is_running, wait_for_end

DRIVER = """
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from nas.scores.orphans import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, get_context("spawn"), initializer=end_with_parent)
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    time.sleep(600)
"""


def test_workers_of_a_killed_process_end(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    with subprocess.Popen([sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        workers = [int(word) for word in driver.stdout.readline().split()]
        assert workers
        assert all(is_running(worker) for worker in workers)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        wait_for_end(*workers)
