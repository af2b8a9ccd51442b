"""What a search was asked, and what a resumed one may be asked instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas.errors import RunError, UsageError
from nas.files import read_json
from nas.scores.registry import DEFAULT_SCORE, get_score

DEFAULT_EVALUATIONS = 150
DEFAULT_FREE_EVALUATIONS = 1000
"""Where a score is looked up in a table."""
DEFAULT_CONTROLLER = "predictor"
DEFAULT_FREE_CONTROLLER = "nsga2"
"""Where an evaluation costs less than the predictor that would save it."""
DEFAULT_BUDGET_SECONDS = 600.0
"""Of a run that trains first and was given no budget."""
SEARCH_SHARE = 0.1
DELIVERY_SHARE = 0.06
"""Of a budget that is also to train: training takes what these, and the building of a latency table, leave over."""
BUDGET_SETTINGS = ("evaluations", "budget_seconds")
_ASVIT: Mapping[str, Any] = {"score": "as-vit", "evaluations": 500, "seed": 8}
CONTROLLER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "reinforce": _ASVIT,
    "reinforce-value": _ASVIT,
    "evolution-resnas": {"evaluations": 3350},
}
"""What a controller's paper searches with, where networks are ranked untrained."""


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search, as `nas.search` documents them."""

    space: str = "elastic"
    target: str = "pixel6"
    limit_ms: float | None = None
    data: str | None = None
    supernet: str | None = None
    score: str | None = None
    controller: str = DEFAULT_FREE_CONTROLLER
    seed: int = 0
    evaluations: int | None = None
    budget_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("limit_ms", *BUDGET_SETTINGS):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"`{name}` is {value}, expected more than 0")
        if self.score is not None and (self.data is not None or self.supernet is not None):
            raise UsageError(
                f"`score` is {self.score!r}, but networks with trained weights are ranked by accuracy",
                hint="leave `score` out, or `data` and `supernet`",
            )
        if self.seed < 0:
            raise UsageError(f"`seed` is {self.seed}, expected 0 or more")

    @property
    def trains(self) -> bool:
        """Whether the run trains a supernet of its own before it searches."""
        return self.data is not None and self.supernet is None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)


def resolve_settings(given: Mapping[str, Any]) -> SearchSettings:
    """The settings of a fresh run: what was given, and defaults for what is None.

    Raises:
        UsageError: A value is out of range.
    """
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not {"data", "supernet"} & set(chosen):
        defaults = dict(CONTROLLER_DEFAULTS.get(chosen.get("controller", ""), {}))
        if "budget_seconds" in chosen:
            defaults.pop("evaluations", None)
        chosen = {**defaults, **chosen}
    settings = SearchSettings(**chosen)
    if settings.score is None and settings.data is None and settings.supernet is None:
        settings = replace(settings, score=DEFAULT_SCORE)
    is_free = settings.score is not None and get_score(settings.score).is_free
    if "controller" not in chosen:
        settings = replace(settings, controller=DEFAULT_FREE_CONTROLLER if is_free else DEFAULT_CONTROLLER)
    if settings.evaluations is None and settings.budget_seconds is None:
        if settings.trains:
            return replace(settings, budget_seconds=DEFAULT_BUDGET_SECONDS)
        settings = replace(settings, evaluations=DEFAULT_FREE_EVALUATIONS if is_free else DEFAULT_EVALUATIONS)
    return settings


def resume_settings(given: Mapping[str, Any], recorded: Mapping[str, Any], folder: Path) -> SearchSettings:
    """The settings of a resumed run: the recorded ones, with what was given of the budget in place of theirs.

    Raises:
        RunError: Something else was given and differs from what is recorded, or the record is of another command.
    """
    if recorded.get("command") != "search":
        raise RunError(f"run folder `{folder}` holds a `{recorded.get('command')}` run, expected a search")
    for name, value in given.items():
        if value is not None and name not in BUDGET_SETTINGS:
            check_same(folder, name, recorded.get(name), value)
    same: dict[str, Any] = {name: recorded.get(name) for name in SearchSettings.__dataclass_fields__}
    settings = SearchSettings(**same)
    budget = {name: given[name] for name in BUDGET_SETTINGS}
    return replace(settings, **budget) if any(value is not None for value in budget.values()) else settings


def check_same(folder: Path, name: str, recorded: object, found: object) -> None:
    """Make sure that a setting is what it was when the run was started.

    Raises:
        RunError: It is not.
    """
    if recorded != found:
        raise RunError(
            f"run folder `{folder}`: `{name}` was {recorded!r} when the run was started, found {found!r}",
            hint="only `evaluations` and `budget_seconds` may change when a run is resumed; start a new run for others",
        )


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """The settings in a run folder; None where no run was started there yet.

    Raises:
        RunError: They cannot be read.
    """
    path = folder / "settings.json"
    return read_json(path) if path.exists() else None
