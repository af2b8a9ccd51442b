"""What cannot be judged on disturbed images."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from nas.errors import RunError, UsageError
from nas.exporting.robust import note_robustness


def test_what_is_not_trained_or_no_search_is_refused(tmp_path: Path) -> None:
    run = nas.search("elastic-mini", evaluations=16, output=tmp_path / "run").run
    with pytest.raises(UsageError, match="its networks are not trained, so that there is nothing to judge"):
        note_robustness(run)
    with pytest.raises(RunError):
        note_robustness(tmp_path)
