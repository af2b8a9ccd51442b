"""What can go wrong with latency tables and measuring. Messages name subject, found and expected; hints the remedy."""

from __future__ import annotations

from search_spaces.errors import NasError


class LatencyError(NasError, ValueError):
    """Base of the errors of this package."""

    exit_code = 4


class TableError(LatencyError):
    """A latency table's file that cannot be read or breaks the schema."""


class TableMissingError(LatencyError):
    """A target that is known but whose table nobody has built on this machine."""


class NoEvidenceError(LatencyError):
    """Networks that a table has seen nothing like: it has no number for them."""


class BusyMachineError(LatencyError):
    """The machine was too busy for the measuring protocol to give a number."""

    exit_code = 1


class ProfileError(LatencyError):
    """A network that the runtime cannot run or profile."""


class CalibrationError(LatencyError):
    """Published figures that do not determine a table."""


class TransportError(LatencyError):
    """A device that cannot be reached, or vanished before a command ended."""

    exit_code = 1


class AddressError(TransportError):
    """The text that names a device is malformed."""

    exit_code = 2


class CommandTimeoutError(TransportError):
    """A command on a device that took longer than it was given."""
