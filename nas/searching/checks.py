"""What the settings of a search may be, each by itself and beside the others; nothing is read for it."""

from __future__ import annotations

from nas.errors import UsageError
from nas.evaluation.compensation import NONE
from nas.executors.factory import EXECUTORS
from nas.executors.successive_halving import FIDELITIES
from nas.objectives.quantities import PARAMS, PEAK_MEMORY, WEIGHT_BYTES
from nas.searching.settings import FP32, SUPERNET, WINNER, SearchSettings
from nas.training.pretrained import RANDOM

SCALED_WITHIN = frozenset({PARAMS.name, PEAK_MEMORY.name, WEIGHT_BYTES.name})
"""Quantities that several scales of an image leave nearly as they are."""


def checked(settings: SearchSettings) -> SearchSettings:
    """The settings, if they make sense.

    Raises:
        UsageError: A value is out of range, or settings contradict each other.
        TrainingError: A training setting is out of range.
    """
    if settings.train not in (None, SUPERNET, WINNER):
        raise UsageError(f"`train` is {settings.train!r}, expected {SUPERNET!r} or {WINNER!r}")
    asks_for_weights = settings.compensation is not None or settings.budget_seconds == 0 or settings.train == WINNER
    if asks_for_weights or settings.limit_share is not None:
        _check_compensation(settings)
    if settings.scales:
        _check_scales(settings)
    _check_numbers(settings)
    if settings.score is not None and (settings.data is not None or settings.supernet is not None):
        raise UsageError(
            f"`score` is {settings.score!r}, but networks with trained weights are ranked by accuracy",
            hint="leave `score` out, or `data` and `supernet`",
        )
    _check_accuracies(settings)
    _check_training(settings)
    if settings.seed < 0:
        raise UsageError(f"`seed` is {settings.seed}, expected 0 or more")
    if settings.fidelity not in FIDELITIES:
        raise UsageError(f"`fidelity` is {settings.fidelity!r}, expected {' or '.join(map(repr, FIDELITIES))}")
    if settings.executor is not None and settings.executor not in EXECUTORS:
        known = ", ".join(f"`{name}`" for name in EXECUTORS)
        raise UsageError(f"executor is `{settings.executor}`, expected one of {known}")
    return settings


def _check_compensation(settings: SearchSettings) -> None:
    """Make sure that what asks for trained weights of a model has some."""
    from supernets.timm_models.compensation import VARIANTS

    if settings.compensation not in (None, *VARIANTS):
        known = ", ".join(f"`{name}`" for name in VARIANTS)
        raise UsageError(f"`compensation` is {settings.compensation!r}, expected one of {known}")
    asked = {
        "a budget of 0": settings.budget_seconds == 0,
        f"compensation `{settings.compensation}`": settings.compensation not in (None, NONE),
        f"`train` {settings.train}": settings.train == WINNER,
        "a limit that is a share of the model's latency": settings.limit_share is not None,
    }
    for what, is_asked in asked.items():
        if is_asked and settings.model is None:
            raise UsageError(
                f"{what} without a model", hint="add `model`, the vision transformer to cut networks out of"
            )
        if is_asked and settings.weights == RANDOM and settings.limit_share is None:
            raise UsageError(
                f"{what} with random weights, expected trained ones", hint="give `weights`, or a budget to train with"
            )
    if settings.limit_share is not None and not settings.limit_share:
        raise UsageError("`limit_share` is 0, expected more than 0", hint="for example `--limit 60%`")


def _check_scales(settings: SearchSettings) -> None:
    """Make sure that scales of the input are asked for where they pay: not time is bounded, but size or memory."""
    asked = {
        "without a model": settings.model is None,
        "where the chosen network is not trained": not settings.finishes,
        "without labels": not settings.uses_labels,
        f"in {settings.precision}": settings.precision != FP32,
    }
    for what, is_asked in asked.items():
        if is_asked:
            raise UsageError(
                f"`scales` {what}: a classifier in fp32 is fitted to features of the network that a search inside"
                " `model` chose and trained",
                hint="leave `scales` out; for a network that is trained already: `nas scale --from RUN --along scales`",
            )
    if not SCALED_WITHIN & {limit.name for limit in settings.bounds}:
        known = ", ".join(f"`{name}`" for name in sorted(SCALED_WITHIN))
        raise UsageError(
            f"`scales` without a limit on one of {known}: where time alone is bounded, a larger network is better",
            hint="add one, for example `--limit params=3M`, or leave `scales` out",
        )


def _check_accuracies(settings: SearchSettings) -> None:
    """Make sure that accuracies come from one place."""
    if settings.accuracies is None:
        if settings.interpolate:
            raise UsageError("`interpolate` without a table", hint="add `accuracies`, a table of known ones")
        return
    others = {name: getattr(settings, name) for name in ("data", "supernet", "model", "score")}
    for name, value in others.items():
        if value is not None:
            raise UsageError(
                f"`{name}` is {value!r}, but accuracies are looked up in `{settings.accuracies}`",
                hint=f"leave `{name}` or `accuracies` out",
            )
    is_shared_out = settings.executor not in (None, EXECUTORS[0]) or settings.ray_address or settings.gpus_per_trial
    if settings.fidelity != "full" or is_shared_out:
        raise UsageError(
            "accuracies are looked up in a table, which neither halves nor workers make faster",
            hint="leave `fidelity`, `executor`, `ray_address` and `gpus_per_trial` out",
        )


def _check_numbers(settings: SearchSettings) -> None:
    """Make sure that numbers are in their range, and limits not said twice."""
    for name in ("limit_ms", "macs", "params", "batch", "evaluations", "patience"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UsageError(f"`{name}` is {value}, expected more than 0")
    for name, limit in settings.limits.items():
        if not limit > 0:
            raise UsageError(f"the limit on `{name}` is {limit:g}, expected more than 0")
    for name, size in (("macs", settings.macs), ("params", settings.params)):
        if name in settings.limits and size is not None:
            raise UsageError(f"two limits on `{name}`: {size:g} and {settings.limits[name]:g}")
    for name, share in (("window", settings.window), ("focus", settings.focus)):
        if not 0 <= share < 1:
            raise UsageError(f"`{name}` is {share}, expected a share from 0 (no lower end) to below 1")


def _check_training(settings: SearchSettings) -> None:
    """Make sure that what is said of a training is said of one that takes place, and can be followed there."""
    if settings.policy is not None and settings.finishes:
        raise UsageError(
            "`policy` given, but no supernet is trained", hint=f"add `train {SUPERNET}`, or leave `policy` out"
        )
    if (settings.policy is not None or settings.options) and not (settings.trains or settings.finishes):
        raise UsageError(
            f"{'`policy`' if settings.policy is not None else 'training settings'} given, but nothing is trained",
            hint="add `data`, without `supernet`, for a search that trains",
        )
    if settings.finishes and settings.options:
        from nas.finishing.plan import check_winner_options

        check_winner_options(settings.options, settings.uses_labels)
