"""The log of a training: a line of JSON now and then, which a resumed training continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.json_file import parse_json
from supernets.checkpoint import write_atomically
from supernets.errors import CheckpointError, TrainingError

LOG_NAME = "training.jsonl"


class TrainingLog:
    """``training.jsonl`` of a training. Every line has ``step``, the number of steps done.

    Args:
        folder: Folder in which it is written.
        is_written: Whether this process writes it; without, nothing happens.
    """

    def __init__(self, folder: Path, is_written: bool = True) -> None:
        self.path = folder / LOG_NAME
        self._is_written = is_written

    def begin(self) -> None:
        """Start an empty log.

        Raises:
            TrainingError: It cannot be written.
        """
        self._write("w", "")

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        self._write("a", json.dumps(line) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines of steps after ``step``, which will be done again, and one that was cut short.

        Raises:
            CheckpointError: It is damaged, or cannot be written.
        """
        if not self._is_written:
            return
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith(b"\n") and self._step(line) <= step]
        try:
            write_atomically(self.path, b"".join(kept))
        except OSError as error:
            raise CheckpointError(f"`{self.path}`: cannot be written: {error.strerror or error}") from error

    def _step(self, line: bytes) -> int:
        try:
            found = parse_json(line)
            if not isinstance(found, dict) or type(found.get("step")) is not int:
                raise ValueError("found no `step`")
        except ValueError as error:
            raise CheckpointError(
                f"training log `{self.path}` is damaged: {error}", hint="delete it or restore it, then resume"
            ) from error
        step: int = found["step"]
        return step

    def _write(self, mode: str, text: str) -> None:
        if not self._is_written:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise TrainingError(
                f"training log `{self.path}`: cannot be written: {error.strerror or error}",
                hint="free some space, then resume",
            ) from error
