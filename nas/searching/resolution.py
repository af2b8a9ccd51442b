"""What a search is asked, with defaults for the rest, and what a resumed one may be asked instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import RunError, UsageError
from nas.evaluation.compensation import PREFIX
from nas.executors.successive_halving import RUNGS
from nas.objectives.objective import (
    ACCURACY,
    AVERAGE_PRECISION,
    BALANCED,
    FIDELITY,
    MEAN_IOU,
    Objective,
    evaluated_name,
    parse_names,
)
from nas.objectives.quantities import (
    find_quantity,
    limit_name,
    quantity_names,
)
from nas.records.network import target_of
from nas.runs.settings import WITHOUT_LABELS, Given, check_command, check_unchanged, read_recorded, session_settings
from nas.scores.registry import DEFAULT_SCORE, get_score, score_names
from nas.searching.checks import checked
from nas.searching.settings import DEFAULT_FOCUS, DEFAULT_WINDOW, FP32, INT8, WINNER, SearchSettings
from nas.training.pretrained import RANDOM, check_model, space_of
from search_spaces import SearchSpace, UnknownNameError
from search_spaces.timm_models import PREFIX as TIMM
from search_spaces.timm_models import TimmReference

if TYPE_CHECKING:
    from nas.objectives.bounds import Device

DEFAULT_EVALUATIONS = 150
DEFAULT_FREE_EVALUATIONS = 1000
"""Where a score is looked up in a table, or nothing is evaluated at all."""
DEFAULT_CONTROLLER = "predictor"
DEFAULT_FREE_CONTROLLER = "nsga2"
"""Where an evaluation costs less than the predictor that would save it."""
WINDOW_CONTROLLER = "evolution-resnas"
"""Where parameters or MACs have a window, whose rules begin with networks inside it."""
EXCHANGE = "exchange"
"""Where networks inside a trained model are judged as they are cut, and the best within limits is wanted."""
DEFAULT_BUDGET_SECONDS = 600.0
"""Of a run that trains first and was given no budget."""
TABLE_BATCHES = 25
"""Batches that a search is divided into where nothing is evaluated."""
TABLE_BATCH = (16, 4096)
"""Least and most networks of one of them."""
HALVING_BATCH = 27
"""Networks of one bracket of successive halving."""
_ACCURATE = frozenset({"data", "supernet", "accuracies"})
"""Settings that say where accuracies come from."""
_ASVIT: Mapping[str, Any] = {"score": "as-vit", "evaluations": 500, "seed": 8}
CONTROLLER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "reinforce": _ASVIT,
    "reinforce-value": _ASVIT,
    "evolution-resnas": {"evaluations": 3350},
}
"""What a controller's paper searches with; all but the evaluations only where networks are ranked untrained."""


def resolve_settings(given: Mapping[str, Any]) -> SearchSettings:
    """The settings of a fresh run: what was given, and defaults for what is None.

    Raises:
        UsageError: A value is out of range, or values contradict each other.
    """
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if {"model", "weights"} & set(chosen):
        chosen = check_model(chosen)
    chosen = with_devices(_with_objectives(_with_labels(with_precision(chosen))))
    is_trained = bool(_ACCURATE & set(chosen))
    ranks_untrained = not is_trained and (chosen.get("objectives") is None or "score" in chosen)
    has_window = bool({"macs", "params"} & set(chosen)) and chosen.get("window", DEFAULT_WINDOW) > 0
    if has_window and chosen.get("objectives") is None:
        chosen.setdefault("controller", WINDOW_CONTROLLER)
    if ranks_untrained:
        defaults = dict(CONTROLLER_DEFAULTS.get(chosen.get("controller", ""), {}))
        if "budget_seconds" in chosen:
            defaults.pop("evaluations", None)
        chosen = {"score": DEFAULT_SCORE, **defaults, **chosen}
    if {"limit_share", "limit_ms"} <= set(chosen):
        both = f"{chosen['limit_share']:.0%} and {chosen['limit_ms']:g} ms"
        raise UsageError(f"two limits on the latency on `{chosen['target']}`: {both}")
    if "model" in chosen and chosen["weights"] != RANDOM and "policy" not in chosen:
        chosen.setdefault("train", WINNER)
    if "model" in chosen and (chosen.get("budget_seconds") == 0 or chosen.get("train") == WINNER):
        chosen.setdefault("compensation", PREFIX)
        if "objectives" not in chosen:
            chosen.setdefault("focus", DEFAULT_FOCUS)
    settings = checked(SearchSettings(**chosen))
    if settings.trains and not settings.uses_labels:
        raise UsageError(
            "no labels and a training of all networks together: without labels only the network that is chosen learns",
            hint="leave `train` and `policy` out",
        )
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
        if settings.trains or settings.finishes:
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
    has_limit = bool(settings.bounds) or settings.limit_share is not None
    if settings.model is not None and not settings.trains and has_limit and settings.objectives is None:
        return EXCHANGE
    return DEFAULT_FREE_CONTROLLER if is_free else DEFAULT_CONTROLLER


def with_precision(chosen: dict[str, Any]) -> dict[str, Any]:
    """Networks in integers are judged by a table of their own, and on images alone."""
    precision = chosen.get("precision", FP32)
    if precision == FP32:
        return chosen
    if precision != INT8:
        raise UsageError(f"`precision` is {precision!r}, expected {FP32!r} or {INT8!r}")
    if not {"data", "supernet", "model"} & set(chosen) or chosen.get("labels") == WITHOUT_LABELS:
        raise UsageError(
            "`precision` is 'int8', but nothing says how often networks in integers are right",
            hint="add `data` or `supernet`, images with labels",
        )
    return {**chosen, "target": _target_in(chosen.get("target", SearchSettings.target), precision)}


def _target_in(target: str, precision: str) -> str:
    return target if "@" in target or precision == FP32 else f"{target}@{precision}"


def _with_labels(chosen: dict[str, Any]) -> dict[str, Any]:
    """Without labels networks are ranked by fidelity to a model, and only the one that is chosen can be trained."""
    if MEAN_IOU in (chosen.get("objectives") or ()):
        chosen = _on_masks(chosen)
    labels = chosen.get("labels", SearchSettings.labels)
    if labels not in (SearchSettings.labels, WITHOUT_LABELS):
        raise UsageError(f"`labels` is {labels!r}, expected {SearchSettings.labels!r} or {WITHOUT_LABELS!r}")
    if labels != WITHOUT_LABELS:
        if FIDELITY in (chosen.get("objectives") or ()):
            raise UsageError(
                f"objectives: `{FIDELITY}` ranks networks inside a model without labels", hint="add `labels`: none"
            )
        return chosen
    chosen = {"budget_seconds": 0.0, **chosen}
    if "model" not in chosen:
        raise UsageError("no labels and no model", hint="add `model`, the vision transformer to cut networks out of")
    if chosen["weights"] == RANDOM:
        raise UsageError("no labels and random weights, expected trained ones", hint="give `weights`")
    return chosen


def _on_masks(chosen: dict[str, Any]) -> dict[str, Any]:
    """Patches are judged in place of labels of whole images; none are merged, so that they stay on their grid."""
    if "model" not in chosen:
        raise UsageError(
            f"objective `{MEAN_IOU}` judges patches of networks inside a trained model, and there is no `model`",
            hint="add `--model NAME`, a vision transformer of timm",
        )
    reference = TimmReference.parse(chosen["model"].removeprefix(f"{TIMM}:"))
    model = replace(reference, merges=False).text
    return {**chosen, "labels": WITHOUT_LABELS, "model": model, "space": space_of(model)}


def _with_objectives(chosen: dict[str, Any]) -> dict[str, Any]:
    """Check what is to be optimised against what is to be evaluated; a score that is named there is the score."""
    if chosen.get("objectives") is None:
        return chosen
    names = parse_names(chosen["objectives"], chosen.get("target", SearchSettings.target))
    is_trained = bool(_ACCURATE & set(chosen))
    evaluated, leading = evaluated_name(names), FIDELITY if chosen.get("labels") == WITHOUT_LABELS else ACCURACY
    by_labels = (ACCURACY,) if "accuracies" in chosen else (ACCURACY, BALANCED, AVERAGE_PRECISION)
    if evaluated is not None and evaluated not in (*by_labels, FIDELITY, MEAN_IOU) and find_quantity(evaluated) is None:
        scores = [*score_names(), *(name.replace("-", "_") for name in score_names())]
        if evaluated not in scores:
            raise UnknownNameError("objective", evaluated, [*by_labels, FIDELITY, MEAN_IOU, *scores, *quantity_names()])
    if is_trained and evaluated not in (by_labels if leading == ACCURACY else (leading, MEAN_IOU)):
        raise UsageError(
            f"objectives: found {', '.join(f'`{name}`' for name in names)}, expected `{leading}` among them, since"
            f" networks with {_what_is_known(chosen)} are ranked by it"
        )
    if evaluated in by_labels and not is_trained:
        raise UsageError(
            f"objectives: `{evaluated}` needs trained weights",
            hint="add `data`, `supernet` or `accuracies`, or name a score instead",
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


def _what_is_known(chosen: Mapping[str, Any]) -> str:
    if "accuracies" in chosen:
        return "known accuracies"
    return f"trained weights{' and no labels' if chosen.get('labels') == WITHOUT_LABELS else ''}"


def with_devices(chosen: dict[str, Any]) -> dict[str, Any]:
    """The first device that is named is the target, unless one is given."""
    limits = _by_device(chosen.get("limits") or {})
    named = [Objective(name).target for name in chosen.get("objectives") or ()]
    limited = [name for name in limits if find_quantity(name) is None]
    first = next((target for target in (*named, *limited) if target is not None), None)
    target = chosen.get("target") or first or SearchSettings.target
    if target in limits:
        if chosen.get("limit_ms") not in (None, limits[target]):
            raise UsageError(f"two limits for `{target}`: {chosen['limit_ms']:g} ms and {limits[target]:g} ms")
        chosen = {**chosen, "limit_ms": limits.pop(target)}
    return {**chosen, "target": target, "limits": limits}


def _by_device(limits: Mapping[str, float]) -> dict[str, float]:
    """Limits on latencies by device, others by quantity.

    Raises:
        UnknownNameError: A name is neither a device's nor a quantity's.
    """
    full = {limit_name(name): value for name, value in limits.items()}
    return {target_of(name) or name: value for name, value in full.items()}


def resume_settings(given: Given, recorded: Mapping[str, Any], folder: Path) -> SearchSettings:
    """The settings of a resumed run: the recorded ones, with what was given of the budget in place of theirs.

    Raises:
        RunError: Something else was given and differs from what is recorded, or the record is of another command.
    """
    check_command(recorded, "search", folder)
    kept = read_recorded(SearchSettings, recorded)
    settings = SearchSettings(**{**kept, **session_settings(SearchSettings, given)})
    check_unchanged(SearchSettings, _comparable(given, settings.target), SearchSettings(**kept).recorded(), folder)
    if given.get("patience") is not None:
        settings = replace(settings, patience=given["patience"])
    evaluations, seconds = given.get("evaluations"), given.get("budget_seconds")
    if evaluations is None and seconds is None:
        return settings
    is_untrained = settings.budget_seconds == 0
    seconds = settings.budget_seconds if is_untrained and seconds is None else seconds
    if is_untrained != (seconds == 0):
        raise RunError(
            f"run folder `{folder}` was started with{'out' if is_untrained else ''} a training",
            hint=f"start a new run for {'one that trains' if is_untrained else 'a budget of 0'}",
        )
    return checked(replace(settings, evaluations=evaluations, budget_seconds=seconds))


def _comparable(given: Given, target: str) -> Given:
    """What was given, in the form that it is recorded in."""
    found = dict(given)
    if found.get("target") is not None:
        found["target"] = _target_in(found["target"], target.partition("@")[2] or FP32)
    if found.get("objectives") is not None:
        found["objectives"] = parse_names(found["objectives"], target)
    if found.get("limits"):
        limits = _by_device(found["limits"])
        found["limit_ms"] = limits.pop(target, found.get("limit_ms"))
        found["limits"] = limits
    return {name: value for name, value in found.items() if value not in (None, {})}


def share_of_largest(settings: SearchSettings, space: SearchSpace, devices: Sequence[Device]) -> float:
    """The upper end of the whole model's latency on the target times the share that networks may take."""
    predicted = devices[0].predictor.population(space, space.encode([space.largest]))
    return float(predicted.high_ms[0]) * (settings.limit_share or 1.0)
