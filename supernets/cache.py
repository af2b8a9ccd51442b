"""Where this machine keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$NAS_CACHE_DIR``, else ``nas`` in the user's cache folder."""
    chosen = os.environ.get("NAS_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nas"
