"""A browser as far as the worker sees it: it opens the page's address, and does its tasks with ONNX Runtime.

Its times are made up, a nanosecond for every byte of a network's file. `install` puts it into a folder as a program.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "onnxruntime-web"


def install(cache: Path, **told: Any) -> Path:
    """A program that behaves so, and the npm package that it would load, in the cache's folder; gives the program."""
    package = cache / "environments" / PACKAGE / "node_modules" / PACKAGE
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.30.0"}')
    (package / "dist" / "ort.wasm.min.mjs").write_text("// the library")
    program = cache / "recorded-browser"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {json.dumps(json.dumps(told))} "$@"\n')
    program.chmod(0o755)
    return program


def main() -> None:
    import onnxruntime

    told, address = json.loads(sys.argv[1]), sys.argv[-1]
    if address == "--version":
        sys.stdout.write("Recorded 1.0\n")
        return
    base = address.partition("page?")[0]
    sessions: dict[str, Any] = {}
    sizes: dict[str, int] = {}

    def fetch(name: str, body: bytes | None = None) -> tuple[bytes, Any]:
        with urllib.request.urlopen(urllib.request.Request(urllib.parse.urljoin(base, name), body)) as answer:
            return answer.read(), answer.headers

    def status(url: str) -> int:
        try:
            with urllib.request.urlopen(url) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    _, headers = fetch(address)
    assert (headers["Cross-Origin-Opener-Policy"], headers["Cross-Origin-Embedder-Policy"]) == (
        "same-origin",
        "require-corp",
    )
    assert fetch("package/dist/ort.wasm.min.mjs")[1]["Content-Type"] == "text/javascript"
    root = base.rstrip("/").rpartition("/")[0]
    assert [status(url) for url in (f"{root}/task", f"{base}package/../../secret", f"{base}other")] == [404] * 3
    while True:
        task = json.loads(fetch("task")[0])
        name, network = task["task"], task.get("network")
        answer: dict[str, Any] = {}
        if name == told.get("dies_at"):
            sys.exit(3)
        if name == "facts":
            answer = {"isolated": True, "adapter": None, "is_software": None, **told.get("facts", {})}
        elif name == "load":
            content = fetch(task["file"])[0]
            sizes[network] = len(content)
            sessions[network] = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        elif name == "run":
            image = np.frombuffer(base64.b64decode(task["image"]), "<f4").reshape(task["shape"])
            output = sessions[network].run(None, {sessions[network].get_inputs()[0].name: image})[0]
            answer = {"output": output.ravel().tolist(), "shape": list(output.shape)}
        elif name == "block":
            times = [sizes[network] * 1e-6] * task["runs"]
            answer = {"wall_ms": times, "elapsed_ms": sum(times)}
        fetch("answer", json.dumps(answer).encode())


if __name__ == "__main__":
    main()
