"""What every test file needs of its process, and of the processes that it starts."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Threads that spin while they wait for each other lose a lot on a busy machine, and small networks gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that tests start run this checkout, whatever is installed, and find `tests.support`.
os.environ["PYTHONPATH"] = os.pathsep.join(
    path for path in (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")) if path
)
