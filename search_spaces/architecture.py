"""The readable form of one network of a search space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.errors import ArchitectureError
from search_spaces.json_file import parse_json


@dataclass(frozen=True)
class Architecture:
    """One network of a space: a value for every choice, in the space's order and in canonical form.

    Two architectures are equal, and hash equal, exactly when they describe the same network. Spaces make them with
    `SearchSpace.decode`; `SearchSpace.parse` also checks the values of one that comes from elsewhere.

    Attributes:
        space: Registered name of the space, for example ``elastic``.
        version: Version of the space's definition.
        settings: ``(choice name, value)`` pairs, for example ``("T1.width", 64)``.
    """

    space: str
    version: int
    settings: tuple[tuple[str, int], ...]

    def __getitem__(self, choice: str) -> int:
        for name, value in self.settings:
            if name == choice:
                return value
        known = ", ".join(name for name, _ in self.settings)
        raise KeyError(f"architecture of `{self.space}` has no choice `{choice}`, it has: {known}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` gives back an equal architecture."""
        return {"space": self.space, "version": self.version, "choices": dict(self.settings)}

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives back an equal architecture."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what `to_dict` wrote.

        Raises:
            ArchitectureError: A field is missing or has the wrong type.
        """
        try:
            space, version, choices = data["space"], data["version"], data["choices"]
        except (KeyError, TypeError) as error:
            raise ArchitectureError(
                f"architecture: missing field {error}, expected `space`, `version` and `choices`"
            ) from error
        if not (isinstance(space, str) and isinstance(version, int) and isinstance(choices, Mapping)):
            raise ArchitectureError("architecture: `space` must be text, `version` a number, `choices` an object")
        for name, value in choices.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise ArchitectureError(f"architecture: choice `{name}` has value {value!r}, expected a whole number")
        return cls(space, version, tuple(choices.items()))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            ArchitectureError: The text is not JSON or not an architecture.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ArchitectureError(f"architecture: not valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise ArchitectureError(f"architecture: expected a JSON object, found {type(data).__name__}")
        return cls.from_dict(data)
