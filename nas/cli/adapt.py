"""`nas adapt`."""

from __future__ import annotations

import shlex

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.from_settings import takes_settings
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_duration
from nas.runs.settings import Given
from nas.training.settings import AdaptSettings


@handles_errors
@takes_settings(AdaptSettings)
def adapt(given: Given, *, json: Json = False, quiet: Quiet = False) -> None:
    """Adapt a pretrained model to pictures of another kind, without labels, before anything is searched inside it."""
    import nas

    with ProgressPrinter(quiet) as progress:
        result = nas.adapt(**given, progress=progress)
    found, folder = result.record, result.folder
    if json:
        display.print_json({**found, "folder": str(folder)})
        return
    rows = [
        ["pictures", f"{found['pictures']:,}"],
        ["steps", f"{found['steps']:,}"],
        ["trained", f"{found['trained']:,} of {found['params']:,} parameters"],
        ["loss, first and last tenth", f"{found['loss_first']:.3f}, {found['loss_last']:.3f}"],
        ["took", format_duration(found["seconds"])],
    ]
    display.print_table(["", ""], rows, left=2)
    display.say(f"written to {display.short(folder)}")
    display.say(f"next: nas profile {shlex.quote(given['model'])} --weights {display.quoted(folder)} --data FOLDER")
