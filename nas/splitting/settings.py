"""What `nas split` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SplitSettings:
    """What `nas split` is asked.

    Attributes:
        run: Run folder of a search inside a trained model.
        devices: Names of devices with their memories, see `nas.splitting.devices.parse_devices`.
        link: Bytes per second and delay, see `nas.splitting.devices.parse_link`.
        limit_ms: Most that an answer may take, at the upper end; None takes the share below.
        limit_share: Limit as a share of what the whole model takes on the fastest of the devices.
        epochs: Passes over the training images in which all networks are trained together; 0 trains the fusion alone.
        data: Where the run's images lie now; None for where they lay.
        output: Folder to write; None takes ``split`` in the run folder.
    """

    run: Path
    devices: str
    link: str
    limit_ms: float | None = None
    limit_share: float = 0.5
    epochs: int = 5
    data: str | None = None
    output: Path | None = None
