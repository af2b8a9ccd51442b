"""What a search was asked, and what a resumed one may be asked instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nas.errors import RunError, UsageError
from nas.executors.successive_halving import FIDELITIES, RUNGS
from nas.objectives.bounds import Limit
from nas.objectives.objective import ACCURACY, Objective, is_known, latency_of, parse_names
from nas.runs.folder import check_same
from nas.scores.registry import DEFAULT_SCORE, get_score

DEFAULT_EVALUATIONS = 150
DEFAULT_FREE_EVALUATIONS = 1000
"""Where a score is looked up in a table, or nothing is evaluated at all."""
DEFAULT_CONTROLLER = "predictor"
DEFAULT_FREE_CONTROLLER = "nsga2"
"""Where an evaluation costs less than the predictor that would save it."""
WINDOW_CONTROLLER = "evolution-resnas"
"""Where parameters or MACs have a window, whose rules begin with networks inside it."""
DEFAULT_WINDOW = 0.975
"""Lower end of a bound on parameters or MACs, as a share of it: that of ViT-ResNAS."""
DEFAULT_BUDGET_SECONDS = 600.0
"""Of a run that trains first and was given no budget."""
TABLE_BATCHES = 25
"""Batches that a search is divided into where nothing is evaluated."""
TABLE_BATCH = (16, 4096)
"""Least and most networks of one of them."""
HALVING_BATCH = 27
"""Networks of one bracket of successive halving."""
BUDGET_SETTINGS = ("evaluations", "budget_seconds", "patience")
"""What may change when a run is resumed."""
_ASVIT: Mapping[str, Any] = {"score": "as-vit", "evaluations": 500, "seed": 8}
CONTROLLER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "reinforce": _ASVIT,
    "reinforce-value": _ASVIT,
    "evolution-resnas": {"evaluations": 3350},
}
"""What a controller's paper searches with; all but the evaluations only where networks are ranked untrained."""


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
    objectives: list[str] | None = None
    limits: dict[str, float] = field(default_factory=dict)
    macs: float | None = None
    params: float | None = None
    window: float = DEFAULT_WINDOW
    batch: int = 1
    fidelity: str = "full"
    patience: int | None = None
    model: str | None = None
    weights: str | None = None
    policy: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("limit_ms", "macs", "params", "batch", *BUDGET_SETTINGS):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"`{name}` is {value}, expected more than 0")
        for target, limit_ms in self.limits.items():
            if not limit_ms > 0:
                raise UsageError(f"the limit on `{target}` is {limit_ms} ms, expected more than 0")
        if not 0 <= self.window < 1:
            raise UsageError(f"`window` is {self.window}, expected a share from 0 (no lower end) to below 1")
        if self.score is not None and (self.data is not None or self.supernet is not None):
            raise UsageError(
                f"`score` is {self.score!r}, but networks with trained weights are ranked by accuracy",
                hint="leave `score` out, or `data` and `supernet`",
            )
        if (self.policy is not None or self.options) and not self.trains:
            raise UsageError(
                f"{'`policy`' if self.policy is not None else 'training settings'} given, but nothing is trained",
                hint="add `data`, without `supernet`, for a search that trains",
            )
        if self.seed < 0:
            raise UsageError(f"`seed` is {self.seed}, expected 0 or more")
        if self.fidelity not in FIDELITIES:
            raise UsageError(f"`fidelity` is {self.fidelity!r}, expected {' or '.join(map(repr, FIDELITIES))}")

    @property
    def trains(self) -> bool:
        """Whether the run trains a supernet of its own before it searches."""
        return self.data is not None and self.supernet is None

    @property
    def evaluates(self) -> bool:
        """Whether anything has to be evaluated: a score, or accuracy."""
        return self.score is not None or self.data is not None or self.supernet is not None

    @property
    def targets(self) -> list[str]:
        """The devices whose latency is predicted, `target` first."""
        named = [Objective(name).target for name in self.objectives or ()]
        return list(dict.fromkeys([self.target, *(name for name in named if name is not None), *self.limits]))

    @property
    def bounds(self) -> list[Limit]:
        """All limits: on latencies, then on sizes."""
        latencies = {**({} if self.limit_ms is None else {self.target: self.limit_ms}), **self.limits}
        sizes = {"macs": self.macs, "params": self.params}
        return [
            *(Limit(latency_of(target).name, upper) for target, upper in latencies.items()),
            *(Limit(name, upper, self.window * upper) for name, upper in sizes.items() if upper is not None),
        ]

    @property
    def objective_names(self) -> list[str]:
        """What is optimised beside what is evaluated, and its name where it was given one."""
        return self.objectives or [latency_of(self.target).name]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)


def resolve_settings(given: Mapping[str, Any]) -> SearchSettings:
    """The settings of a fresh run: what was given, and defaults for what is None.

    Raises:
        UsageError: A value is out of range, or values contradict each other.
    """
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if {"model", "weights"} & set(chosen):
        from nas.training.pretrained import check_model

        chosen = check_model(chosen)
    chosen = _with_devices(_with_objectives(chosen))
    is_trained = bool({"data", "supernet"} & set(chosen))
    ranks_untrained = not is_trained and (chosen.get("objectives") is None or "score" in chosen)
    has_window = bool({"macs", "params"} & set(chosen)) and chosen.get("window", DEFAULT_WINDOW) > 0
    if has_window and chosen.get("objectives") is None:
        chosen.setdefault("controller", WINDOW_CONTROLLER)
    if ranks_untrained:
        defaults = dict(CONTROLLER_DEFAULTS.get(chosen.get("controller", ""), {}))
        if "budget_seconds" in chosen:
            defaults.pop("evaluations", None)
        chosen = {"score": DEFAULT_SCORE, **defaults, **chosen}
    settings = SearchSettings(**chosen)
    is_free = not settings.evaluates or (settings.score is not None and get_score(settings.score).is_free)
    if settings.fidelity != "full" and (is_free or settings.score == "as-vit"):
        what = f"score `{settings.score}`" if settings.score else "what is known beforehand"
        raise UsageError(
            f"`fidelity` is {settings.fidelity!r}, but {what} cannot be evaluated by halves",
            hint="leave `fidelity` out",
        )
    if "controller" not in chosen:
        settings = replace(settings, controller=_default_controller(settings, is_free))
    if "batch" not in chosen:
        settings = replace(settings, batch=_default_batch(settings))
    if settings.fidelity == "halving" and settings.batch < len(RUNGS) ** 2:
        raise UsageError(
            f"`batch` is {settings.batch}, but successive halving needs at least {len(RUNGS) ** 2} at once",
            hint=f"leave it out for {HALVING_BATCH}",
        )
    if settings.evaluations is None and settings.budget_seconds is None:
        if settings.trains:
            return replace(settings, budget_seconds=DEFAULT_BUDGET_SECONDS)
        published = CONTROLLER_DEFAULTS.get(settings.controller, {}).get("evaluations")
        usual = DEFAULT_FREE_EVALUATIONS if is_free else DEFAULT_EVALUATIONS
        settings = replace(settings, evaluations=published or usual)
    return settings


def _default_batch(settings: SearchSettings) -> int:
    if settings.fidelity == "halving":
        return HALVING_BATCH
    if settings.evaluates:
        return 1
    least, most = TABLE_BATCH
    return max(least, min(most, (settings.evaluations or DEFAULT_FREE_EVALUATIONS) // TABLE_BATCHES))


def _default_controller(settings: SearchSettings, is_free: bool) -> str:
    if not settings.evaluates:
        return "local"
    return DEFAULT_FREE_CONTROLLER if is_free else DEFAULT_CONTROLLER


def _with_objectives(chosen: dict[str, Any]) -> dict[str, Any]:
    """Check what is to be optimised against what is to be evaluated; a score that is named there is the score."""
    if chosen.get("objectives") is None:
        return chosen
    names = parse_names(chosen["objectives"], chosen.get("target", SearchSettings.target))
    is_trained = bool({"data", "supernet"} & set(chosen))
    evaluated = next((name for name in names if not is_known(name)), None)
    if is_trained and evaluated != ACCURACY:
        raise UsageError(
            f"objectives: found {', '.join(f'`{name}`' for name in names)}, expected `{ACCURACY}` among them, since"
            " networks with trained weights are ranked by it"
        )
    if evaluated == ACCURACY and not is_trained:
        raise UsageError(
            f"objectives: `{ACCURACY}` needs trained weights", hint="add `data` or `supernet`, or name a score instead"
        )
    chosen = {**chosen, "objectives": names}
    if evaluated is None and "score" in chosen:
        raise UsageError(
            f"`score` is {chosen['score']!r}, but is not among the objectives {', '.join(names)}",
            hint="name it there as well, or leave it out",
        )
    if evaluated is None or is_trained:
        return chosen
    score = evaluated.replace("_", "-")
    if chosen.setdefault("score", score) != score:
        raise UsageError(f"`score` is {chosen['score']!r}, but the objectives name `{evaluated}`, expected the same")
    get_score(score)
    return chosen


def _with_devices(chosen: dict[str, Any]) -> dict[str, Any]:
    """The first device that is named is the target, unless one is given."""
    limits = dict(chosen.get("limits") or {})
    named = [Objective(name).target for name in chosen.get("objectives") or ()]
    first = next((target for target in (*named, *limits) if target is not None), None)
    target = chosen.get("target") or first or SearchSettings.target
    if target in limits:
        if chosen.get("limit_ms") not in (None, limits[target]):
            raise UsageError(f"two limits for `{target}`: {chosen['limit_ms']:g} ms and {limits[target]:g} ms")
        chosen = {**chosen, "limit_ms": limits.pop(target)}
    return {**chosen, "target": target, "limits": limits}


def resume_settings(given: Mapping[str, Any], recorded: Mapping[str, Any], folder: Path) -> SearchSettings:
    """The settings of a resumed run: the recorded ones, with what was given of the budget in place of theirs.

    Raises:
        RunError: Something else was given and differs from what is recorded, or the record is of another command.
    """
    if recorded.get("command") != "search":
        raise RunError(f"run folder `{folder}` holds a `{recorded.get('command')}` run, expected a search")
    known = {entry.name for entry in fields(SearchSettings)} & set(recorded)
    settings = SearchSettings(**{name: recorded[name] for name in known})
    found = _comparable(given, settings.target)
    for name, value in found.items():
        if value is not None and name not in BUDGET_SETTINGS:
            check_same(folder, name, getattr(settings, name), value)
    if given.get("patience") is not None:
        settings = replace(settings, patience=given["patience"])
    evaluations, seconds = given.get("evaluations"), given.get("budget_seconds")
    if evaluations is None and seconds is None:
        return settings
    return replace(settings, evaluations=evaluations, budget_seconds=seconds)


def _comparable(given: Mapping[str, Any], target: str) -> dict[str, Any]:
    """What was given, in the form that it is recorded in."""
    found = dict(given)
    if found.get("objectives") is not None:
        found["objectives"] = parse_names(found["objectives"], target)
    if found.get("limits"):
        limits = dict(found["limits"])
        found["limit_ms"] = limits.pop(target, found.get("limit_ms"))
        found["limits"] = limits
    return {name: value for name, value in found.items() if value not in (None, {})}


def split_names(text: str | Sequence[str]) -> list[str]:
    """``accuracy,latency:pixel6`` or a list of such names, as a list."""
    return text.split(",") if isinstance(text, str) else list(text)
