"""The errors of all packages: one root, a hint, an exit code."""

from __future__ import annotations

import pytest

import nas
from latency_tables.errors import BusyMachineError, CommandTimeoutError, TableError
from latency_tables.runtimes import RuntimeMissingError
from nas.cli.errors import exit_code
from nas.errors import EvaluationError, MissingDependencyError, RunError, UsageError
from search_spaces import ArchitectureError, NasError
from supernets.errors import CheckpointError, DataError, TrainingError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvaluationError, 1),
        (UsageError, 2),
        (RunError, 4),
        (MissingDependencyError, 5),
        (ArchitectureError, 2),
        (TrainingError, 1),
        (DataError, 2),
        (CheckpointError, 4),
        (TableError, 4),
        (BusyMachineError, 1),
        (CommandTimeoutError, 1),
        (RuntimeMissingError, 5),
    ],
)
def test_errors_of_all_packages_have_one_root(error: type[NasError], code: int) -> None:
    found = error("nothing there", hint="look elsewhere")
    assert isinstance(found, nas.NasError)
    assert (str(found), found.message, found.hint) == ("nothing there", "nothing there", "look elsewhere")
    assert exit_code(found) == code


def test_other_errors_have_an_exit_code_where_they_are_foreseen() -> None:
    assert (exit_code(ModuleNotFoundError("no ray")), exit_code(OSError("disk full")), exit_code(KeyError())) == (
        5,
        1,
        None,
    )
