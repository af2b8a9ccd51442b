"""Options that several commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from nas.objectives.units import Measure
from nas.runs.values import MOST, MOST_OTHERWISE

OUTPUT = "Output"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Build = Annotated[
    bool,
    typer.Option("--build", help="Measure networks like these on this machine first, where its table knows none."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def in_range(parameter: typer.CallbackParam, value: int | None) -> int | None:
    """A whole number that is not beyond what generators of random numbers and memory take: the callback of an option.

    Raises:
        typer.BadParameter: It is.
    """
    most = MOST.get(parameter.name or "", MOST_OTHERWISE)
    if value is not None and value > most:
        raise typer.BadParameter(f"{value}, expected at most {most}")
    return value


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with settings, such as RUN/settings.toml of an earlier run. Options come before it.",
        rich_help_panel=OUTPUT,
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Run folder to write. Default: a new one.", rich_help_panel=OUTPUT)
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="RUN", help="Run folder of a run to go on with.", rich_help_panel=OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Throw away first what the run folder holds.", rich_help_panel=OUTPUT)
]


def parser_of(measure: Measure) -> Callable[[str], float]:
    """What reads an option's value; an option that cannot be read is named with what was expected."""

    def number(text: str) -> float:
        from nas.errors import UsageError

        try:
            return measure.parse(text)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from error

    return number


def parse_limits(texts: Sequence[str], option: str = "--limit") -> tuple[float | None, dict[str, float]]:
    """`12ms` as the limit in milliseconds on the target, `local=3ms` or `peak-memory=64MB` as one on what is named.

    Raises:
        UnknownNameError: There is no such device or quantity.
        typer.BadParameter: A limit is of another form, out of range, or on what has one already.
    """
    from nas.errors import UsageError
    from nas.objectives.quantities import parse_limit

    limit_ms: float | None = None
    limits: dict[str, float] = {}
    for text in texts:
        try:
            name, value = parse_limit(text)
        except UsageError as error:
            raise typer.BadParameter(str(error), param_hint=f"'{option}'") from error
        if (limit_ms is not None) if name is None else name in limits:
            raise typer.BadParameter(f"`{option} {text}`: there is a limit on this already")
        if name is None:
            limit_ms = value
        else:
            limits[name] = value
    return limit_ms, limits
