"""The command line: speed of starting, exit codes and messages for bad input, what goes to which stream."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support import forked
from tests.support.forked import ended, fork, run_nas
from tests.support.processes import wait_for

HEAVY = ("torch", "timm", "ray", "optuna", "scipy", "sklearn", "onnx", "onnxruntime", "plotly", "networkx", "numpy")


def nas(*arguments: str, folder: Path) -> CompletedProcess[str]:
    """Run the command line in ``folder``, with a cache of its own."""
    return run_nas(*arguments, folder=folder, NAS_CACHE_DIR=str(folder / "cache"), COLUMNS="120")


def limit_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))


def test_importing_the_command_line_is_light() -> None:
    script = f"import sys, nas.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_help_answers_at_once() -> None:
    """Under 0.4 s; CPU time, so that a busy machine does not fail it, and the best of three."""
    script = "import os, runpy, sys; sys.argv = ['nas', '--help']; from nas.cli.main import main\ntry: main()\n"
    script += "except SystemExit: pass\nprint(sum(os.times()[:2]), file=sys.stderr)"
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in "123"]
    assert "search" in runs[0].stdout
    assert min(float(run.stderr.split()[-1]) for run in runs) < 0.4


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["search", "--space", "elastik"], 2, "unknown search space: `elastik`", "did you mean `elastic`?"),
        (["search", "--target", "pixel7"], 2, "unknown target: `pixel7`", "did you mean `pixel6"),
        (["search", "--controller", "nsga22"], 2, "unknown controller: `nsga22`", "did you mean `nsga2`?"),
        (["search", "--score", "lenght-distortion"], 2, "unknown score: `lenght-distortion`", "length-distortion"),
        (["search", "--limit", "12"], 2, "`12` has no unit, expected a latency such as `12ms`", ""),
        (["search", "--limit", "-3ms"], 2, "expected more than 0: a latency", ""),
        (["search", "--limit", "0ms"], 2, "expected more than 0", ""),
        (["search", "--budget", "6 parsecs"], 2, "`6 parsecs` has unit `parsecs`", ""),
        (["search", "--evaluations", "0"], 2, "'--evaluations'", ""),
        (["search", "--evalutions", "9"], 2, "No such option", "--evaluations"),
        (["search", "--limit", "0.01ms"], 3, "no network of `elastic` stays within 0.01 ms", "raise the limit to"),
        (["search", "--dry-run", "--limit", "0.01ms"], 3, "0.01 ms cannot be met", ""),
        (["search", "--dry-run", "--limit", "peak-memory=200kB"], 3, "peak-memory of 200 kB cannot be met", "nearest"),
        (["search", "--limit", "peek=3MB"], 2, "unknown quantity or device: `peek`", "params, macs, peak-memory"),
        (["search", "--space", "elastic-mini", "--data", "digit"], 2, "`digit`", "did you mean `digits`?"),
        (["search", "--space", "elastic-mini", "--data", "nowhere/at-all"], 2, "nowhere/at-all", ""),
        (["search", "--resume", "nowhere"], 4, "`nowhere` holds no run to resume", "start one with `--output`"),
        (["train", "--resume", "nowhere"], 4, "`nowhere` holds no run to resume", "start one with `--output`"),
        (["search", "--supernet", "nowhere"], 4, "nowhere", ""),
        (["train", "--epochs", "1", "--budget", "1m"], 2, "both", ""),
        (["export", "nowhere"], 4, "`nowhere` holds no `front.json`", "name a run folder"),
        (["report", "nowhere"], 4, "nowhere", ""),
        (["latency", "show", "pixel"], 2, "unknown target: `pixel`", "did you mean"),
        (["latency", "show", "local"], 4, "`local` has no latency table yet", "nas latency build --target local"),
        (["latency", "build", "--target", "moon"], 2, "target `moon`: expected `local`", "adb devices"),
        (["latency", "build", "--spaces", "elastik"], 2, "networks: `elastik`", "did you mean `elastic`?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(tmp_path: Path, arguments: list[str], code: int, message: str, hint: str) -> None:
    result = nas(*arguments, folder=tmp_path)
    told = " ".join(result.stderr.split())
    assert result.returncode == code, result.stderr
    assert message in told
    assert hint in told
    assert "Traceback" not in result.stderr
    assert result.stdout == "" or "--dry-run" in arguments
    assert not (tmp_path / "runs").exists(), "a refused command must write nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1', "cannot be read"),
        ("[]", "expected"),
        ('{"schema": 99}', "schema"),
    ],
)
def test_broken_front(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "front.json").write_text(content)
    result = nas("export", "run", folder=tmp_path)
    assert result.returncode == 4
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("cats", "dogs"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "notes.txt").write_text("no image")
    for folder, message in (("empty", "empty`: the folder is empty"), ("texts", "texts`")):
        result = nas("train", "--data", folder, "--epochs", "1", folder=tmp_path)
        assert result.returncode == 2, result.stderr
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "runs").exists()


def test_truncated_checkpoint(tmp_path: Path) -> None:
    from search_spaces import get_space
    from supernets import Supernet
    from supernets.data.sources import load_data
    from supernets.training.trainer import TrainingSettings, train_supernet

    folder = tmp_path / "trained" / "checkpoints"
    data = load_data("digits", 32)
    settings = TrainingSettings(budget_seconds=0.1, batch_size=4)
    result = train_supernet(Supernet(get_space("elastic-mini", 10)), data, settings, folder)
    result.checkpoint.write_bytes(result.checkpoint.read_bytes()[:-1000])
    found = nas("search", "--supernet", "trained", folder=tmp_path)
    assert found.returncode == 4, found.stderr
    assert "supernet.safetensors" in found.stderr
    assert "Traceback" not in found.stderr


def test_run_folder_in_use_or_half_written(tmp_path: Path) -> None:
    from nas.runs.run import Run

    with Run(tmp_path / "run", {"command": "search"}, seed=0):
        result = nas("search", "--space", "elastic-mini", "-o", "run", "--force", folder=tmp_path)
    assert result.returncode == 4, result.stderr
    assert f"{os.getpid()}" in result.stderr
    (tmp_path / "run" / "settings.json").write_text('{"schema": 1, "command": "sea')
    result = nas("search", "--resume", "run", folder=tmp_path)
    assert result.returncode == 4
    assert "settings.json` cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk: writing fails with an error of the system."""
    search = ("search", "--space", "elastic-mini", "--evaluations", "200", "-o", "run")
    result = run_nas(*search, folder=tmp_path, prepare=limit_files)
    assert result.returncode == 1, result.stderr
    assert "cannot be written" in result.stderr
    assert "hint: free some space" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "run").glob("*.tmp"))
    lines = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    assert all(json.loads(line)["number"] == number for number, line in enumerate(lines))
    resumed = nas("search", "--resume", "run", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr


def test_broken_table_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "cache" / "latency").mkdir(parents=True)
    (tmp_path / "cache" / "latency" / "local.json").write_text('{"schema": 1, "name": "local"}')
    result = nas("search", "--space", "elastic-mini", "--target", "local", folder=tmp_path)
    assert result.returncode == 4
    assert "local.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_whole_search_on_the_command_line(tmp_path: Path) -> None:
    limited = ["--limit", "0.9ms", "--evaluations", "60"]
    result = nas("search", "--space", "elastic-mini", *limited, "--json", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert {"architecture", "params", "macs", "latency", "objectives"} <= set(document["front"][0])
    assert all(entry["latency"]["pixel6"]["high_ms"] <= 0.9 for entry in document["front"])

    run = tmp_path / document["run"]
    report = nas("report", str(run), folder=tmp_path)
    assert report.returncode == 0, report.stderr
    assert Path(tmp_path, report.stdout.strip()).stat().st_size > 10_000

    again = nas("search", "-o", str(run), folder=tmp_path)
    assert again.returncode == 4
    assert "--resume" in again.stderr

    exported = nas("export", str(run), "--pick", "fastest", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "weights are RANDOM" in exported.stderr
    assert (run / "exports" / "fastest" / "model.onnx").exists()

    wrong = nas("export", str(run), "--pick", "kne", folder=tmp_path)
    assert wrong.returncode == 2
    assert "`knee`" in wrong.stderr


def test_lists(tmp_path: Path) -> None:
    for command, expected in (("spaces", "elastic-mini"), ("targets", "pixel6"), ("env", "torch")):
        plain, document = nas(command, folder=tmp_path), nas(command, "--json", folder=tmp_path)
        assert plain.returncode == document.returncode == 0
        assert expected in plain.stdout
        assert json.loads(document.stdout)["schema"] == 1
    shown = nas("latency", "show", "pixel6", folder=tmp_path)
    assert "nobody touched the device" in shown.stdout
    assert "MobileNetV4 paper" in shown.stderr


def test_interrupt_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    arguments = [
        "search",
        "--space",
        "elastic-mini",
        "--score",
        "length-distortion",
        "--evaluations",
        "4000",
        "-o",
        "run",
    ]
    told, trials = tmp_path / "told", tmp_path / "run" / "trials.jsonl"
    process = fork(partial(forked.nas, *arguments, folder=tmp_path, NAS_CACHE_DIR=str(tmp_path / "cache")), told)
    wait_for(lambda: trials.exists() and trials.read_text().count("\n") >= 2, 120)
    os.kill(process.pid or 0, signal.SIGINT)
    assert ended(process, 120) == 130, told.read_text()
    assert "Traceback" not in told.read_text()
    assert "nas search --resume run" in told.read_text()
    finished = trials.read_text().count("\n")
    resumed = nas("search", "--resume", "run", "--evaluations", str(finished + 1), folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    changed = nas("search", "--resume", "run", "--seed", "7", folder=tmp_path)
    assert changed.returncode == 4
    assert "`seed` was 0" in changed.stderr
