"""Settings of the verbs: each is typed once, as a field of its verb's frozen class, together with what it means.

Made from such a class are: the keywords of the verb's Python function and their documentation (`verb`), the options of
the command line, the reference page, ``settings.toml`` in the run folder, and the check of what a resumed run changes.
Nothing heavy is imported here, since the command line reads the classes whenever it starts.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from nas.objectives.units import NUMBER, Measure
from nas.runs import values as read
from nas.runs.places import PLACES, recorded_place

P = ParamSpec("P")
R = TypeVar("R")
Given = dict[str, Any]
"""Settings by name, as far as somebody gave them: a keyword, an option, or a line of a file; never None."""
WITHOUT_LABELS = "none"
"""What the setting ``labels`` says where the classes of images are not looked at."""
TRACK = "Trackers to report to as well, with commas: wandb, mlflow, trackio or tensorboard."
"""What the setting `track` of several verbs is."""
Kind = Literal["plain", "argument", "limits", "assignments", "device"]
"""How a setting is read: as it stands, from a position, as texts with names in them, or as a device of PyTorch's."""


@dataclass(frozen=True)
class Setting:
    """What a field's annotation says of a setting, beside its type.

    Attributes:
        doc: What the setting is, subject first; names of other settings stand in backticks.
        panel: Heading under which the command line shows its option; empty where it has none of its own.
        default: The default in words, where it is not one value.
        option: Name of the option, without the dashes, where it is not the field's.
        metavar: What the option's value is called in the help.
        kind: How it is read.
        measure: Unit of a number that is no whole one.
        least: Smallest whole number; 0 where none is named.
        is_recorded: Whether the run folder keeps it; other settings may differ from session to session.
        may_change: Whether a resumed run may have another value.
    """

    doc: str
    panel: str = ""
    default: str = ""
    option: str = ""
    metavar: str | None = None
    kind: Kind = "plain"
    measure: Measure = NUMBER
    least: float | None = None
    is_recorded: bool = True
    may_change: bool = False


@dataclass(frozen=True)
class Declared:
    """A setting as its class declares it.

    Attributes:
        name: Name of the field, of the keyword, and of the key in a file.
        type: Type of the values, None included where that is the default.
        default: Value of the field where nothing is given; `MISSING` where something has to be.
        setting: What else is known.
    """

    name: str
    type: Any
    default: Any
    setting: Setting

    @property
    def is_required(self) -> bool:
        """Whether it has to be given."""
        return self.default is MISSING

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--{self.setting.option or self.name.replace('_', '-')}"

    @property
    def default_text(self) -> str:
        """The default in words; empty where nothing is the default."""
        is_nothing = self.is_required or self.default is None or self.default is False or self.default in ({}, [])
        if self.setting.default or is_nothing:
            return self.setting.default
        return f"{self.default}"

    @property
    def doc(self) -> str:
        """What the setting is, and its default."""
        return f"{self.setting.doc} Default: {self.default_text}." if self.default_text else self.setting.doc


Receiver = Annotated[
    Callable[[object], None] | None, Setting("Receiver of the run's events, see `nas.events`.", is_recorded=False)
]
"""What the setting `progress` of every verb is."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of every verb that has a run folder."""

    output: Annotated[Path | str | None, Setting("Run folder to write.", is_recorded=False)] = None
    resume: Annotated[
        bool,
        Setting(
            "Whether to go on with the run in `output`. Settings that are not given are taken from there; those that"
            " are given must agree with it, but for budgets.",
            is_recorded=False,
        ),
    ] = False
    force: Annotated[bool, Setting("Whether to throw away first what `output` holds.", is_recorded=False)] = False
    progress: Receiver = None

    @property
    def folder(self) -> Path | None:
        """The run folder that is named; None where the verb chooses one."""
        return None if self.output is None else Path(self.output)

    def recorded(self) -> dict[str, Any]:
        """The settings that the run folder keeps, ready for JSON."""
        return {name: getattr(self, name) for name in recorded_names(type(self))}


@functools.cache
def declared(settings: Any) -> Mapping[str, Declared]:
    """The settings of a class by name: those that may be given by position, its own, and those of every run."""
    hints = get_type_hints(settings, include_extras=True)
    shared = RunSettings.__dataclass_fields__.keys()
    found: dict[str, Declared] = {}
    for field in sorted(fields(settings), key=lambda field: (bool(field.kw_only), field.name in shared)):
        kind, setting = get_args(hints[field.name])
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found[field.name] = Declared(field.name, kind, default, setting)
    return found


def read_given(settings: type, values: Mapping[str, Any], where: str) -> Given:
    """What was given, in the form that a run folder keeps; neither what is None nor a flag that is off is given.

    Args:
        settings: Class of the verb.
        values: Values by name.
        where: What the values are from, for messages.

    Raises:
        UsageError: There is no such setting, or a value is not of its kind.
    """
    from nas.errors import NasError, UsageError

    known = declared(settings)
    for name in values:
        if name not in known:
            raise UsageError(f"{where}: setting `{name}` is not known", hint=nearest(name, list(known)))
    given: Given = {}
    for name, value in values.items():
        try:
            found = None if value is None else _canonical(known[name], value)
        except ValueError as error:
            if isinstance(error, NasError):
                raise
            shown = textwrap.shorten(repr(value), 80, placeholder=" ...")
            raise UsageError(f"{where}: `{name}` is {shown}, expected {error}") from error
        if found is not None and not (found is False and known[name].default is False):
            given[name] = found
    return given


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the name that was meant."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    close = close or [other for other in known if other.startswith(name)][:1]
    return f"did you mean `{close[0]}`?" if close else f"expected one of {', '.join(known)}"


def recorded_names(settings: type) -> list[str]:
    """The settings that a run folder keeps."""
    return [name for name, entry in declared(settings).items() if entry.setting.is_recorded]


def read_recorded(settings: type, recorded: Mapping[str, Any]) -> Given:
    """The settings of a class from what a run folder keeps, each checked as `read_given` does."""
    kept = {name: recorded[name] for name in recorded_names(settings) if name in recorded}
    return read_given(settings, kept, "the recorded settings of the run")


def session_settings(settings: type, given: Given) -> Given:
    """What was given of the settings that no run folder keeps, or that say where something lies now."""
    known = declared(settings)
    return {name: value for name, value in given.items() if not known[name].setting.is_recorded or name in PLACES}


def folder_to_resume(given: Given) -> Path | None:
    """The run folder to go on in; None for a new run.

    Raises:
        UsageError: None is named.
    """
    from nas.errors import UsageError

    if not given.get("resume"):
        return None
    if "output" not in given:
        raise UsageError("`resume` without `output`, expected the run folder to go on in")
    return Path(given["output"])


def check_command(recorded: Mapping[str, Any], command: str, folder: Path) -> None:
    """Make sure that a run folder is of the verb that is to go on in it.

    Raises:
        RunError: It is of another one.
    """
    from nas.errors import RunError

    if recorded.get("command") != command:
        raise RunError(f"run folder `{folder}` holds a `{recorded.get('command')}` run, expected a `{command}` run")


def check_unchanged(settings: type, given: Given, recorded: Mapping[str, Any], folder: Path) -> None:
    """Make sure that what is given to a resumed run is what it was started with, where that may not change.

    What says where something lies may change; that it is the same thing is for the verb to check.

    Args:
        settings: Class of the verb.
        given: Settings by name; assignments to settings of a training are checked by the verb.
        recorded: Settings that the run was started with.
        folder: Run folder, for messages.

    Raises:
        RunError: Something differs.
    """
    from nas.errors import RunError

    known = declared(settings)
    is_moved = {name: recorded.get(name) is not None for name in PLACES}
    is_moved["data"] |= is_moved["supernet"]
    given = {name: value for name, value in given.items() if not is_moved.get(name)}
    changeable = [f"`{name}`" for name, entry in known.items() if entry.setting.may_change]
    for name, value in given.items():
        entry = known[name].setting
        if entry.kind != "assignments" and entry.is_recorded and not entry.may_change and recorded.get(name) != value:
            raise RunError(
                f"run folder `{folder}`: `{name}` was {recorded.get(name)!r} when the run was started, found {value!r}",
                hint=(f"only {', '.join(changeable)} may change when a run is resumed; " if changeable else "")
                + "start a new run for another value",
            )


def verb(settings: Callable[P, object]) -> Callable[[Callable[[Given], R]], Callable[P, R]]:
    """Make a function of what is given into one that takes the settings of a class as keywords, with their docs.

    Args:
        settings: Class of the verb, whose constructor lends the function its signature.
    """
    kind: Any = settings

    def decorate(function: Callable[[Given], R]) -> Callable[P, R]:
        known = declared(kind)
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY if field.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if known[name].is_required else known[name].default,
                annotation=known[name].type,
            )
            for name in known
            for field in (kind.__dataclass_fields__[name],)
        ]
        positions = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        returned = get_type_hints(function)["return"]
        signature = inspect.Signature(parameters, return_annotation=returned)

        @functools.wraps(function)
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            where = f"nas.{function.__name__}"
            if len(arguments) > len(positions):
                raise TypeError(f"{where}: found {len(arguments)} positional arguments, expected {len(positions)}")
            named = dict(zip(positions, arguments, strict=False))
            if twice := named.keys() & keywords.keys():
                raise TypeError(f"{where}: `{min(twice)}` is given twice")
            given = read_given(kind, {**named, **keywords}, where)
            if absent := [name for name, entry in known.items() if entry.is_required and name not in given]:
                raise TypeError(f"{where}: `{absent[0]}` is missing")
            return function(given)

        call.__doc__ = _documented(function.__doc__ or "", known)
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {**{each.name: each.annotation for each in parameters}, "return": returned}
        return call

    return decorate


def _documented(docstring: str, known: Mapping[str, Declared]) -> str:
    """A docstring with the settings as its Args, before the first other section."""
    text = inspect.cleandoc(docstring)
    lines = [
        textwrap.fill(f"{name}: {entry.doc}", 120, initial_indent="    ", subsequent_indent="        ")
        for name, entry in known.items()
    ]
    sections = "\n".join(["Args:", *lines])
    begin = min((place for word in ("Returns:", "Raises:") if (place := text.find(f"\n{word}\n")) >= 0), default=-1)
    if begin < 0:
        return f"{text}\n\n{sections}\n"
    return f"{text[:begin].rstrip()}\n\n{sections}\n{text[begin:]}\n"


def _canonical(entry: Declared, value: Any) -> Any:
    """A value in the form that a run folder keeps: texts for paths and numbers that are names, lists for names.

    Raises:
        ValueError: It is not of the kind of its setting; the message is what was expected.
    """
    kinds, setting = get_args(entry.type) or (entry.type,), entry.setting
    if setting.kind == "limits":
        return read.limits_of(value)
    if setting.kind == "device":
        return read.device_of(value)
    if dict in (get_origin(kind) for kind in (entry.type, *kinds)):
        return read.mapping_of(value)
    if list[str] in (entry.type, *kinds):
        return read.names_of(value)
    if bool in kinds:
        return read.flag_of(value)
    if int in kinds:
        return read.whole_of(value, setting.least, read.MOST.get(entry.name, read.MOST_OTHERWISE))
    if float in kinds:
        return read.number_of(value, setting.measure)
    if str in kinds:
        text = read.text_of(str(value) if type(value) is int else value)
        return recorded_place(entry.name, text) if entry.name in PLACES else text
    if not callable(value):
        raise ValueError("something that can be called")
    return value
