"""`nas`: the command line."""

from __future__ import annotations

import logging
import os
import sys

import typer

from nas.cli import (
    adapt,
    correlate,
    data,
    finish,
    import_file,
    inspect,
    latency,
    outcome,
    pick,
    profile,
    quantise,
    scale,
    score,
    search,
    split,
    train,
    watch,
)
from nas.cli.errors import handles_errors
from nas.cli.help import PanelCommand, PanelGroup
from nas.cli.streams import end_output, keep_streams

app = typer.Typer(
    name="nas",
    help="Find the best vision transformer that meets a latency on a device.",
    cls=PanelGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("profile", cls=PanelCommand)(profile.profile)
app.command("pick", cls=PanelCommand)(pick.pick)
app.command("adapt", cls=PanelCommand)(adapt.adapt)
app.command("search", cls=PanelCommand)(search.search)
app.command("train", cls=PanelCommand)(train.train)
app.command("import", cls=PanelCommand)(import_file.import_file)
app.command("finish", cls=PanelCommand)(finish.finish)
app.command("scale", cls=PanelCommand)(scale.scale)
app.command("export", cls=PanelCommand)(outcome.export)
app.command("quantise", cls=PanelCommand)(quantise.quantise)
app.command("split", cls=PanelCommand)(split.split)
app.command("report", cls=PanelCommand)(outcome.report)
app.command("watch", cls=PanelCommand)(watch.watch)
app.add_typer(data.app, name="data")
app.add_typer(latency.app, name="latency")
app.command("score", cls=PanelCommand)(score.score)
app.command("correlate", cls=PanelCommand)(correlate.correlate)
app.command("inspect", cls=PanelCommand)(inspect.network)
app.command("spaces", cls=PanelCommand)(inspect.spaces)
app.command("targets", cls=PanelCommand)(inspect.targets)
app.command("env", cls=PanelCommand)(inspect.environment)


def main() -> None:
    """Run the command line."""
    keep_streams()
    # Waiting threads then spin for microseconds, not milliseconds: as fast on a quiet machine, faster on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    for package in ("nas", "supernets", "latency_tables"):
        logging.getLogger(package).addHandler(handler)
    try:
        app()
    finally:
        try:
            handles_errors(end_output)()
        except typer.Exit as ended:
            sys.exit(ended.exit_code)
