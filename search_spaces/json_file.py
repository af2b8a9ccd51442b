"""JSON from anywhere: parsed as the standard has it, and checked against the types that a class declares."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NotRequired, get_type_hints

_MOST_DIGITS = 20


def parse_json(text: str | bytes) -> Any:
    """The document in a text: numbers finite and of 64 bits, every name once in its object, texts in UTF-8.

    Raises:
        ValueError: It is anything else, or nested too deeply.
    """
    try:
        document = json.loads(
            text, parse_constant=_no_number, parse_float=_fraction, parse_int=_whole, object_pairs_hook=_each_once
        )
        odd = b"\\u" if isinstance(text, bytes) else "\\u"
        if odd in text:  # type: ignore[operator]
            plain = json.dumps(document, ensure_ascii=False)
            plain.encode()
            if "\\u0000" in plain:
                raise ValueError("found a null character in a text")
    except RecursionError:
        raise ValueError("found objects or lists nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("found a text that is not UTF-8") from None
    return document


def check_fields(kind: Any, data: Mapping[str, Any]) -> None:
    """Make sure that an object's fields are of the types that a class declares; others are passed over.

    Args:
        kind: A dataclass, whose fields with a default may be missing, or a class of ``TypedDict``.
        data: The object, as JSON gives it: lists stand for tuples, whole numbers for fractions too.

    Raises:
        ValueError: A field is missing or of another type, or a number is not finite; the message names it.
    """
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        found = "nothing" if problem["type"] == "missing" else f"`{str(problem['input'])[:60]}`"
        expected = problem["msg"].removeprefix("Input should be ")
        raise ValueError(f"`{name}`: found {found}, expected {'a value' if found == 'nothing' else expected}") from None


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter
    from typing_extensions import TypedDict

    hints = get_type_hints(kind)
    if is_dataclass(kind):
        required = {
            field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING
        }
    else:
        required = set(kind.__required_keys__)
    declared = {name: hint if name in required else NotRequired[hint] for name, hint in hints.items()}
    checked = TypedDict("checked", declared)  # type: ignore[misc]
    checked.__pydantic_config__ = ConfigDict(allow_inf_nan=False)  # type: ignore[attr-defined]
    return TypeAdapter(checked)


def _no_number(text: str) -> float:
    raise ValueError(f"found {text}, expected finite numbers")


def _fraction(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"found {text[:40]}, expected finite numbers")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"found a number of {len(text)} digits, expected at most {_MOST_DIGITS}")
    return int(text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate field `{twice[:40]}`, expected each once")
    return found
