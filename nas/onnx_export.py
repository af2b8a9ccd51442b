"""ONNX files of networks: written by PyTorch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nas.errors import NasError

INPUT_NAME, OUTPUT_NAME = "image", "logits"


def export_onnx(network: nn.Module, input_side: int, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``network`` as an ONNX file with a fixed input ``image`` of shape ``(1, 3, input_side, input_side)``.

    Args:
        network: In evaluation mode, on the CPU.
        input_side: Side of the image in pixels.
        path: The file to write, weights included.
        metadata: Text to store in the file.

    Raises:
        NasError: PyTorch cannot export the network.
    """
    import onnx

    example = torch.zeros(1, 3, input_side, input_side)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                network, (example,), dynamo=True, input_names=[INPUT_NAME], output_names=[OUTPUT_NAME], verbose=False
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise NasError(f"the network cannot be exported to ONNX: {str(error).splitlines()[0]}") from error
    if program is None:
        raise NasError("the network cannot be exported to ONNX: the exporter returned nothing")
    model = program.model_proto
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
        rows = [self._session.run([OUTPUT_NAME], {INPUT_NAME: image[None].numpy()})[0] for image in images_BCHW.cpu()]
        return np.concatenate(rows)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress lines off standard output, which carries data only."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
