"""Work in a process that need not import anything, since it is forked from one that has, and that can be killed.

The processes are not forked from the test's own: one that has computed gradients cannot be forked. What
is forked here may fork again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

multiprocessing.get_context("forkserver").set_forkserver_preload(
    [
        "nas.cli.main",
        "nas.searching.search",
        "nas.training.train",
        "nas.finishing.finish",
        "optuna",
        "timm",
        "torch._dynamo",
        "onnxruntime",
        "onnxscript",
    ]
)


def fork(work: Callable[[], object], log: Path, errors: Path | None = None) -> BaseProcess:
    """Begin the work, which can be pickled; what it says goes to ``log``, and its errors to ``errors`` if given."""
    context = multiprocessing.get_context("fork" if multiprocessing.parent_process() else "forkserver")
    process = context.Process(target=_do, args=(work, log, errors or log, dict(os.environ)))
    process.start()
    return process


def _do(work: Callable[[], object], log: Path, errors: Path, environment: Mapping[str, str]) -> None:
    code = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        for standard, path in ((1, log), (2, errors)):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, standard)
            os.close(descriptor)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        work()
        sys.stdout.flush()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def nas(*arguments: str, folder: Path, prepare: Callable[[], object] | None = None, **environment: str) -> None:
    """The command line in this process, begun in a folder and with variables of the environment, once prepared."""
    from nas.cli.main import main

    os.chdir(folder)
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    sys.argv = ["nas", *arguments]
    main()


def run_nas(
    *arguments: str,
    folder: Path,
    prepare: Callable[[], object] | None = None,
    seconds: float = 240.0,
    **environment: str,
) -> CompletedProcess[str]:
    """The command line in a process of its own, to its end."""
    with TemporaryDirectory() as said:
        output, errors = Path(said, "output"), Path(said, "errors")
        work = partial(nas, *arguments, folder=folder, prepare=prepare, **environment)
        code = ended(process := fork(work, output, errors), seconds)
        if code is None:
            kill_all(process)
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (output, errors)]
    assert code is not None, f"`nas {' '.join(arguments)}` did not end in {seconds:g} s: {texts}"
    return CompletedProcess(["nas", *arguments], code, *texts)


def ended(process: BaseProcess, seconds: float) -> int | None:
    """The exit code of a process that ends within so many seconds; None for one that does not."""
    process.join(seconds)
    return process.exitcode


def kill(process: BaseProcess) -> None:
    """Kill the process, and it alone."""
    process.kill()
    process.join()


def kill_all(process: BaseProcess) -> None:
    """Kill the process and those that it began."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def finish(work: Callable[[], object], log: Path, seconds: float = 300.0) -> float:
    """Do the work to its end; how long that took."""
    began = time.monotonic()
    code = ended(process := fork(work, log), seconds)
    if code is None:
        kill_all(process)
    assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
    return time.monotonic() - began


def killed(work: Callable[[], object], log: Path, seconds: float) -> bool:
    """Begin the work and kill it, and it alone, after so long; whether it had not ended before."""
    code = ended(process := fork(work, log), seconds)
    if code is None:
        kill(process)
        return True
    assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
    return False
