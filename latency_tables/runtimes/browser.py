"""ONNX Runtime Web in a headless browser of this machine: WebAssembly, and WebGPU where there is an adapter.

The worker serves one page on 127.0.0.1, under an address that nobody can guess, and starts a browser that opens it. The
page asks for one task at a time (`browser.html`), computes, and answers with its own clock's times. Headers isolate it
from other origins, which browsers ask for before they give a page threads and a fine clock.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.runtimes.base import Runtime, RuntimeMissingError
from latency_tables.runtimes.onnx_file import write_onnx

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
VARIABLE = "NAS_BROWSER"
_PAGE = Path(__file__).with_name("browser.html")
_PACKAGE = "onnxruntime-web"


def process_times(parent: int) -> dict[int, float]:
    """Milliseconds that the main thread of every page below a process has computed; empty where nobody tells."""
    import os

    parents, pages = {}, []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{name}/cmdline", encoding="utf-8") as file:
                    if "--type=renderer" in file.read():
                        pages.append(int(name))
            except OSError:
                continue  # it has ended
    times = {}
    for page in pages:
        above = page
        while above not in (parent, 0):
            above = parents.get(above, 0)
        try:
            with open(f"/proc/{page}/task/{page}/schedstat", encoding="utf-8") as file:
                times[page] = int(file.read().split()[0]) * 1e-6 if above == parent else 0.0
        except OSError:
            continue  # a page in a sandbox, whose times are not ours to read
    return {page: ms for page, ms in times.items() if ms > 0}


class Browser:
    """A headless browser whose page does one task at a time; it ends with this process.

    Args:
        program: The browser.
        page: File of the page; package is the folder of the npm package.
        query: What the page is told: build, provider and threads.
        flags: Further arguments of the browser.
    """

    answer_limit_s = 600.0

    def __init__(self, program: str, page: str, package: str, query: dict[str, Any], flags: list[str]) -> None:
        import atexit
        import http.server
        import json
        import os
        import queue
        import secrets
        import shutil
        import signal
        import subprocess
        import sys
        import tempfile
        import threading
        import urllib.parse

        self.files: dict[str, str] = {}
        self.tasks: Any = queue.Queue()
        self.answers: Any = queue.Queue()
        self.overhead_ms = 0.0
        browser, secret, types = self, secrets.token_urlsafe(16), {".html": "text/html", ".wasm": "application/wasm"}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                place, _, name = urllib.parse.urlsplit(self.path).path[1:].partition("/")
                if place != secret or ".." in name:
                    self.send_error(404)
                elif name == "task":
                    self.reply(json.dumps(browser.tasks.get()).encode(), "application/json")
                else:
                    inside = os.path.join(package, name[len("package/") :]) if name.startswith("package/") else ""
                    file = page if name == "page" else inside or browser.files.get(name, "")
                    if not os.path.isfile(file):
                        self.send_error(404)
                        return
                    with open(file, "rb") as opened:
                        self.reply(opened.read(), types.get(os.path.splitext(file)[1], "text/javascript"))

            def do_POST(self) -> None:
                if self.path == f"/{secret}/answer":
                    browser.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                    self.reply(b"{}", "application/json")
                else:
                    self.send_error(404)

            def reply(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return None

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        address = f"http://127.0.0.1:{server.server_port}/{secret}/page?{urllib.parse.urlencode(query)}"
        folder = tempfile.mkdtemp(prefix="nas-browser-")
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # browsers insist on it

        def end_with_us() -> None:
            if sys.platform == "linux":
                import ctypes

                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

        self.process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--disable-renderer-backgrounding",
                f"--user-data-dir={folder}",
                *root,
                *flags,
                address,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_us,
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def end() -> None:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(folder, ignore_errors=True)

        atexit.register(end)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.facts = self.ask("facts")
        idle = [self.computed(lambda: self.ask("facts"))[1] for _ in range(10)]
        self.overhead_ms = min(idle)

    def ask(self, task: str, **fields: Any) -> Any:
        """Have the page do a task.

        Raises:
            RuntimeError: It failed, or the browser has ended.
        """
        import queue
        import time

        self.tasks.put({"task": task, **fields})
        deadline = time.monotonic() + self.answer_limit_s
        while True:
            try:
                answer = self.answers.get(timeout=1.0)
                break
            except queue.Empty:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the browser ended with exit code {self.process.returncode}") from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the page gave no answer within {self.answer_limit_s:.0f} s") from None
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def computed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """What a call gives, and the milliseconds that the page's main thread computed meanwhile; 0 if unknown."""
        before = process_times(self.process.pid)
        given = call()
        after = process_times(self.process.pid)
        return given, max((after[page] - before.get(page, after[page]) for page in after), default=0.0)


def open_browser(options: dict[str, Any], threads: int, opened: list[Any] = []) -> Browser:  # noqa: B006
    """The one browser of this process."""
    if not opened:
        query = {"build": options["build"], "provider": options["provider"], "threads": threads}
        opened.append(Browser(options["program"], options["page"], options["package"], query, options["flags"]))
    browser: Browser = opened[0]
    return browser


def load_in_browser(path: str, threads: int, shape: list[int] | None, **options: Any) -> tuple[Run, str]:
    """A network in the browser's page."""
    import base64
    import os
    import weakref

    import numpy as np

    browser = open_browser(options, threads)
    if threads > 1 and not browser.facts["isolated"]:
        raise RuntimeError("the page is not isolated, so that the browser gives it no threads")
    network = f"network-{len(browser.files)}"
    browser.files[network] = os.path.abspath(path)
    browser.ask("load", network=network, file=network)

    def run(array: Any) -> Any:
        image = base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
        answer = browser.ask("run", network=network, image=image, shape=list(array.shape))
        return np.array(answer["output"]).reshape(answer["shape"])

    run.block = lambda **amounts: browser.computed(lambda: browser.ask("block", network=network, **amounts))  # type: ignore[attr-defined]
    run.overhead_ms = browser.overhead_ms  # type: ignore[attr-defined]
    run.is_in_page = options["provider"] == "wasm"  # type: ignore[attr-defined]
    weakref.finalize(run, browser.ask, "release", network=network)
    return run, "fp32"


def browser_block(run: Any, image: Any, runs: int, seconds: float, limit: float) -> tuple[list[float], list[float]]:
    """Wall times by the page's clock, and CPU times: those, or their mean where the page had to wait for others.

    On a GPU both are wall times: the page waits for it.
    """
    answer, computed = run.block(runs=runs, seconds=seconds, limit=limit)
    wall, computed = answer["wall_ms"], computed - run.overhead_ms
    if not run.is_in_page or not 0 < computed < 0.98 * answer["elapsed_ms"]:
        return wall, wall
    return wall, [computed / len(wall)] * len(wall)


def browser_facts(**options: Any) -> dict[str, Any]:
    """Versions of the package and the browser, and the adapter that WebGPU would compute on."""
    import json
    import os
    import subprocess

    with open(os.path.join(options["package"], "package.json"), encoding="utf-8") as file:
        facts = {"runtime_version": json.load(file)["version"]}
    told = subprocess.run([options["program"], "--version"], capture_output=True, text=True, check=False)
    facts["browser"] = told.stdout.strip()
    if options["provider"] == "webgpu":
        page = open_browser(options, 1).facts
        if page["adapter"] is None or page["is_software"]:
            found = "no adapter" if page["adapter"] is None else f"`{page['adapter']}`, which computes on the processor"
            return {
                "missing": f"WebGPU: found {found}, expected a GPU",
                "remedy": "install the GPU's driver with Vulkan, or measure WebAssembly: leave `--provider` out",
            }
        facts["accelerator"] = page["adapter"]
    return facts


class BrowserWasm(Runtime):
    """ONNX Runtime Web by WebAssembly, in a browser of this machine."""

    name = "onnxruntime-web"
    title = "ONNX Runtime Web"
    provider = "wasm"
    suffix = ".onnx"
    fusion = ONNX_RUNTIME
    module = distribution = _PACKAGE
    packages = (_PACKAGE,)
    options = {"optimisation": "all"}  # noqa: RUF012
    build = "wasm"
    flags: tuple[str, ...] = ()
    memory_bytes = 4 * 1024**3  # of WebAssembly
    pins = False  # the page is one of several processes of a browser
    helpers = (process_times, Browser, open_browser)
    load = staticmethod(load_in_browser)
    block = staticmethod(browser_block)
    facts = staticmethod(browser_facts)

    @property
    def package(self) -> Path:
        """The folder of the npm package."""
        return self.environment / "node_modules" / _PACKAGE

    @property
    def bound(self) -> Mapping[str, Any]:
        """As `Runtime.bound`."""
        return {
            "program": find_browser() or "",
            "page": str(_PAGE),
            "package": str(self.package),
            "build": self.build,
            "provider": self.provider,
            "flags": list(self.flags),
        }

    def python(self, chosen: str | None = None) -> str:
        """This Python, which runs the browser.

        Raises:
            RuntimeMissingError: There is no browser, or no package.
        """
        if self.installed_version() is None:
            raise RuntimeMissingError(
                f"runtime `{self.name}`: the npm package `{_PACKAGE}` is not in `{self.package}`",
                self.install_commands(),
            )
        if find_browser() is None:
            raise RuntimeMissingError(
                f"runtime `{self.name}`: found none of {', '.join(f'`{name}`' for name in PROGRAMS)}",
                f"apt install chromium, or name a browser of this family in {VARIABLE}",
            )
        return sys.executable

    def install_commands(self) -> str:
        """As `Runtime.install_commands`."""
        return f"npm install --prefix {self.environment} {_PACKAGE}"

    def installed_version(self) -> str | None:
        """As `Runtime.installed_version`."""
        try:
            return str(json.loads((self.package / "package.json").read_text(encoding="utf-8"))["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path, batch)
        return {}


class BrowserWebGpu(BrowserWasm):
    """ONNX Runtime Web by WebGPU. A run ends when its logits are with the processor."""

    name = "onnxruntime-web:webgpu"
    provider = build = "webgpu"
    flags = ("--enable-unsafe-webgpu", "--enable-features=Vulkan")


def find_browser() -> str | None:
    """The browser that is named by the variable, else the first that is installed; None where there is none."""
    chosen = os.environ.get(VARIABLE)
    return shutil.which(chosen) if chosen else next(filter(None, map(shutil.which, PROGRAMS)), None)
