"""The converter: one file that runs in a runtime's own environment and imports nothing of ours.

``python converter.py litert`` reads one JSON object per line, ``{"program": FILE, "path": FILE}``, converts the program
that PyTorch exported to the runtime's file, and answers ``{"error": ""}`` or what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def to_litert(program: Any, path: str) -> None:
    """Write a TensorFlow Lite file."""
    import litert_torch

    (inputs, _) = program.example_inputs
    litert_torch.convert(program.module(), inputs).export(path)


def to_executorch(program: Any, path: str) -> None:
    """Write an ExecuTorch program whose operators run in XNNPACK wherever it has them."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with open(path, "wb") as file:
        lowered.write_to_file(file)


CONVERTERS = {"litert": to_litert, "executorch": to_executorch}


def main() -> None:
    """Answer requests until there are no more."""
    sys.path.pop(0)  # our own folder, whose files are no packages of this environment
    import torch

    torch.set_num_threads(1)
    convert = CONVERTERS[sys.argv[1]]
    answers = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        error = ""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the converters' own remarks
                convert(torch.export.load(request["program"]), request["path"])
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
