"""What a form that networks are exported to is to us.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas.errors import MissingDependencyError
from search_spaces import SearchSpace


@dataclass(frozen=True)
class ExportedNetwork:
    """What a format is written from.

    Attributes:
        module: The network as its stored checkpoint has it, in evaluation mode, on the CPU.
        onnx: Its fp32 ONNX file.
        images_BCHW: Images at its side, which all of its forms are compared on.
        calibration: Gives batches ``(B, 3, H, W)`` of training images at its side; none where its weights are random.
        assignment: What each of its layers is to compute in, by name, where that was chosen; None where it was not.
    """

    module: nn.Module
    onnx: Path
    images_BCHW: Tensor
    calibration: Callable[[], Iterable[Tensor]]
    assignment: Mapping[str, str] | None = None


class ExportFormat:
    """A form that networks are exported to, under a name; this one needs no file beside those of every export.

    Attributes:
        name: What users type.
        packages: Python modules that writing or running needs here, each with what ``pip install`` gets it by.
        any_batch: Whether it takes batches of any size where the ONNX file is written for those.
    """

    name: str
    packages: Mapping[str, str] = {}
    any_batch = False

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Make sure that a network can be written, before anything is.

        Args:
            space: The search space of the network.
            is_trained: Whether there are trained weights, and so training images to calibrate on.

        Raises:
            UsageError: The format does not suit the network.
            MissingDependencyError, RuntimeMissingError: What it needs is not installed.
        """
        for module, requirement in self.packages.items():
            if importlib.util.find_spec(module) is None:
                raise MissingDependencyError(
                    f"format `{self.name}`: `{module}` is not installed", hint=f'pip install "{requirement}"'
                )


class FileFormat(ExportFormat, ABC):
    """A form with a file of its own, which is run on images before the export counts.

    Attributes:
        file: Name of the file, or of the folder that stands for one, in the exported folder.
        beside: Names of further files that it needs beside it.
        tolerance: Largest difference of a logit from the network's, as a share of the logits' range; None where the
            form is not exact by design, so that its accuracy has to tell.
        runtime: Name of the runtime (`latency_tables.runtimes`) that loads the file and is measured here; None where
            none does, so that no latency is measured.
    """

    file: str
    beside: tuple[str, ...] = ()
    tolerance: float | None = None
    runtime: str | None = None

    @abstractmethod
    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Write the file.

        Args:
            network: The network.
            path: Where to write.

        Returns:
            Further facts for ``proof.json``.

        Raises:
            NasError: The network cannot be written in this form.
        """

    @abstractmethod
    def run(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)`` that the file gives for images at the network's side.

        Raises:
            NasError: The file cannot be run.
        """

    def run_together(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """As `run`, of all images in one batch; a format with `any_batch` has its own way.

        Raises:
            NasError: The file cannot be run.
        """
        return self.run(path, images_BCHW)
