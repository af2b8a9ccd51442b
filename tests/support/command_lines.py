"""`nas` command lines as documents show them, and parsing one without running it."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from nas.cli.main import app

program = cache(partial(get_command, app))
"""The command `nas`, which takes a while to make."""
START = re.compile(r"(?:\$ |pip install -e \. && |torchrun .*? -m )?nas (?=[a-z-])")


def shown_commands(document: str) -> Iterator[str]:
    """The words behind `nas` of every command in a code block and in the first cell of a table's row."""
    prose, block = [], False
    for line in document.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            block = not block
        elif block and (start := START.match(line)):
            yield line[start.end() :].strip()
        elif not block:
            prose.append(line)
    for line in prose:
        if line.startswith("| `"):
            cell = re.split(r"(?<!\\)\|", line)[1].replace("\\|", "|")
            for code in re.findall(r"`([^`]*)`", cell):
                if start := START.match(code):
                    yield code[start.end() :].strip()


def mentioned_commands(document: str) -> Iterator[str]:
    """The words behind `nas` of everything between backticks; often but a command and the name of an option."""
    text = re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL).replace("\\|", "|")
    for code in re.findall(r"`([^`]+)`", text):
        code = " ".join(code.split())
        if start := START.match(code):
            yield code[start.end() :]


def command_names() -> set[str]:
    """The words that may follow `nas`."""
    command = program()
    assert isinstance(command, TyperGroup)
    return set(command.commands)


def alternatives(line: str) -> Iterator[list[str]]:
    """Its words, once for every choice that `a|b` outside of quotes leaves; an ellipsis is no word."""
    reader = shlex.shlex(line, posix=False)
    reader.whitespace_split = True
    choices = [[word] if word[:1] in "'\"" else word.split("|") for word in reader if word != "..."]
    for chosen in itertools.product(*choices):
        yield [shlex.split(word)[0] for word in chosen]


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The arguments that the command of these words would be called with, if it were.

    Raises:
        UsageError: An option does not exist, a value is of another kind, or something lacks.
    """
    command = program()
    context = command.make_context("nas", list(words))
    while isinstance(command, TyperGroup):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return context.params


def unknown_options(words: Sequence[str]) -> list[str]:
    """Those of these words that look like options and are none of their command's."""
    command, rest = program(), list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]
    known = {"-h", "--help"} | {
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
    }
    return [word for word in rest if word.startswith("-") and word not in known]
