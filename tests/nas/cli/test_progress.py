"""Progress as a terminal and as a file see it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
from nas.cli import display
from nas.cli.progress import ProgressPrinter
from nas.events import SearchStarted, StageProgress, StageStarted, TrialFinished

with ProgressPrinter(quiet="quiet" in sys.argv) as progress:
    progress(StageStarted("table", 90.0))
    for done in range(3):
        progress(StageProgress("measure networks [of the space]", done, 2))
        time.sleep(0.12)
    progress(SearchStarted(Path("run"), "elastic", "pixel6", None, "accuracy", 40, None, 0))
    progress(TrialFinished(None, 10, 2, 3, 5.0))
    display.say("said beside it")
    print("data")
"""


def seen(*arguments: str, terminal: bool, **environment: str) -> str:
    """What the script writes to standard error."""
    known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "COLUMNS")}
    env = {**known, "TERM": "xterm", "COLUMNS": "70", **environment}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    if not terminal:
        run = subprocess.run(command, capture_output=True, text=True, env=env)
        assert (run.returncode, run.stdout) == (0, "data\n"), run.stderr
        return run.stderr
    ours, theirs = pty.openpty()
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=env)
    os.close(theirs)
    text = b""
    with os.fdopen(ours, "rb", buffering=0) as end:
        while True:
            try:
                text += end.read(4096)
            except OSError:  # nothing is left
                break
    assert (run.returncode, run.stdout) == (0, "data\n"), text
    return text.decode()


def test_terminal_has_a_bar_that_is_redrawn() -> None:
    text = seen(terminal=True)
    assert text.startswith("table (up to 1m30s)\r\n")
    assert text.count("measure networks [of the space] ") >= 3
    assert "\x1b[2K" in text, "a line is drawn over"
    assert "said beside it\r\n" in text
    search = text.rindex("search: 10 evaluated, 2 over the bound")
    filled = text[text.rindex("\x1b[2K", 0, search) : search]
    assert filled.count("━") == 28 or "╸" in filled or "╺" in filled
    assert text.endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize(
    ("terminal", "environment"), [(False, {}), (True, {"NO_COLOR": "1"}), (True, {"TERM": "dumb"})]
)
def test_elsewhere_lines_are_plain(terminal: bool, environment: dict[str, str]) -> None:
    text = seen(terminal=terminal, **environment).replace("\r", "")
    assert text.splitlines() == [
        "table (up to 1m30s)",
        "measure networks [of the space] 0/2",
        "said beside it",
    ], "what follows within ten seconds is left out"


def test_quiet_shows_nothing() -> None:
    assert seen("quiet", terminal=True) == "said beside it\r\n"


def test_command_line_loads_no_rich_for_it() -> None:
    code = "import sys, nas.cli.progress; print([name for name in sys.modules if name.startswith('rich')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert run.stdout == "[]\n", run.stderr
