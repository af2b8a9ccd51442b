"""What a runtime is to us.

A runtime takes part in two places. Here its files are written, from modules of PyTorch; where the device is, the
worker (`latency_tables.worker`) loads and runs them. Runtimes that would pull PyTorch down to an older version live in
a Python environment of their own, and so does the converter of their files.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latency_tables.errors import LatencyError
from latency_tables.targets import cache_dir

if TYPE_CHECKING:
    from torch import nn


class RuntimeMissingError(LatencyError):
    """A runtime whose packages are not installed where they are needed."""

    exit_code = 5


class Runtime(ABC):
    """One runtime; a subclass per runtime, registered under its name.

    Attributes:
        name: What users type, for example ``litert``; the worker's loader of the same name runs its files.
        title: What stands in tables, for example ``LiteRT``.
        provider: The part of the runtime that computes.
        suffix: Of its files, for example ``.tflite``.
        fusion: Which kernels operators become (`latency_tables.kernels.FUSIONS`).
        module: The Python module that must be importable where networks run.
        distribution: The package whose version is the runtime's.
        packages: What ``pip install`` needs there.
        own_environment: Whether the packages must not be installed beside this project.
        profiles: Whether the worker can say what each kernel takes.
        loader: A Python file with a function ``load``, as the worker's, that is sent along; None for the worker's own.
        options: What the runtime is told, for the table.
    """

    name: str
    title: str
    provider: str
    suffix: str
    fusion: Literal["xnnpack", "onnxruntime"]
    module: str
    distribution: str
    packages: tuple[str, ...]
    own_environment = False
    profiles = False
    loader: Path | None = None
    options: dict[str, str] = {}  # noqa: RUF012 (a constant of the class)

    @abstractmethod
    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
        """Write a network as the runtime's file, for one image per batch.

        Args:
            network: In evaluation mode, on the CPU.
            input_shape: Colours, rows and columns of an image.
            path: The file to write.

        Raises:
            ProfileError: The network cannot be converted.
            RuntimeMissingError: The converter is not installed.
        """

    @property
    def environment(self) -> Path:
        """The folder of the runtime's own Python environment, whether it exists or not."""
        return cache_dir() / "environments" / self.name

    @property
    def variable(self) -> str:
        """The environment variable that may name the Python to run the runtime with."""
        return f"NAS_{self.name.upper()}_PYTHON"

    def python(self, chosen: str | None = None) -> str:
        """The Python of this machine that runs and converts the runtime's files.

        Args:
            chosen: What the user asked for; else the environment variable, this Python, or the runtime's own one.

        Raises:
            RuntimeMissingError: There is none that has the runtime.
        """
        chosen = chosen or os.environ.get(self.variable)
        if chosen:
            if shutil.which(chosen) is None:
                raise RuntimeMissingError(f"runtime `{self.name}`: found no program `{chosen}`, expected a Python")
            return chosen
        if not self.own_environment and importlib.util.find_spec(self.module) is not None:
            return sys.executable
        own = self.environment / "bin" / "python"
        if own.exists():
            return str(own)
        raise RuntimeMissingError(
            f"runtime `{self.name}`: `{self.module}` is not installed, expected it here or in `{self.environment}`",
            f"{self.install_commands()}, or name a Python that has it in {self.variable}",
        )

    def install_commands(self) -> str:
        """The commands that install the runtime on this machine."""
        packages = _joined(self.packages)
        if not self.own_environment:
            return f"pip install {packages}"
        return f"python -m venv {self.environment} && {self.environment}/bin/pip install {packages}"


def _joined(packages: Sequence[str]) -> str:
    return " ".join(f'"{package}"' if set(package) & set("<>=[") else package for package in packages)
