"""A session's record on disk: one JSON line per finished piece of work; a killed build goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from latency_tables.errors import LatencyError
from latency_tables.phone_repeats import PhoneRepeat
from search_spaces.json_file import check_fields, parse_json

_HEADER = "settings"


class _Accelerated(TypedDict, total=False):
    throttled: list[str]


class _Visit(_Accelerated):
    step: tuple[int, int]
    wall_ms: list[float]
    cpu_ms: list[float]
    others_busy: float | None


class _Profiled(TypedDict):
    position: int


class _PhoneVisit(TypedDict):
    visit: PhoneRepeat


class _HubJob(TypedDict):
    step: str
    number: int
    job: str


class _HubProfile(TypedDict):
    number: int
    microseconds: list[float]
    units: dict[str, int]


_KINDS = {
    "visit": _Visit,
    "profiled": _Profiled,
    "phone_visit": _PhoneVisit,
    "hub_job": _HubJob,
    "hub_profile": _HubProfile,
}


class MeasurementJournal:
    """What has been measured, in the order in which it was.

    Every record reaches the file before the next piece of work begins. A last line that a kill tore is dropped, and
    whatever follows a line that is damaged. A journal of other settings is set aside under a name that says so, and a
    new one begins.

    Args:
        path: The file; None keeps the records in memory only.
        settings: All that decides what the records mean.

    Attributes:
        records: Records of earlier processes, and of this one.
        set_aside: Where a journal of other settings was moved to; None where there was none.

    Raises:
        LatencyError: The file cannot be read or written.
    """

    def __init__(self, path: Path | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.set_aside: Path | None = None
        self._path = path
        self._header = {"kind": _HEADER, **json.loads(json.dumps(settings or {}))}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = _whole_lines(path) if path.exists() else []
            if lines and lines[0] != self._header:
                self.set_aside = _free_name(path)
                os.replace(path, self.set_aside)
                lines = []
            if not lines:
                self.append(self._header)
            self.records = lines[1:]
        except OSError as error:
            raise self._failed(error) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; it has reached the file when this returns.

        Raises:
            LatencyError: The file cannot be written.
        """
        if record["kind"] != _HEADER:
            self.records.append(dict(record))
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write(_line(record))
        except OSError as error:
            raise self._failed(error) from error

    def clear(self) -> None:
        """Forget everything but the settings.

        Raises:
            LatencyError: The file cannot be written.
        """
        self.records = []
        if self._path is not None:
            try:
                os.truncate(self._path, len(_line(self._header)))
            except OSError as error:
                raise self._failed(error) from error

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All records of one kind."""
        return [record for record in self.records if record["kind"] == kind]

    def _failed(self, error: OSError) -> LatencyError:
        return LatencyError(
            f"journal `{self._path}` cannot be kept: {error.strerror or error}", "free some space, then build again"
        )


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file; whatever follows the last whole one is cut off."""
    records, end = [], 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = parse_json(line) if line.endswith(b"\n") else None
                if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
                    break
                if record["kind"] in _KINDS:
                    check_fields(_KINDS[record["kind"]], record)
            except ValueError:
                break
            records.append(record)
            end += len(line)
    if end < path.stat().st_size:
        os.truncate(path, end)
    return records


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.stem}.other-settings-{number}{path.suffix}")).exists():
        number += 1
    return name
