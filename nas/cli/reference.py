"""The reference page of all settings: ``python -m nas.cli.reference > docs/reference-settings.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from nas.cli.from_settings import RUN_FOLDER
from nas.finishing.settings import FinishSettings
from nas.growth.settings import ScaleSettings
from nas.runs.settings import Declared, declared
from nas.searching.settings import SearchSettings
from nas.splitting.settings import SplitSettings
from nas.training.settings import AdaptSettings, TrainSettings

VERBS: Mapping[str, type] = {
    "search": SearchSettings,
    "train": TrainSettings,
    "finish": FinishSettings,
    "scale": ScaleSettings,
    "adapt": AdaptSettings,
    "split": SplitSettings,
}
HEAD = """\
# Settings

Made by `python -m nas.cli.reference > docs/reference-settings.md` from the classes that the command line, the Python
functions and the run folders read.

Every setting is a keyword of its Python function, an option of its command, and, of the first four verbs, a line of a
settings file: `nas search --seed 3`, `nas.search(seed=3)`, or `seed = 3` in `run.toml` with
`nas search --config run.toml`. An option comes before the file, and the file before the default. A run folder keeps its
settings as `settings.toml`, so `nas search --config RUN/settings.toml` repeats a run. Settings marked *session* may
differ from session to session and are not kept; those marked *may change* may have another value when a run is resumed;
all others stay as they were.
"""
COLUMNS = "| setting | option | what it is | default |\n| --- | --- | --- | --- |\n"


def reference() -> str:
    """The page, as Markdown."""
    sections = [HEAD]
    for verb, settings in VERBS.items():
        rows = "".join(_row(entry) for entry in declared(settings).values())
        sections.append(f"## `nas {verb}`, `nas.{verb}`\n\n{COLUMNS}{rows}")
    return "\n".join(sections)


def _row(entry: Declared) -> str:
    setting = entry.setting
    marks = "".join([" *session*" if not setting.is_recorded else "", " *may change*" if setting.may_change else ""])
    option = (
        f"{setting.metavar}"
        if setting.kind == "argument"
        else f"`{entry.option}`"
        if setting.panel or entry.name in RUN_FOLDER
        else ""
    )
    default = "*required*" if entry.is_required else entry.default_text
    cells = [f"`{entry.name}`{marks}", option, setting.doc, default]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
