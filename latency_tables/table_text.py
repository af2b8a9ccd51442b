"""How the file of a latency table is written, and what is said of one that breaks the schema."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

REBUILD = "build the table again with `nas latency build`, or restore the file"


def first_problem(subject: str, error: ValidationError) -> str:
    """What is wrong with a table, in one line: the field, what was found and what was expected."""
    problem = error.errors()[0]
    field = ".".join(map(str, problem["loc"])) or "table"
    more = f" ({error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    if problem["type"] == "missing":
        return f"latency table `{subject}`: field `{field}`: found nothing, expected a value{more}"
    if problem["type"] == "value_error":
        return f"latency table `{subject}`: field `{field}`: found {problem['msg'].removeprefix('Value error, ')}{more}"
    expected = problem["msg"].removeprefix("Input should be ")
    return f"latency table `{subject}`: field `{field}`: found {_shown(problem['input'])}, expected {expected}{more}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def readable(data: dict[str, Any]) -> str:
    """JSON with one line per field, and one per element of the long lists."""
    lines = []
    for field, value in data.items():
        if field == "further":
            tables = ",\n".join(readable(each).rstrip() for each in value)
            lines.append(f" {json.dumps(field)}: [{tables}]")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f" {json.dumps(field)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(field)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
