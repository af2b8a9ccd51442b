"""The file that a verb's settings are read from and that a run folder keeps: TOML, a setting a line.

``nas search --config RUN/settings.toml`` repeats a run, since what its run folder keeps are all its settings, those
that nobody gave included.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.errors import RunError
from nas.records.files import write_text
from nas.runs.settings import Given, read_given

SETTINGS_FILE = "settings.toml"


def write_settings(run: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run into its folder; those that are None are left out.

    Raises:
        NasError: The file cannot be written.
    """
    head = f"# Settings of a run of `nas {command}`; `nas {command} --config FILE` repeats it.\n"
    write_text(run / SETTINGS_FILE, head + toml_text(settings))


def toml_text(settings: Mapping[str, Any]) -> str:
    """Settings as TOML: texts, numbers, truths and lists of them, then a table for each mapping that is not empty."""
    plain = {name: value for name, value in settings.items() if value is not None and not isinstance(value, Mapping)}
    tables = {name: value for name, value in settings.items() if isinstance(value, Mapping) and value}
    lines = [f"{name} = {_toml_value(value)}\n" for name, value in plain.items()]
    for name, table in tables.items():
        lines.append(f"\n[{name}]\n")
        lines += [f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in table.items()]
    return "".join(lines)


def read_settings(path: Path, settings: type) -> Given:
    """The settings in a file, checked against the class of the verb.

    Raises:
        RunError: The file is missing or is no TOML.
        UsageError: It holds something that is no setting of the verb, or a value of another kind.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise RunError(f"settings file `{path}` cannot be read: found lists nested too deeply") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"settings file `{path}` cannot be read: {reason}") from error
    return read_given(settings, document, f"settings file `{path}`")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)


def _toml_value(value: object) -> str:
    """One value; None, which TOML has no word for, is the text that settings of a training know it by."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    # JSON's escapes are TOML's but for the delete character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
