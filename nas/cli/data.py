"""`nas data check`: what a folder of images holds, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import handles_errors, show_error
from nas.cli.help import PanelCommand, PanelGroup
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter

app = typer.Typer(help="Look at images.", cls=PanelGroup, no_args_is_help=True, rich_markup_mode=None)
NAMED = 5
"""Groups of copies that are named."""


@app.callback()
def data() -> None:
    """Look at images."""


@app.command(cls=PanelCommand)
@handles_errors
def check(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of images, a sub-folder per class, or of WebDataset's shards.")
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a folder of images holds, how it would be divided, and what would be skipped and why."""
    from nas.events import StageProgress
    from supernets.data.survey import survey
    from supernets.data.web_dataset import holds_shards
    from supernets.errors import DataError

    if not Path(folder).is_dir() and not holds_shards(folder):
        raise DataError(f"data `{folder}`: there is no such folder", hint="name a folder with a sub-folder per class")
    with ProgressPrinter(quiet) as progress:
        found = survey(folder, lambda done, total: progress(StageProgress("images", done, total)))
    if json:
        display.print_json(found)
    else:
        _show(found)
    if found["problem"] is not None:
        show_error(found["problem"], found["hint"])
        raise typer.Exit(DataError.exit_code)


def _show(found: Mapping[str, Any]) -> None:
    parts = list(found["parts"] or ["images"])
    rows = []
    for name, counts in found["classes"].items():
        numbers = [counts[part] for part in parts] if found["parts"] else [sum(counts.values())]
        rows.append([_printable(name), *(f"{number:,}" for number in numbers)])
    if found["parts"]:
        rows.append(["all", *(f"{found['parts'][part]:,}" for part in parts)])
    display.print_table(["class", *parts], rows, title=f"{found['folder']}: {found['images']:,} {_where(found)}")
    display.print_table(["what", "found"], _facts(found), left=2)
    if found["skipped"]:
        skipped = [[entry["name"], entry["why"], entry["detail"]] for entry in found["skipped"]]
        title = f"files that would be skipped: {len(skipped):,}"
        printable = [[_printable(cell) for cell in row] for row in skipped]
        display.print_table(["file", "why", "more"], printable, title=title, left=3)
    for remark in found["remarks"]:
        display.say(f"warning: {remark}")
    for words, groups in (
        ("parts, so what is trained on is also judged on", found["copies"]["across_parts"]),
        ("classes, so one label of each is wrong", found["copies"]["across_classes"]),
    ):
        if groups:
            named = "; ".join(" = ".join(f"`{name}`" for name in group[:NAMED]) for group in groups[:NAMED])
            more = f"; and {len(groups) - NAMED} more" if len(groups) > NAMED else ""
            display.say(f"warning: images that lie in several {words}: {len(groups)} ({named}{more})")


def _where(found: Mapping[str, Any]) -> str:
    """What the images are, and in how many shards where they lie in some."""
    return f"images in {_number(len(found['shards']), 'shard')}" if found["shards"] else "image files"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _facts(found: Mapping[str, Any]) -> list[Sequence[str]]:
    sides = [
        [name, f"{numbers['least']:,} to {numbers['most']:,} pixels, median {numbers['median']:,}"]
        for name in ("columns", "rows")
        if (numbers := found[name])
    ]
    labels = found["labels"]
    return [
        *sides,
        ["formats", _counted(found["formats"])],
        ["modes", _counted(found["modes"])],
        *([f"{count:,} images", words] for words, count in found["changed"].items()),
        *(
            [["labels", f"{labels['mean']:.2f} of an image, {labels['without']:,} images without any"]]
            if labels
            else []
        ),
        ["copies", f"{found['copies']['groups']:,} groups of files with the same contents"],
        ["mirrored", f"{found['hflip']:.0%} of the training images"],
    ]


def _printable(text: str) -> str:
    """A text that any terminal takes, though names of files may be no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
