"""The converter: one file that runs in a runtime's own environment and imports nothing of ours.

``python converter.py litert`` reads one JSON object per line, ``{"program": FILE, "path": FILE}``, converts the program
that PyTorch exported to the runtime's file, and answers ``{"error": ""}`` with what is known of the file, or what went
wrong.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def to_litert(program: Any, path: str) -> dict[str, Any]:
    """Write a TensorFlow Lite file."""
    import litert_torch

    (inputs, _) = program.example_inputs
    litert_torch.convert(program.module(), inputs).export(path)
    return {}


def to_executorch(program: Any, path: str) -> dict[str, Any]:
    """Write an ExecuTorch program whose operators run in XNNPACK wherever it has them, and count those."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    info = get_delegation_info(edge.exported_program().graph_module)
    with open(path, "wb") as file:
        edge.to_executorch().write_to_file(file)
    inside, outside = info.num_delegated_nodes, info.num_non_delegated_nodes
    return {"delegate": {"name": "XNNPACK", "nodes": inside, "all_nodes": inside + outside}}


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
        error, facts = "", {}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the converters' own remarks
                facts = convert(torch.export.load(request["program"]), request["path"])
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        answers.write(json.dumps({"error": error, **facts}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
