"""Exported programs of PyTorch, and their conversion by another environment's Python.

The converter (`latency_tables.converter`, one file that imports nothing of ours) is started once per process and
converter, since its imports take longer than most conversions, and answers one JSON line per request.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from latency_tables.errors import ProfileError
from latency_tables.runtimes.base import Runtime, source_of
from search_spaces.files import replacing

if TYPE_CHECKING:
    from torch import nn

_CONVERTER = Path(__file__).parent.parent / "converter.py"


def write_program(network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1) -> None:
    """Write a network as an exported program for batches of so many images.

    Raises:
        ProfileError: PyTorch cannot export it.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (torch.zeros(batch, *input_shape),))
            with replacing(path, ending=".pt2") as temporary:
                torch.export.save(program, temporary)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ProfileError(f"the network cannot be exported: {_first_line(str(error))}") from error


def convert_program(
    runtime: Runtime,
    convert: Callable[[Any, str], dict[str, Any]],
    network: nn.Module,
    input_shape: tuple[int, int, int],
    path: Path,
    batch: int = 1,
) -> dict[str, Any]:
    """Write a network as a runtime's file, through the runtime's own environment.

    Args:
        runtime: The runtime.
        convert: Writes an exported program as the runtime's file and says what it knows of it. Its source runs in the
            runtime's environment, so it imports all that it uses.
        network: In evaluation mode, on the CPU.
        input_shape: Colours, rows and columns of an image.
        path: The file to write.
        batch: Images in a batch.

    Returns:
        What the converter knows of the file: ``delegate``, where it says how many operators a delegate took.

    Raises:
        ProfileError: PyTorch or the converter cannot convert it.
        RuntimeMissingError: There is no such environment.
    """
    converter = _converter(runtime.name, runtime.python(), convert)
    with tempfile.TemporaryDirectory(prefix="nas-convert-") as folder:
        program = Path(folder) / "network.pt2"
        write_program(network, input_shape, program, batch)
        with replacing(path, ending=path.suffix) as temporary:
            facts = converter.convert(program, temporary)
    return facts


class _Converter:
    """A running converter; it ends with us, since its standard input does."""

    def __init__(self, runtime: str, python: str, convert: Callable[[Any, str], dict[str, Any]]) -> None:
        self._runtime = runtime
        self._folder = tempfile.TemporaryDirectory(prefix="nas-converter-")
        file = Path(self._folder.name) / "convert.py"
        file.write_text(f"{source_of(convert)}\n\nconvert = {convert.__name__}\n", encoding="utf-8")
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [python, str(_CONVERTER), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        atexit.register(self._process.kill)

    def convert(self, program: Path, path: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"program": str(program), "path": str(path)}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer, or its absence, says why
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            raise ProfileError(
                f"the converter of `{self._runtime}` ended: {lines[-1] if lines else 'no message'}",
                "check the runtime's environment",
            )
        facts: dict[str, Any] = json.loads(answer)
        error = facts.pop("error")
        if error:
            raise ProfileError(f"the network cannot be converted for `{self._runtime}`: {_first_line(error)}")
        return facts


_converter = cache(_Converter)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0]
