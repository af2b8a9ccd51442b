"""What can go wrong with shared weights, their data and their training."""

from __future__ import annotations


class SupernetError(ValueError):
    """Base of the errors of this package.

    Attributes:
        hint: What to do about it; empty where the message says all.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class DataError(SupernetError):
    """Images that cannot be found, read or split."""


class CheckpointError(SupernetError):
    """A checkpoint that is missing, damaged, of another kind or of another version."""


class TrainingError(SupernetError):
    """Training that cannot go on."""


class WorkerLostError(TrainingError):
    """Another process of a training is gone."""
