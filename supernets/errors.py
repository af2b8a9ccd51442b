"""What can go wrong with shared weights, their data and their training."""

from __future__ import annotations

from search_spaces.errors import NasError


class SupernetError(NasError, ValueError):
    """Base of the errors of this package."""


class DataError(SupernetError):
    """Images that cannot be found, read or split."""

    exit_code = 2


class CheckpointError(SupernetError):
    """A checkpoint that is missing, damaged, of another kind or of another version."""

    exit_code = 4


class TrainingError(SupernetError):
    """Training that cannot go on."""


class WorkerLostError(TrainingError):
    """Another process of a training is gone."""
