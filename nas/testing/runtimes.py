"""What every runtime has to do: its file of a network computes what PyTorch computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.kernels import fuse
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import Protocol
from latency_tables.runtimes import Runtime, RuntimeMissingError
from latency_tables.table import KernelEntry
from latency_tables.trace import trace
from latency_tables.transports.local import LocalTransport
from latency_tables.worker import digest, random_image

ONCE = Protocol(rounds=1, rounds_limit=1, warm_up_runs=1, warm_up_seconds=0.0, runs=3, seconds=0.0, restarts=0)
SHAPE = (3, 32, 32)


class RuntimeContract(ABC):
    """What every runtime has to do. Subclass it, give `make_runtime`, and let pytest find the subclass.

    Attributes:
        relative: Largest difference of an output from PyTorch's, as a share of it.
        absolute: Largest difference of an output near 0.
    """

    relative: float = 1e-4
    absolute: float = 1e-5

    @abstractmethod
    def make_runtime(self) -> Runtime:
        """The runtime."""

    def make_network(self) -> nn.Module:
        """A network for images of 32 pixels; override it where the runtime lacks some of its operators."""
        torch.manual_seed(0)
        return _Mixed().eval()

    def test_a_written_network_computes_what_pytorch_computes_and_is_timed(self, tmp_path: Path) -> None:
        """By the worker, in a process of its own, as on a device. Skipped where the runtime is not installed."""
        runtime, network = self.make_runtime(), self.make_network()
        try:
            with LocalTransport() as transport:
                facts = DeviceRunner(runtime, transport, runtime.python()).facts()
        except RuntimeMissingError as error:
            pytest.skip(f"{error}; {error.hint}")
        assert facts["runtime_version"]
        with torch.inference_mode():
            output = network(torch.from_numpy(random_image([1, *SHAPE]))).double().numpy()
        path = tmp_path / f"mixed{runtime.suffix}"
        runtime.write(network, SHAPE, path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing temporary is left
        journal = MeasurementJournal()
        with LocalTransport() as transport:
            runner = DeviceRunner(runtime, transport, runtime.python())
            session = measure(runner, [NetworkFile(path, (1, *SHAPE), digest(output))], ONCE, journal=journal)
        (loaded,) = journal.of_kind("loaded")
        assert loaded["precision"] == runtime.precision
        picked = digest(output)["picked"]
        absolute = self.absolute if runtime.precision == "fp32" else runtime.tolerance * max(map(abs, picked))
        assert loaded["output"]["picked"] == pytest.approx(picked, rel=self.relative, abs=absolute)
        (repeat,) = journal.of_kind("visit")
        assert min(repeat["wall_ms"]) > 0
        assert min(repeat["cpu_ms"]) >= 0
        assert session.measurements[0].ms > 0

    def test_the_device_source_defines_what_the_worker_calls(self) -> None:
        """From its own text alone, which is all that a device gets."""
        namespace: dict[str, object] = {}
        exec(self.make_runtime().device_source(), namespace)
        assert callable(namespace["load"])
        assert callable(namespace["clock"])

    def test_fused_kernels_are_such_as_a_table_holds(self) -> None:
        """Each has a key and features, and all of the network's MACs are in them."""
        graph = trace(self.make_network(), SHAPE)
        kernels = [
            kernel
            for kernel in fuse(list(graph.ops()), self.make_runtime().fusion)
            if kernel.op not in ("quantize", "dequantize")
        ]
        times = dict.fromkeys(("median_ms", "iqr_ms", "min_ms", "p95_ms"), 1.0)
        for kernel in kernels:
            entry = KernelEntry(
                op=kernel.op, key=kernel.key, features=kernel.features(4), runs=1, networks=1, how="in_situ", **times
            )
            kind, at, precision = entry.op.partition("@")
            assert entry.key.startswith(kind)
            assert entry.key.endswith(f"{at}{precision}")
        assert sum(kernel.macs for kernel in kernels) == graph.macs
        assert len(kernels) <= sum(1 for _ in graph.ops())


class _Mixed(nn.Module):
    """Convolutions with squeeze-and-excitation, then attention: the operators of our spaces in small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish(), nn.Conv2d(16, 16, 3, 1, 1, groups=16))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.norm, self.qkv, self.head = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 10)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW)
        x_BCHW = x_BCHW * self.gate(x_BCHW)
        x_BNC = self.norm(x_BCHW.flatten(2).transpose(1, 2))
        query, key, value = self.qkv(x_BNC).chunk(3, dim=-1)
        x_BNC = x_BNC + nn.functional.scaled_dot_product_attention(query, key, value)
        logits: Tensor = self.head(nn.functional.gelu(x_BNC).mean(dim=1))
        return logits
