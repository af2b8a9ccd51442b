"""The way to a device, by the text that names it."""

from __future__ import annotations

from latency_tables.errors import AddressError
from latency_tables.transports.base import Transport


def open_transport(target: str) -> Transport:
    """The transport to a device.

    Args:
        target: ``local``, this machine; ``browser``, a browser on it; ``ssh:user@host[:port]``; ``adb:SERIAL``, or
            ``adb`` where one phone is connected.

    Raises:
        AddressError: The target is none of these.
        TransportError: The device does not answer.
    """
    kind, _, address = target.partition(":")
    if kind in ("local", "browser") and not address:
        from latency_tables.transports.local import LocalTransport

        return LocalTransport()
    if kind == "ssh" and address:
        from latency_tables.transports.ssh import SshTransport

        return SshTransport.open(address)
    if kind == "adb":
        from latency_tables.transports.adb import AdbTransport

        return AdbTransport.open(address)
    raise AddressError(
        f"target `{target}`: expected `local`, `browser`, `ssh:user@host[:port]`, `adb:SERIAL` or `aihub:DEVICE`",
        "`adb devices` lists connected phones and their serials",
    )
