"""The converter: one file that runs in a runtime's own environment and imports nothing of ours.

``python converter.py FILE`` takes the function ``convert`` from the Python file ``FILE``, reads one JSON object per
line, ``{"program": FILE, "path": FILE}``, converts the program that PyTorch exported to the runtime's file, and answers
``{"error": ""}`` with what is known of the file, or what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys


def main() -> None:
    """Answer requests until there are no more."""
    sys.path.pop(0)  # our own folder, whose files are no packages of this environment
    import torch

    torch.set_num_threads(1)
    convert = runpy.run_path(sys.argv[1])["convert"]
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
