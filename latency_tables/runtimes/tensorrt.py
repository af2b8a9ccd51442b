"""TensorRT on a GPU of NVIDIA, without ONNX Runtime between: engines are built once, and timed by events of the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME, ONNX_RUNTIME_INT8
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.nvidia import ask_gpu, nvidia_facts, nvidia_state
from latency_tables.runtimes.onnx_file import write_onnx
from latency_tables.runtimes.reduced_onnx import write_half_onnx, write_symmetric_onnx

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


def on_gpu(answer: Any) -> Any:
    """What a call of the CUDA runtime gives, without its error code.

    Raises:
        RuntimeError: It failed.
    """
    code, *values = answer
    if int(code) != 0:
        raise RuntimeError(f"CUDA: {code}")
    return values[0] if values else None


def build_engine(path: str) -> bytes:
    """The engine of an ONNX file, whose types decide the precision; its first line says which that is.

    It is kept beside the file, and the times that TensorRT took of its kernels in the cache folder of this project, for
    engines to come. TensorRT shortens the factors of fp32 products (TF32) unless it is told not to.

    Raises:
        RuntimeError: TensorRT cannot build it.
    """
    import os

    import tensorrt

    kept = path + ".engine"
    if os.path.exists(kept):
        with open(kept, "rb") as file:
            return file.read()
    cache = os.environ.get("NAS_CACHE_DIR") or os.path.expanduser("~/.cache/nas")
    times = os.path.join(cache, "tensorrt-" + tensorrt.__version__ + ".timings")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        raise RuntimeError("; ".join(parser.get_error(number).desc() for number in range(parser.num_errors)))
    types = {network.get_layer(number).get_output(0).dtype for number in range(network.num_layers)}
    precision = "int8" if tensorrt.int8 in types else "fp16" if tensorrt.float16 in types else "fp32"
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    known = b""
    if os.path.exists(times):
        with open(times, "rb") as file:
            known = file.read()
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT could not build an engine")
    engine = precision.encode() + b"\n" + bytes(plan)
    os.makedirs(cache, exist_ok=True)
    for name, content in ((kept, engine), (times, bytes(config.get_timing_cache().serialize()))):
        with open(name + ".part", "wb") as file:
            file.write(content)
        os.replace(name + ".part", name)
    return engine


def load_engine(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """An engine with its input and output in the GPU's memory."""
    import numpy as np
    import tensorrt
    from cuda.bindings import runtime as cuda

    precision, _, plan = build_engine(str(path)).partition(b"\n")
    engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    reads = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
    writes = [name for name in names if name not in reads]
    arrays = {name: np.zeros(tuple(engine.get_tensor_shape(name)), np.float32) for name in names}
    memory = {name: on_gpu(cuda.cudaMalloc(array.nbytes)) for name, array in arrays.items()}
    for name, address in memory.items():
        context.set_tensor_address(name, int(address))
    stream = on_gpu(cuda.cudaStreamCreate())

    def run(array: Any) -> Any:
        given, kinds = np.ascontiguousarray(array, np.float32), cuda.cudaMemcpyKind
        on_gpu(cuda.cudaMemcpy(memory[reads[0]], given.ctypes.data, given.nbytes, kinds.cudaMemcpyHostToDevice))
        context.execute_async_v3(int(stream))
        on_gpu(cuda.cudaStreamSynchronize(stream))
        taken = arrays[writes[0]]
        on_gpu(cuda.cudaMemcpy(taken.ctypes.data, memory[writes[0]], taken.nbytes, kinds.cudaMemcpyDeviceToHost))
        return taken.copy()

    def launch() -> None:
        context.execute_async_v3(int(stream))

    run.launch, run.stream = launch, stream  # type: ignore[attr-defined]
    run.events = [on_gpu(cuda.cudaEventCreate()) for _ in range(2)]  # type: ignore[attr-defined]
    return run, precision.decode()


def event_clock(run: Any, image: Any) -> tuple[int, int]:
    """Time of one run between two events of the GPU, copies not included."""
    from cuda.bindings import runtime as cuda

    begin, end = run.events
    on_gpu(cuda.cudaEventRecord(begin, run.stream))
    run.launch()
    on_gpu(cuda.cudaEventRecord(end, run.stream))
    on_gpu(cuda.cudaEventSynchronize(end))
    passed = round(on_gpu(cuda.cudaEventElapsedTime(begin, end)) * 1e6)
    return passed, passed


class TensorRT(Runtime):
    """TensorRT; the ONNX file's types are the engine's."""

    name = "tensorrt"
    title = "TensorRT"
    provider = "cuda"
    suffix = ".onnx"
    fusion = ONNX_RUNTIME
    module = "tensorrt"
    distribution = "tensorrt"
    packages = ("tensorrt>=10.0", "cuda-bindings>=12.6", "numpy")
    options = {"typing": "strong", "tf32": "off"}  # noqa: RUF012
    helpers = (ask_gpu, on_gpu, build_engine)
    pins = False
    load = staticmethod(load_engine)
    clock = staticmethod(event_clock)
    facts = staticmethod(nvidia_facts)
    state = staticmethod(nvidia_state)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path, batch)
        return {}


class TensorRTHalf(TensorRT):
    """TensorRT with all numbers in half precision."""

    name = "tensorrt@fp16"
    precision = "fp16"
    tolerance = 0.03

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_half_onnx(network, input_shape, path, batch)
        return {}


class TensorRTInt8(TensorRT):
    """TensorRT with products of 8-bit integers; the rest is fp32."""

    name = "tensorrt@int8"
    precision = "int8"
    tolerance = 0.6  # untrained networks lose up to 0.3 in integers; other networks' outputs differ by 1 and more
    fusion = ONNX_RUNTIME_INT8

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_symmetric_onnx(network, input_shape, path, batch)
        return {}
