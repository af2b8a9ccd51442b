"""Text as a terminal may be told it."""

from __future__ import annotations

import unicodedata

_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
"""Characters that turn the direction of writing round."""


def printable(text: str, lines: str = "\n\t") -> str:
    """The text with control characters written out, so that a name or a file of a stranger commands no terminal.

    Characters that turn the direction of writing round are written out as well, and bytes of file names that are no
    text.

    Args:
        text: The text.
        lines: Characters among them that stay.
    """
    return "".join(_written_out(letter) if _commands(letter) and letter not in lines else letter for letter in text)


def _commands(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs") or ord(letter) in _TURNS


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
