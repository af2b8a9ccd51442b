"""ONNX Runtime on what is no processor: its execution providers, each a runtime of its own, `onnxruntime:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latency_tables.runtimes.nvidia import ask_gpu, nvidia_facts, nvidia_state, wall_clock
from latency_tables.runtimes.onnx_runtime import OnnxRuntime

if TYPE_CHECKING:
    from latency_tables.worker import Run


def load_on_provider(path: str, threads: int, shape: list[int] | None, **options: Any) -> tuple[Run, str]:
    """An ONNX Runtime session on a provider; on NVIDIA's GPUs input and output stay in their memory.

    Raises:
        RuntimeError: The session fell back to another provider, whose time this would be.
    """
    import numpy as np
    import onnxruntime

    provider = options["provider"]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    if options["whole"]:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chosen = {name: value.replace("{path}", str(path)) for name, value in options["settings"].items()}
    session = onnxruntime.InferenceSession(str(path), settings, providers=[(provider, chosen)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(
            f"{provider} could not be loaded, and ONNX Runtime fell back to {session.get_providers()[0]}"
        )
    (source,), result = session.get_inputs(), session.get_outputs()[0].name
    if not options["binds"]:
        return lambda array: session.run(None, {source.name: array})[0], "fp32"
    binding = session.io_binding()

    def run(array: Any) -> Any:
        if array is not None:
            on_gpu = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
            binding.bind_ortvalue_input(source.name, on_gpu)
            binding.bind_output(result, "cuda")
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding if array is None else binding.copy_outputs_to_cpu()[0]

    return run, "fp32"


def bound_clock(run: Any, image: Any) -> tuple[int, int]:
    """Wall time of one run on what is bound already, without copies."""
    return wall_clock(run, None)


def provider_facts(**options: Any) -> dict[str, Any]:
    """Whether the installed ONNX Runtime has the provider, and what the driver says."""
    import onnxruntime

    found = onnxruntime.get_available_providers()
    if options["provider"] not in found:
        return {
            "missing": f"the ONNX Runtime that is installed has {', '.join(found)}, expected {options['provider']}",
            "remedy": options["remedy"],
        }
    return nvidia_facts() if options["binds"] else {}


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Attributes:
        word: What users type.
        name: What ONNX Runtime calls it.
        distribution: The package that has it.
        settings: Its options; ``{path}`` stands for the network's file.
        is_nvidia: Whether it computes on a GPU of NVIDIA.
        whole: Whether a network with a node that it does not take is refused.
        packages: What ``pip install`` needs; the distribution alone where it is empty.
        remedy: What helps where the provider is missing; empty says how to install the package.
    """

    word: str
    name: str
    distribution: str
    settings: Mapping[str, str] = field(default_factory=dict)
    is_nvidia: bool = False
    whole: bool = False
    packages: tuple[str, ...] = ()
    remedy: str = ""


PROVIDERS = (
    Provider(
        "cuda",
        "CUDAExecutionProvider",
        "onnxruntime-gpu",
        {"use_tf32": "0"},
        is_nvidia=True,
        packages=("onnxruntime-gpu[cuda,cudnn]",),
    ),
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        "onnxruntime-gpu",
        {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "{path}.engines",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "{path}.engines",
        },
        is_nvidia=True,
        packages=("onnxruntime-gpu[cuda,cudnn]", "tensorrt"),
    ),
    Provider("webgpu", "WebGpuExecutionProvider", "onnxruntime-webgpu"),
    Provider(
        "coreml",
        "CoreMLExecutionProvider",
        "onnxruntime",
        {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
        whole=True,
        remedy="build the table on a Mac, where the package `onnxruntime` has it",
    ),
    Provider(
        "qnn",
        "QNNExecutionProvider",
        "onnxruntime-qnn",
        {"backend_type": "htp", "htp_performance_mode": "burst"},
        whole=True,
        packages=("onnxruntime-qnn<2",),
    ),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino", {"device_type": "GPU"}, whole=True),
)


class OnnxRuntimeOn(OnnxRuntime):
    """ONNX Runtime on a provider."""

    profiles = False
    pins = False
    load = staticmethod(load_on_provider)
    facts: Callable[..., dict[str, Any]] | None = staticmethod(provider_facts)

    def __init__(self, chosen: Provider) -> None:
        self._chosen = chosen
        self.name = f"onnxruntime:{chosen.word}"
        self.provider, self.distribution = chosen.name, chosen.distribution
        self.packages = (*(chosen.packages or (chosen.distribution,)), "numpy")
        self.options = {**OnnxRuntime.options, **chosen.settings}
        self.clock = bound_clock if chosen.is_nvidia else wall_clock
        self.state = nvidia_state if chosen.is_nvidia else None
        self.helpers = (ask_gpu, nvidia_facts, wall_clock)

    @property
    def bound(self) -> Mapping[str, Any]:
        """As `Runtime.bound`."""
        return {
            "provider": self.provider,
            "settings": dict(self._chosen.settings),
            "binds": self._chosen.is_nvidia,
            "whole": self._chosen.whole,
            "remedy": self._chosen.remedy or f"pip uninstall onnxruntime && {self.install_commands()}",
        }
