"""The calls of TensorRT that we make. An engine is the ONNX file itself; every build is noted in ``$RECORDED_GPU``."""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuda.bindings import runtime

__version__ = "10.16.1"
int8, float16, float32 = "int8", "float16", "float32"
_TYPES = {onnx.TensorProto.INT8: int8, onnx.TensorProto.UINT8: int8, onnx.TensorProto.FLOAT16: float16}


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    TF32 = 7


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class Logger:
    ERROR = 1

    def __init__(self, level: int) -> None:
        self.level = level


class Network:
    def __init__(self) -> None:
        self.content = b""
        self.types: list[str] = []

    @property
    def num_layers(self) -> int:
        return len(self.types)

    def get_layer(self, number: int) -> Any:
        return SimpleNamespace(get_output=lambda position: SimpleNamespace(dtype=self.types[number]))


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Network, logger: Logger) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        self.network.content = Path(path).read_bytes()
        try:
            graph = onnx.load_from_string(self.network.content).graph
        except Exception:
            return False
        self.network.types = [_TYPES.get(weight.data_type, float32) for weight in graph.initializer]
        return True

    def get_error(self, number: int) -> Any:
        return SimpleNamespace(desc=lambda: "the recorded parser found no ONNX file")


class Config:
    def __init__(self) -> None:
        self.cache = SimpleNamespace(serialize=lambda: b"")

    def clear_flag(self, flag: BuilderFlag) -> None:
        assert flag == BuilderFlag.TF32

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: content + b"times of one build\n")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> None:
        self.cache = cache

    def get_timing_cache(self) -> Any:
        return self.cache


class Builder:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytes:
        with (Path(os.environ["RECORDED_GPU"]) / "builds").open("a") as file:
            file.write(f"{len(network.content)}\n")
        return network.content


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        source, result = (self.engine.get_tensor_name(number) for number in range(2))
        shape = self.engine.get_tensor_shape(source)
        content = ctypes.string_at(self.addresses[source], 4 * int(np.prod(shape)))
        image = np.frombuffer(content, np.float32).reshape(shape)
        (output,) = self.engine.session.run([result], {source: image})
        ctypes.memmove(self.addresses[result], output.ctypes.data, output.nbytes)
        runtime.launched_ms = self.engine.size * 1e-6
        return True


class Engine:
    num_io_tensors = 2

    def __init__(self, plan: bytes) -> None:
        self.size = len(plan)
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self._ends = [self.session.get_inputs()[0], self.session.get_outputs()[0]]

    def get_tensor_name(self, number: int) -> str:
        return str(self._ends[number].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self._ends[0].name else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> list[int]:
        return next(list(end.shape) for end in self._ends if end.name == name)

    def create_execution_context(self) -> Context:
        return Context(self)


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine:
        return Engine(plan)
