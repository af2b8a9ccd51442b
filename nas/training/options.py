"""What a user says about a training, as the trainer's settings."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from nas.errors import UsageError
from nas.runs.places import TEACHERS, recorded_place
from nas.runs.values import MOST_OTHERWISE

if TYPE_CHECKING:
    from supernets.training.settings import TrainingSettings

NAMED = ("epochs", "budget_seconds", "seed", "policy", "progressive")
"""Settings of the trainer that a run records under their own names, beside ``options``."""
TYPED_AS_OPTIONS = ("compensation", "compensation_images")
"""Settings of a search that the command line takes as ``--set NAME=VALUE`` too."""
NO_TEACHERS = "none"
_OF_ITS_OWN = {
    "budget_seconds": "give it as `--budget`",
    "epochs": "give it as `--epochs`; a search trains for its share of `--budget`",
    "progressive": "give it as `--progressive`, to `nas train`",
}


def parse_options(assignments: Sequence[str], beside: Container[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings by name from texts such as ``weight_decay=0.02``, and those of the run that are typed as such.

    Args:
        assignments: The texts.
        beside: Names of the run's own settings.

    Raises:
        UsageError: A text is no assignment, names no setting, or its value is of another kind.
    """
    texts: dict[str, str] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise UsageError(f"setting `{assignment}`: expected NAME=VALUE", hint="for example weight_decay=0.02")
        texts[name.strip()] = value.strip()
    own = {name: texts.pop(name) for name in TYPED_AS_OPTIONS if name in texts and name in beside}
    return checked_options(texts), own


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with values of the right kind, read from text where they are text.

    Raises:
        UsageError: There is no such setting, or its value is of another kind.
    """
    from pydantic import TypeAdapter, ValidationError

    from supernets.training.settings import TrainingSettings

    hints = get_type_hints(TrainingSettings)
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in hints or name in NAMED:
            raise UsageError(f"training setting `{name}`: {_why_not(name)}", hint=_nearest(name, hints))
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(_from_text(value, hints[name]))
            if name == TEACHERS:
                checked[name] = tuple(recorded_place(name, file) for file in checked[name])
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise UsageError(f"training setting `{name}`: found `{value}`: {what[:1].lower()}{what[1:]}") from error
        if isinstance(checked[name], (int, float)) and not abs(checked[name]) <= MOST_OTHERWISE:
            raise UsageError(f"training setting `{name}`: found `{value}`, expected a number up to {MOST_OTHERWISE:g}")
    return checked


def recordable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings as they stand in a run's record."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def make_settings(settings: Mapping[str, Any], *, policy: str | None) -> TrainingSettings:
    """The trainer's settings from those of a run.

    Args:
        settings: Those of `NAMED`, ``space``, ``architecture``, ``recipe`` and ``options``; what is None is left to
            recipe and trainer.
        policy: The sampling policy; None leaves it to the recipe.

    Raises:
        UnknownNameError: There is no such recipe or policy.
        TrainingError: A setting is out of range.
    """
    from supernets.training.recipes import recipe_settings
    from supernets.training.settings import TrainingSettings

    given = {name: settings[name] for name in NAMED if settings.get(name) is not None and name != "policy"}
    given |= settings.get("options") or {}
    if policy is not None:
        given["policy"] = policy
    if settings.get("recipe") is not None:
        is_alone = settings.get("architecture") is not None
        return recipe_settings(settings["recipe"], given, space=settings.get("space"), is_alone=is_alone)
    return TrainingSettings.from_dict(given)


def _from_text(value: Any, hint: Any) -> Any:
    if not isinstance(value, str):
        return value
    if hint == tuple[str, ...]:
        names = (name.strip() for name in value.split(","))
        return tuple(name for name in names if name and name != NO_TEACHERS)
    return None if value == "none" and type(None) in getattr(hint, "__args__", ()) else value


def _why_not(name: str) -> str:
    return "it has an argument of its own" if name in NAMED else "not known"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    import difflib

    if name in NAMED:
        return _OF_ITS_OWN.get(name, f"give it as `--{name}`")
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"one of {', '.join(sorted(known.keys() - set(NAMED)))}"
