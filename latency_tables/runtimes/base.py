"""What a runtime is to us.

A runtime takes part in two places. Here its files are written, from modules of PyTorch; where the device is, the
worker (`latency_tables.worker`) loads and times them with the runtime's own functions, whose source is sent along.
Such a function may use ``numpy`` as ``np`` and what it imports itself, in Python 3.8 as boards have it. Runtimes that
would pull PyTorch down to an older version live in a Python environment of their own, and so does the converter of
their files.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.errors import LatencyError
from latency_tables.kernels import Fusion
from latency_tables.worker import installed_version
from search_spaces.files import cache_dir

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


class RuntimeMissingError(LatencyError):
    """A runtime whose packages are not installed where they are needed."""

    exit_code = 5


def processor_clock(run: Run, image: Any) -> tuple[int, int]:
    """Wall and CPU time of one run on the processor, in nanoseconds."""
    import time

    wall_before, cpu_before = time.perf_counter_ns(), time.thread_time_ns()
    run(image)
    cpu_after, wall_after = time.thread_time_ns(), time.perf_counter_ns()
    return wall_after - wall_before, cpu_after - cpu_before


class Runtime(ABC):
    """One runtime; a subclass per runtime, registered under its name.

    Attributes:
        name: What users type, for example ``litert``.
        title: What stands in tables, for example ``LiteRT``.
        provider: The part of the runtime that computes.
        suffix: Ending of its files, for example ``.tflite``.
        fusion: Which kernels operators become.
        module: The Python module that must be importable where networks run.
        distribution: The package whose version is the runtime's.
        packages: What ``pip install`` needs there.
        own_environment: Whether the packages must not be installed beside this project.
        helpers: Functions that `load` and `clock` call on the device.
        profiles: Whether `helpers` has a function ``profile(request, say)``, which says what each kernel takes.
        clock: Times one run on the device, ``(run, image)`` to wall and CPU nanoseconds. On an accelerator, whose time
            is no processor's, both are the device's own time.
        block: Times a block of runs instead of `clock`, ``(run, image, runs, seconds, limit)`` to lists of wall and CPU
            milliseconds, where another program runs the network.
        facts: What the device says about runtime and accelerator beyond what the worker knows; called with `bound`.
            ``missing`` and ``remedy`` in it say that the runtime cannot run there, and what helps.
        state: Clock, temperature and signs of throttling of an accelerator: ``clock_khz``, ``celsius``, ``throttled``
            (a list of reasons) and ``power_limited``.
        pins: Whether the worker's own process computes, so that it is to stay on one core.
        memory_bytes: Most that all loaded networks can take together; None where the device's memory is the limit.
        options: What the runtime is told, for the table.
        precision: What its networks compute in.
        tolerance: Outputs on the device may differ from PyTorch's by so much of the largest one.
    """

    name: str
    title: str
    provider: str
    suffix: str
    fusion: Fusion
    module: str
    distribution: str
    packages: tuple[str, ...]
    own_environment = False
    helpers: tuple[Callable[..., Any], ...] = ()
    profiles = False
    clock = staticmethod(processor_clock)
    block: Callable[..., tuple[list[float], list[float]]] | None = None
    facts: Callable[..., dict[str, Any]] | None = None
    state: Callable[[], dict[str, Any]] | None = None
    pins = True
    memory_bytes: int | None = None
    options: dict[str, str] = {}  # noqa: RUF012 (a constant of the class)
    precision: str = "fp32"
    tolerance = 1e-3

    @abstractmethod
    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """Write a network as the runtime's file.

        Args:
            network: In evaluation mode, on the CPU.
            input_shape: Colours, rows and columns of an image.
            path: The file to write.
            batch: Images in a batch.

        Returns:
            What the converter knows of the file: ``delegate``, where it says how many operators a delegate took.

        Raises:
            ProfileError: The network cannot be converted.
            RuntimeMissingError: The converter is not installed.
        """

    @staticmethod
    @abstractmethod
    def load(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
        """Load a file on the device.

        Args:
            path: The file.
            threads: Number of threads to compute on.
            shape: Batch, colours, rows and columns of the input; None where the file says it.

        Returns:
            A function that computes the output for one batch, and the precision that it computes in.
        """

    @property
    def bound(self) -> Mapping[str, Any]:
        """Arguments that `load` and `facts` get by name on the device."""
        return {}

    def device_source(self) -> str:
        """The Python file that the worker takes along: ``load``, ``clock`` and what else the runtime has."""
        functions = {
            "load": self.load,
            "clock": self.clock,
            "block": self.block,
            "facts": self.facts,
            "state": self.state,
        }
        given = [function for function in functions.values() if function is not None]
        names = {name: "None" if function is None else function.__name__ for name, function in functions.items()}
        for name in ("load", "facts"):
            if self.bound and functions[name] is not None:
                names[name] = f"functools.partial({names[name]}, **{dict(self.bound)!r})"
        lines = "".join(f"{name} = {text}\n" for name, text in names.items())
        return f"{source_of(*self.helpers, *given)}\n\n{lines}"

    def installed_version(self) -> str | None:
        """The runtime's version on this machine; None where it is not installed."""
        return installed_version(self.distribution)

    @property
    def environment(self) -> Path:
        """The folder of the runtime's own Python environment, for all of its providers and precisions."""
        return cache_dir() / "environments" / self.name.partition("@")[0].partition(":")[0]

    @property
    def variable(self) -> str:
        """The environment variable that may name the Python to run the runtime with."""
        return f"NAS_{self.environment.name.upper().replace('-', '_')}_PYTHON"

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


def source_of(*functions: Callable[..., Any]) -> str:
    """The source of functions as a Python file of its own."""
    sources = [textwrap.dedent(inspect.getsource(function)) for function in functions]
    imports = "from __future__ import annotations\n\nimport functools\n\nimport numpy as np\n"
    return "\n\n".join([imports, *sources])


def _joined(packages: Sequence[str]) -> str:
    return " ".join(f'"{package}"' if set(package) & set("<>=[") else package for package in packages)
