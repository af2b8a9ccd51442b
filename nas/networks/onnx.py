"""ONNX files of networks: written by PyTorch's exporter, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latency_tables.errors import ProfileError
from latency_tables.runtimes.onnx_file import INPUT_NAME, OUTPUT_NAME, exported_model, quiet_exporters
from nas.errors import NasError


def export_onnx(
    network: nn.Module,
    input_side: int,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = False,
    outputs: Sequence[str] = (OUTPUT_NAME,),
) -> None:
    """Write ``network`` as an ONNX file with a fixed input ``image`` of shape ``(1, 3, input_side, input_side)``.

    Args:
        network: In evaluation mode, on the CPU.
        input_side: Side of the image in pixels.
        path: The file to write, weights included.
        metadata: Text to store in the file.
        dynamic_batch: Leave the number of images open instead.
        outputs: Names of what it gives.

    Raises:
        NasError: PyTorch cannot export the network.
    """
    import onnx

    try:
        with quiet_exporters():
            batch = None if dynamic_batch else 1
            model = exported_model(network, (3, input_side, input_side), batch, outputs)
    except ProfileError as error:
        raise NasError(str(error), "export it without `--batch`" if dynamic_batch else "") from error
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))


class OnnxNetwork:
    """An ONNX file in ONNX Runtime, one image at a time on one thread, as its latency is measured.

    Args:
        path: A file of `export_onnx`.

    Raises:
        NasError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            raise NasError(f"`{path}`: ONNX Runtime cannot load it: {error}") from error

    def __call__(self, images_BCHW: torch.Tensor) -> npt.NDArray[np.float32]:
        """Logits ``(B, classes)`` of normalised images at the network's input side."""
        return np.concatenate([self.together(image_CHW[None]) for image_CHW in images_BCHW])

    def together(self, images_BCHW: torch.Tensor) -> npt.NDArray[np.float32]:
        """As a call, of all images at once; the file's batch must be as large, or open."""
        logits_BK: npt.NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images_BCHW.cpu().numpy()})[
            0
        ]
        return logits_BK

    def outputs(self, images_BCHW: torch.Tensor, names: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """What the file gives by these names for the same images, each ``(B, ...)``."""
        rows = [self._session.run(list(names), {INPUT_NAME: image[None].numpy()}) for image in images_BCHW.cpu()]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]
