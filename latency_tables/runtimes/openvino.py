"""OpenVINO on the processor, in fp32 and in 8-bit integers, and on GPUs and NPUs of Intel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.errors import ProfileError
from latency_tables.kernels import ONNX_RUNTIME, ONNX_RUNTIME_INT8
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.nvidia import wall_clock
from latency_tables.runtimes.onnx_file import write_onnx

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


DRIVERS = {
    "GPU": "https://github.com/intel/compute-runtime (`apt install intel-opencl-icd`)",
    "NPU": "https://github.com/intel/linux-npu-driver",
}
"""Accelerators of Intel, and where their drivers are to be had."""
RANGE_IMAGES = 4
"""Random images that ranges of activations are found on where a network is only timed."""
NETWORK, WEIGHTS = "network.xml", "network.bin"
"""The two files that OpenVINO keeps of a network, in the archive that travels to the device."""


def load_model(
    path: str, threads: int, shape: list[int] | None, device: str = "CPU", driver: str = "", hint: str = "f32"
) -> tuple[Run, str]:
    """OpenVINO on a device. It computes in bf16 or fp16 wherever the device can, unless it is told not to."""
    import openvino

    return compiled(openvino.Core().read_model(path), threads, device, hint)


def compiled(model: Any, threads: int, device: str, hint: str) -> tuple[Run, str]:
    """A network of OpenVINO's, ready to run, and the precision that it computes in."""
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        options.update(INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1, ENABLE_CPU_PINNING=False)
    network = core.compile_model(model, device, options)
    infer = network.create_infer_request()

    def run(array: Any) -> Any:
        infer.infer({0: array}, share_inputs=True)
        return infer.get_output_tensor(0).data

    layers = [node.get_rt_info() for node in network.get_runtime_model().get_ops()]
    told = {(layer["layerType"].astype(str), layer["runtimePrecision"].astype(str)) for layer in layers}
    kinds = {kind for _, kind in told}
    if told & {(layer, kind) for layer in ("Convolution", "FullyConnected") for kind in ("u8", "i8")}:
        kinds.add("int8")
    reduced = kinds & {"bf16", "f16", "int8"}
    names = {(): "fp32", ("f16",): "fp16", ("bf16",): "bf16", ("int8",): "int8"}
    return run, names.get(tuple(reduced), "+".join(sorted(kinds)))


def load_archive(
    path: str, threads: int, shape: list[int] | None, device: str = "CPU", driver: str = "", hint: str = "f32"
) -> tuple[Run, str]:
    """OpenVINO on a device, from an archive of its two files, or from one with the other beside it."""
    import zipfile

    import openvino

    core = openvino.Core()
    if not zipfile.is_zipfile(path):
        return compiled(core.read_model(path), threads, device, hint)
    with zipfile.ZipFile(path) as archive:
        model = core.read_model(archive.read("network.xml"), archive.read("network.bin"))
    return compiled(model, threads, device, hint)


def find_device(device: str, driver: str, hint: str) -> dict[str, Any]:
    """The name of an accelerator of Intel, or what is missing."""
    import openvino

    core = openvino.Core()
    found = [name for name in core.available_devices if name.partition(".")[0] == device]
    if found:
        return {"accelerator": core.get_property(found[0], "FULL_DEVICE_NAME")}
    return {
        "missing": f"OpenVINO finds no {device}: found {', '.join(core.available_devices)}",
        "remedy": f"install the driver of an Intel {device}: {driver}",
    }


def find_bf16(hint: str) -> dict[str, Any]:
    """What is missing where a processor does not compute in bf16."""
    import openvino

    found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in found:
        return {}
    return {"missing": f"OpenVINO computes in {', '.join(found)} on this processor", "remedy": "measure in fp32"}


class OpenVINO(Runtime):
    """OpenVINO reads ONNX files. It is told to compute in fp32, which it would not do by itself."""

    name = "openvino"
    title = "OpenVINO"
    provider = "CPU"
    suffix = ".onnx"
    fusion = ONNX_RUNTIME
    module = "openvino"
    distribution = "openvino"
    packages: tuple[str, ...] = ("openvino", "numpy")
    options = {"inference_precision_hint": "f32", "performance_hint": "latency"}  # noqa: RUF012
    helpers: tuple[Callable[..., Any], ...] = (compiled,)
    load = staticmethod(load_model)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path, batch)
        return {}


class OpenVINOBf16(OpenVINO):
    """OpenVINO as it is by itself on processors that have bf16."""

    name = "openvino@bf16"
    precision = "bf16"
    tolerance = 0.03
    facts = staticmethod(find_bf16)
    options = {**OpenVINO.options, "inference_precision_hint": "bf16"}  # noqa: RUF012
    bound = {"hint": "bf16"}  # noqa: RUF012


class OpenVINOInt8(OpenVINO):
    """OpenVINO with 8-bit integers inside, placed by NNCF as exports to `openvino-int8` have them."""

    name = "openvino@int8"
    precision = "int8"
    suffix = ".zip"
    fusion = ONNX_RUNTIME_INT8
    tolerance = 0.6  # as for ONNX Runtime in integers
    module = "nncf"
    packages = ("openvino", "nncf", "numpy")
    load = staticmethod(load_archive)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`; ranges come from random images, since a range changes no time."""
        import tempfile
        import zipfile

        import numpy as np

        from latency_tables.onnx_quantised import quiet_converters
        from search_spaces.files import replacing

        generator = np.random.default_rng(0)
        shape = (batch, *input_shape)
        images = [generator.standard_normal(shape).astype(np.float32) for _ in range(RANGE_IMAGES)]
        with tempfile.TemporaryDirectory(prefix="nas-int8-") as name, replacing(path) as temporary:
            folder = Path(name)
            write_onnx(network, input_shape, folder / "fp32.onnx", batch)
            try:
                with quiet_converters():
                    import nncf
                    import openvino

                    kind = nncf.ModelType.TRANSFORMER
                    model = openvino.convert_model(str(folder / "fp32.onnx"))
                    quantised = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), model_type=kind)
                    openvino.save_model(quantised, str(folder / NETWORK), compress_to_fp16=False)
            except Exception as error:  # OpenVINO and NNCF raise whatever they trip over
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ProfileError(f"the network cannot be quantised: {first}") from error
            with zipfile.ZipFile(temporary, "w") as archive:
                for part in (NETWORK, WEIGHTS):
                    archive.write(folder / part, part)
        return {}


class OpenVINOOn(OpenVINO):
    """OpenVINO on an accelerator of Intel.

    Args:
        device: What OpenVINO calls it.
        driver: Where its driver is to be had.
        precision: What it computes in, ``fp32`` or ``fp16``.
    """

    pins = False
    clock = staticmethod(wall_clock)
    facts = staticmethod(find_device)

    def __init__(self, device: str, driver: str, precision: str = "fp32") -> None:
        self.provider, self._driver, self.precision = device, driver, precision
        self.name = f"openvino:{device.lower()}" + ("" if precision == "fp32" else f"@{precision}")
        self.tolerance = 1e-3 if precision == "fp32" else 0.03
        self.options = {**OpenVINO.options, "inference_precision_hint": self.bound["hint"]}

    @property
    def bound(self) -> Mapping[str, Any]:
        """As `Runtime.bound`."""
        return {"device": self.provider, "driver": self._driver, "hint": self.precision.replace("fp", "f")}
