"""`nas`: the command line."""

from __future__ import annotations

import os

import typer

from nas.cli import correlate, finish, inspect, latency, outcome, profile, scale, score, search, train

app = typer.Typer(
    name="nas",
    help="Find the best vision transformer that meets a latency on a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("profile")(profile.profile)
app.command("search")(search.search)
app.command("train")(train.train)
app.command("finish")(finish.finish)
app.command("scale")(scale.scale)
app.command("export")(outcome.export)
app.command("report")(outcome.report)
app.add_typer(latency.app, name="latency")
app.command("score")(score.score)
app.command("correlate")(correlate.correlate)
app.command("inspect")(inspect.network)
app.command("spaces")(inspect.spaces)
app.command("targets")(inspect.targets)
app.command("env")(inspect.environment)


def main() -> None:
    """Run the command line."""
    # Waiting threads then spin for microseconds, not milliseconds: as fast on a quiet machine, faster on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    app()
