"""What the report reads from a run folder, checked at the door: the folder may come from a stranger."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_tables.predictor import Latency
from nas.errors import RunError
from nas.objectives.objective import Objective, lead_of
from nas.records.files import read_json
from nas.records.network import read_latency
from nas.records.trial import State, Trial, parse_trial
from nas.runs.front import FRONT_FILE, FrontMember, SearchFront
from search_spaces.json_file import parse_json


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        path: The run folder.
        front: What the search found.
        trials: In order of their numbers; one that was written twice counts once, as written last.
        settings: The run's settings.
        environment: What the run ran with.
    """

    path: Path
    front: SearchFront
    trials: tuple[Trial, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lead(self) -> Objective:
        """The objective that the page is about: what was evaluated, else the first that is no latency."""
        return lead_of(self.front.objectives)

    @property
    def done(self) -> list[Trial]:
        """The trials with a value of the leading objective and a latency on the target, in order."""
        return points_of(self.front, self.trials)

    def section(self, name: str) -> Mapping[str, Any]:
        """An object of the front document, see `section_of`."""
        return section_of(self.front, name)


def section_of(front: SearchFront, name: str) -> Mapping[str, Any]:
    """An object of a front document: ``training``, ``verified``, ``model`` or ``formats``; empty without one.

    Raises:
        RunError: It is no object.
    """
    found = front.document.get(name) or {}
    if not isinstance(found, dict):
        raise RunError(f"`{front.run / FRONT_FILE}`: `{name}` is {type(found).__name__}, expected an object")
    return found


def points_of(front: SearchFront, trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are done and can be drawn: with a leading objective and a latency on the target."""
    return [trial for trial in trials if trial.state is State.DONE and is_point(front, trial)]


def is_point(front: SearchFront, network: Trial | FrontMember) -> bool:
    """Whether a network has a value of the leading objective and a latency on the target."""
    return front.target in network.latency and not math.isnan(network.value(lead_of(front.objectives).name))


def members_of(front: SearchFront) -> list[FrontMember]:
    """The front that trades the leading objective for the target's latency."""
    return front.fronts.get(front.target, front.front)


def measured_latency(front: SearchFront) -> Latency | None:
    """The latency measured on the target itself; None where the winner was not verified there.

    Raises:
        RunError: What stands there is no latency.
    """
    return _latency_in(front, "verified")


def original_point(front: SearchFront) -> tuple[Latency, float] | None:
    """Predicted latency on the target and worth of the model that networks were cut out of; None without one.

    Raises:
        RunError: What stands there is no latency.
    """
    latency, worth = _latency_in(front, "model"), _share_in(front, "model", lead_of(front.objectives).name)
    return None if latency is None or worth is None else (latency, worth)


def _latency_in(front: SearchFront, section: str) -> Latency | None:
    latencies = section_of(front, section).get("latency")
    if not isinstance(latencies, dict) or front.target not in latencies:
        return None
    try:
        return read_latency(latencies, front.target, f"{section}.latency.")
    except ValueError as error:
        raise RunError(f"`{front.run / FRONT_FILE}`: {error}") from error


def verified_member(front: SearchFront) -> FrontMember | None:
    """The member that was verified; None where the document does not say which."""
    number = section_of(front, "verified").get("number")
    return next((member for member in members_of(front) if member.number == number), None)


def verified_share(front: SearchFront, name: str) -> float | None:
    """An accuracy in [0, 1] that was found out about what ships; None where the document has none."""
    return _share_in(front, "verified", name)


def _share_in(front: SearchFront, section: str, name: str) -> float | None:
    share = section_of(front, section).get(name)
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        return None
    return float(share)


def read_run(path: Path) -> ReportData:
    """Read a run folder.

    Raises:
        RunError: There is no such folder, it holds no front, or a file in it is not what a run writes.
    """
    if not path.is_dir():
        raise RunError(f"run folder `{path}`: not found", "give the folder that `nas search` wrote")
    front_file = path / FRONT_FILE
    settings = read_json(path / "settings.json") if (path / "settings.json").is_file() else {}
    if not front_file.is_file():
        raise _no_front(path, settings.get("command"))
    front = parse_front(read_json(front_file), path)
    return ReportData(
        path=path,
        front=front,
        trials=read_trials(path / "trials.jsonl", front.space),
        settings=settings,
        environment=read_json(path / "environment.json") if (path / "environment.json").is_file() else {},
    )


def parse_front(document: Mapping[str, Any], run: Path = Path()) -> SearchFront:
    """Check a front document (the content of ``front.json``).

    Raises:
        RunError: A field is missing or of the wrong type, or the schema is of another version.
    """
    front = SearchFront(run, document)
    front.check()
    return front


def parse_trials(documents: Iterable[Any], space: str) -> tuple[Trial, ...]:
    """Check trial dictionaries (the lines of ``trials.jsonl``) of a space that need not be installed.

    Raises:
        RunError: One of them is not a trial.
    """
    parsed: dict[int, Trial] = {}
    for position, data in enumerate(documents, start=1):
        try:
            trial = parse_trial(data, space)
        except ValueError as error:
            raise RunError(f"trial {position}: {error}") from error
        parsed[trial.number] = trial
    return tuple(parsed[number] for number in sorted(parsed))


def _no_front(path: Path, command: str | None) -> RunError:
    typed = shlex.quote(str(path))
    if command in ("train", "finish"):
        result = {"train": "training.json", "finish": "finish.json"}[command]
        return RunError(
            f"run folder `{path}` holds a `{command}` run, expected a search",
            f"what came out stands in `{path / result}`, and in the model card that `nas export {typed}` writes",
        )
    if command == "import":
        return RunError(
            f"run folder `{path}` holds an imported supernet, expected a search",
            f"search it: `nas search --supernet {typed} --data IMAGES`",
        )
    hint = "give the folder that `nas search` wrote"
    if (path / "trials.jsonl").is_file():
        hint = f"finish the search first: `nas search --resume {typed}`"
    return RunError(f"run folder `{path}`: no `{FRONT_FILE}` in it", hint)


def read_trials(path: Path, space: str) -> tuple[Trial, ...]:
    """Read and check ``trials.jsonl``; none where there is no such file.

    Raises:
        RunError: It is not what a run writes.
    """
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a killed process leaves its last line unfinished
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"`{path}` cannot be read: {error}") from error
    trials = []
    for position, line in enumerate(lines, start=1):
        try:
            trials.append(parse_json(line))
        except ValueError as error:
            raise RunError(f"`{path}` line {position}: not JSON: {error}") from error
    try:
        return parse_trials(trials, space)
    except RunError as error:
        raise RunError(f"`{path}`: {error}") from error
