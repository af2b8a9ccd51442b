"""Runs a runtime's file on images: one file for that runtime's own environment, which imports nothing of the project.

``python run_elsewhere.py RUNTIME FILE IMAGES LOGITS`` loads ``FILE`` with the runtime's own functions in ``RUNTIME``
(`latency_tables.runtimes.base.Runtime.device_source`), computes every image of the array ``IMAGES`` (``.npy``,
``(N, 3, H, W)``, float32) and writes the logits ``(N, K)`` to ``LOGITS``.
"""

from __future__ import annotations

import runpy
import sys

import numpy as np


def main() -> None:
    """Compute all images."""
    runtime, path, images, logits = sys.argv[1:]
    sys.path.pop(0)  # our own folder, whose files are no packages of this environment
    images_NCHW = np.load(images)
    run, _ = runpy.run_path(runtime)["load"](path, 1, [1, *images_NCHW.shape[1:]])
    rows = [np.array(run(np.ascontiguousarray(image_CHW[None]))).reshape(1, -1) for image_CHW in images_NCHW]
    np.save(logits, np.concatenate(rows).astype(np.float32))


if __name__ == "__main__":
    main()
