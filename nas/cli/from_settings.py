"""Commands made from the settings of their verb: one option for each, read from the line or from a file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from nas.cli.errors import run_folder
from nas.cli.options import OUTPUT, Config, Force, Output, Resume, parse_limits, parser_of
from nas.objectives.units import SHARE
from nas.runs.settings import Declared, Given, RunSettings, declared

RUN_FOLDER: Mapping[str, Any] = {"config": Config, "output": Output, "resume": Resume, "force": Force}


def takes_settings(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of what is given into a command with the options of a class of settings.

    The function receives the settings that were given, those of ``--config`` included, and after them its own options.
    Verbs without a run folder cannot go on, and have no ``--config``.

    Args:
        settings: Class of the verb.
    """
    known = declared(settings)
    run_folder = RUN_FOLDER if issubclass(settings, RunSettings) else {}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            own = {name: values.pop(name) for name in list(values) if name in extra}
            function(_given(settings, values), **own)

        hints = get_type_hints(function, include_extras=True)
        extra = [each for each in inspect.signature(function).parameters if each != "given"]
        annotations = {
            **{name: _option(entry, known) for name, entry in known.items() if entry.setting.panel},
            **run_folder,
            **{name: _in_panel(hints[name]) for name in extra},
        }
        flags = {name for name, annotation in annotations.items() if get_args(annotation)[0] is bool}
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=annotation,
                default=_default(name in flags, known.get(name)),
            )
            for name, annotation in annotations.items()
        ]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {**annotations, "return": None}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _default(is_flag: bool, entry: Declared | None) -> Any:
    """The default of an option; none for one that has to be given."""
    if entry is not None and entry.is_required:
        return inspect.Parameter.empty
    return False if is_flag else None


def _option(entry: Declared, known: Mapping[str, Declared]) -> Any:
    """The annotation from which an option, or an argument, is made."""
    setting = entry.setting
    text = re.sub(r"`(\w+)`", lambda name: f"`{known[name[1]].option}`" if name[1] in known else name[0], entry.doc)
    kind: Any = _plain_type(entry) if entry.is_required else _plain_type(entry) | None
    if setting.kind == "argument":
        return Annotated[kind, typer.Argument(help=text, metavar=setting.metavar, rich_help_panel=setting.panel)]
    details: dict[str, Any] = {"help": text, "rich_help_panel": setting.panel, "metavar": setting.metavar}
    names = [entry.option] if setting.option or _plain_type(entry) is bool else []
    if entry.name == "output":
        names = [entry.option, "-o"]
    if setting.kind in ("limits", "assignments"):
        return Annotated[list[str] | None, typer.Option(*names, **details)]
    if _plain_type(entry) is float:
        return Annotated[float | None, typer.Option(*names, parser=parser_of(setting.measure), **details)]
    if _plain_type(entry) is bool:
        return Annotated[bool, typer.Option(*names, **details)]
    return Annotated[kind, typer.Option(*names, min=setting.least, **details)]


def _in_panel(annotation: Any) -> Any:
    """The annotation of a command's own option, in the last panel where it names none."""
    kind, option = get_args(annotation)
    option = copy(option)
    option.rich_help_panel = option.rich_help_panel or OUTPUT
    return Annotated[kind, option]


def _plain_type(entry: Declared) -> type:
    """The type of the words on the command line; names with commas are one word."""
    kinds = get_args(entry.type) or (entry.type,)
    return next((kind for kind in (Path, bool, int, float) if kind in kinds), str)


def _given(settings: type, values: dict[str, Any]) -> Given:
    """What was given: by a file, and before that by options.

    Raises:
        RunError, UsageError: The file cannot be read, or there is no run to go on with.
        typer.BadParameter: Options contradict each other.
    """
    config, output, resume, force = (
        values.pop(name) if issubclass(settings, RunSettings) else None for name in RUN_FOLDER
    )
    given: Given = {}
    if config is not None:
        from nas.runs.settings_file import read_settings

        given = read_settings(config, settings)
    known = declared(settings)
    for name, value in values.items():
        if value is None or value is False or value == []:
            continue
        if known[name].setting.kind == "limits":
            shares = [text for text in value if text.strip().endswith("%") and "=" not in text]
            for text in shares:
                given["limit_share"] = parser_of(SHARE)(text)
            limit_ms, limits = parse_limits([text for text in value if text not in shares], known[name].option)
            given |= {"limit_ms": limit_ms} if limit_ms is not None else {}
            given |= {name: limits} if limits else {}
        elif known[name].setting.kind == "assignments":
            from nas.training.options import parse_options

            options, own = parse_options(value, known)
            given[name] = {**given.get(name, {}), **options}
            given |= own
        else:
            given[name] = value
    folder = run_folder(output, resume)
    return given | {
        name: value for name, value in {"output": folder, "resume": resume is not None, "force": force}.items() if value
    }
