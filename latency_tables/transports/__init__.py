"""Ways to reach a device: this machine, a board over ssh, a phone over adb."""

from latency_tables.transports.base import CommandResult, OnLine, Transport
from latency_tables.transports.open import open_transport

__all__ = ["CommandResult", "OnLine", "Transport", "open_transport"]
