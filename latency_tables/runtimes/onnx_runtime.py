"""ONNX Runtime on the CPU, in fp32 and in 8-bit integers: the runtime of this machine's own table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME, ONNX_RUNTIME_INT8
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.onnx_file import write_onnx
from latency_tables.worker import random_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from latency_tables.worker import Run


RANGE_IMAGES = 4
"""Random images that ranges of activations are found on where a network is only timed."""


def make_session(path: str, threads: int = 1, profile_prefix: str | None = None, optimised: str | None = None) -> Any:
    """An ONNX Runtime session on the CPU: sequential, all optimisations.

    Args:
        path: The ONNX file.
        threads: Threads within an operator.
        profile_prefix: Where given, profiling is on and its files start with this path.
        optimised: Where given, the optimised graph is written to this path, its weights beside it.
    """
    import os

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        weights = os.path.basename(str(optimised)) + ".weights"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_inputs(session: Any) -> dict[str, Any]:
    """Normal random inputs of an ONNX Runtime session's fixed shapes. A free batch size is 1.

    Raises:
        ValueError: An input has another free dimension or is not fp32.
    """
    inputs = {}
    for value in session.get_inputs():
        sides = [1 if not isinstance(side, int) and axis == 0 else side for axis, side in enumerate(value.shape)]
        if value.type != "tensor(float)" or not all(isinstance(side, int) for side in sides):
            raise ValueError(f"input `{value.name}`: found {value.type} {value.shape}, expected fixed float sizes")
        inputs[value.name] = random_image(sides)
    return inputs


def load_session(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """ONNX Runtime on the CPU; it knows the inputs that its file wants, of which there may be several."""
    session = make_session(path, threads)
    inputs = random_inputs(session)
    found = [list(array.shape) for array in inputs.values()]
    if shape is not None and found != [list(shape)]:
        raise ValueError(f"inputs are {found}, expected {[list(shape)]}")

    def run(array: Any) -> Any:
        return session.run(None, inputs)[0]

    return run, "fp32"


def load_int8_session(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """As `load_session`; what it computes in is read off the graph that ONNX Runtime made of the file."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nas-optimised-") as folder:
        optimised = os.path.join(folder, "optimised.onnx")
        make_session(path, threads, optimised=optimised)
        with open(optimised, "rb") as file:
            content = file.read()
    names = (b"QGemm", b"QLinearConv", b"MatMulIntegerToFloat", b"DynamicQuantizeMatMul", b"QLinearMatMul")
    run, precision = load_session(path, threads, shape)
    return run, "int8" if any(name in content for name in names) else precision


def profile(request: dict[str, Any], say: Callable[..., None]) -> None:
    """Profile networks; they take turns, and each leaves its events and optimised graph."""
    import os

    sessions = {}
    for name, entry in request["networks"].items():
        graph = os.path.join(request["folder"], f"{name}.optimised.onnx")
        try:
            session = make_session(entry["path"], 1, graph + ".events", graph)
            sessions[name] = (session, random_inputs(session), graph)
        except Exception as error:
            say("error", network=name, message=f"{type(error).__name__}: {error}")
    for turn in range(request["turns"]):
        for session, inputs, _ in sessions.values():
            for _ in range(request["runs"] + request["warm_up"] * (turn == 0)):
                session.run(None, inputs)
    for name, (session, _, graph) in sessions.items():
        say("profile", network=name, events=os.path.abspath(session.end_profiling()), graph=graph)


class OnnxRuntime(Runtime):
    """ONNX Runtime; the only one whose profiler tells what each kernel takes."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    provider = "CPUExecutionProvider"
    suffix = ".onnx"
    fusion = ONNX_RUNTIME
    module = "onnxruntime"
    distribution = "onnxruntime"
    packages: tuple[str, ...] = ("onnxruntime", "numpy")
    profiles = True
    options = {"execution": "sequential", "optimisation": "all"}  # noqa: RUF012
    helpers: tuple[Callable[..., Any], ...] = (random_image, make_session, random_inputs, profile)
    load = staticmethod(load_session)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path, batch)
        return {}


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime with 8-bit integers inside, placed as exports place them (`latency_tables.onnx_quantised`)."""

    name = "onnxruntime@int8"
    precision = "int8"
    fusion = ONNX_RUNTIME_INT8
    tolerance = 0.6  # untrained networks lose up to 0.3 in integers; other networks' outputs differ by 1 and more
    helpers = (random_image, make_session, random_inputs, load_session, profile)
    load = staticmethod(load_int8_session)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`; ranges come from random images, since a range changes no time."""
        import tempfile
        from functools import partial

        import numpy as np
        import onnx

        from latency_tables.onnx_quantised import place, quantise_onnx
        from search_spaces.files import replacing

        generator = np.random.default_rng(0)
        images = (generator.standard_normal((batch, *input_shape)).astype(np.float32) for _ in range(RANGE_IMAGES))
        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder, replacing(path) as temporary:
            fp32 = Path(folder) / "fp32.onnx"
            write_onnx(network, input_shape, fp32, batch)
            quantise_onnx(onnx.load(str(fp32)), partial(place, wanted="int8"), images, temporary)
        return {}
