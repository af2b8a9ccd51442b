"""Core ML: a model package in fp32 for Apple's devices.

Converters run everywhere, Core ML itself on macOS alone, and no file leaves that has not been run.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latency_tables.runtimes.onnx_file import INPUT_NAME, OUTPUT_NAME
from nas.errors import MissingDependencyError, NasError
from nas.exporting.formats.base import ExportedNetwork, FileFormat
from search_spaces import SearchSpace


class CoreML(FileFormat):
    """``coreml``: an ML program, for iOS 16, macOS 13 and later."""

    name = "coreml"
    file = "model.mlpackage"
    tolerance = 1e-3
    packages: Mapping[str, str] = {"coremltools": "nas-vit[coreml]"}

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Refuse where Core ML does not run, so that the file could not be compared with the network."""
        if sys.platform != "darwin":
            raise MissingDependencyError(
                f"format `{self.name}`: Core ML runs on macOS alone, so the file could not be proven on this machine",
                hint="copy the run folder to a Mac, and export it there",
            )
        super().check(space, is_trained)

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Convert the network.

        Raises:
            NasError: It cannot be converted.
        """
        try:
            with warnings.catch_warnings(), _quiet(), torch.no_grad():
                import coremltools

                warnings.simplefilter("ignore")
                program = torch.export.export(network.module, (network.images_BCHW[:1],)).run_decompositions({})
                model = coremltools.convert(
                    program,
                    inputs=[coremltools.TensorType(INPUT_NAME, (1, *network.images_BCHW.shape[1:]))],
                    outputs=[coremltools.TensorType(OUTPUT_NAME)],
                    minimum_deployment_target=coremltools.target.iOS16,
                    compute_precision=coremltools.precision.FLOAT32,
                )
                model.save(str(path))
        except Exception as error:  # the converter raises whatever it trips over
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise NasError(
                f"format `{self.name}`: the network cannot be converted: {first}", hint="leave the format out"
            ) from error
        return {}

    def run(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)`` in Core ML, one image at a time, on the processor."""
        import coremltools

        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
        rows = [model.predict({INPUT_NAME: image_CHW[None].numpy()})[OUTPUT_NAME] for image_CHW in images_BCHW]
        return torch.cat([torch.from_numpy(row).float() for row in rows])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's remarks and bars of progress off the terminal."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


COREML = CoreML()
