"""Fixtures that every test file may use."""

from __future__ import annotations

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Threads that spin while they wait for each other lose a lot on a busy machine, and small networks gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
