"""Help in panels, drawn by rich, while errors and messages stay plain text."""

from __future__ import annotations

import inspect
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption


class PanelCommand(TyperCommand):
    """A command whose help has a panel for each group of options."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option that shows the help, in the panel of the last option where all have panels."""
        option: Any = super().get_help_option(ctx)
        panels = [each.rich_help_panel for each in self.params if isinstance(each, TyperOption)]
        if option is not None and panels and all(panels):
            option.rich_help_panel = panels[-1]
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _print_panels(self, ctx)


class PanelGroup(TyperGroup):
    """A command with commands below it, and their list in a panel."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _print_panels(self, ctx)


def _print_panels(command: Any, context: Any) -> None:
    # Typer would draw errors in panels too if this were its markup mode, which breaks what programs read of them.
    from typer.rich_utils import rich_format_help

    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    rich_format_help(obj=command, ctx=context, markup_mode="rich")
