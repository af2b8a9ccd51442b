"""OpenVINO's intermediate representation, in fp32 and in 8-bit integers placed by NNCF.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import BusyMachineError
from latency_tables.onnx_quantised import CALIBRATION_IMAGES, processor_flags
from latency_tables.repeats import QUICK
from latency_tables.runtimes import RuntimeMissingError, get_runtime
from latency_tables.transports.local import LocalTransport
from nas.errors import NasError, UsageError
from nas.exporting.formats.base import ExportedNetwork, FileFormat
from nas.exporting.formats.quantised import JUDGED_IMAGES, first_images
from nas.quantisation.sensitivity import divergence
from search_spaces import SearchSpace

PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
PACKAGE = "nas-vit[openvino]"
NEARLY = 1.1
"""Times the latency of int8 up to which bf16, which needs no calibration, is offered instead."""


class OpenVINO(FileFormat):
    """``openvino``: the fp32 ONNX file as OpenVINO keeps it, so that it is loaded without being read anew."""

    name = "openvino"
    file = "model.openvino.xml"
    beside: tuple[str, ...] = ("model.openvino.bin",)
    tolerance: float | None = 1e-3
    runtime = "openvino"
    any_batch = True
    packages: Mapping[str, str] = {"openvino": PACKAGE}

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Convert the ONNX file.

        Raises:
            NasError: OpenVINO cannot read it.
        """
        _save(self._read(network), path)
        return {}

    def run(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)``, one image at a time, in fp32 wherever the file leaves that open."""
        run = _compiled(path)
        return torch.cat([run(image_CHW[None]) for image_CHW in images_BCHW])

    def run_together(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """As `FileFormat.run_together`."""
        logits_BK: Tensor = _compiled(path)(images_BCHW)
        return logits_BK

    def _read(self, network: ExportedNetwork) -> Any:
        import openvino

        with self._failures():
            return openvino.convert_model(str(network.onnx))

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # OpenVINO and NNCF raise whatever they trip over
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise NasError(
                f"format `{self.name}`: the network cannot be converted: {first}", hint="leave the format out"
            ) from error


class OpenVINOInt8(OpenVINO):
    """``openvino-int8``: activations and weights in 8 bits, placed and equalised by NNCF as for transformers."""

    name = "openvino-int8"
    file = "model.openvino-int8.xml"
    beside = ("model.openvino-int8.bin",)
    tolerance = None
    runtime = "openvino@int8"
    any_batch = False
    packages = {"openvino": PACKAGE, "nncf": PACKAGE}  # noqa: RUF012 (a constant of the class)

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Refuse networks without training images."""
        super().check(space, is_trained)
        if not is_trained:
            raise UsageError(
                f"format `{self.name}` is calibrated on training images, found random weights and no images",
                hint="search with `--data` or `--supernet`, and export from that run",
            )

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Quantise and write.

        Returns:
            ``calibration_images``, ``kl_calibration``, the mean divergence from fp32 on some of them, in nats,
            ``integer_macs``, the share of multiply-accumulates in integers, ``left_in_fp32``, the operators of which
            NNCF decided so, ``processor_flags``, and ``bf16``, what the network gives without integers where this
            processor has those (`in_bf16`).

        Raises:
            NasError: NNCF cannot quantise the network.
        """
        import openvino

        images_BCHW = first_images(network, CALIBRATION_IMAGES)
        whole = self._read(network)
        with self._failures(), _quiet():
            import nncf

            quantised = nncf.quantize(
                whole,
                nncf.Dataset([image_CHW[None].numpy() for image_CHW in images_BCHW]),
                subset_size=len(images_BCHW),
                model_type=nncf.ModelType.TRANSFORMER,
            )
        _save(quantised, path)
        judged_BCHW = images_BCHW[:JUDGED_IMAGES]
        with torch.no_grad():
            expected_BK = network.module(judged_BCHW)
        macs = _macs(openvino.Core().read_model(str(path)))
        in_integers = sum(count for count, is_integer in macs.values() if is_integer)
        return {
            "kl_calibration": max(divergence(expected_BK, self.run(path, judged_BCHW)), 0.0),
            "calibration_images": len(images_BCHW),
            "integer_macs": in_integers / max(sum(count for count, _ in macs.values()), 1),
            "left_in_fp32": {name: "NNCF leaves it" for name, (_, is_integer) in macs.items() if not is_integer},
            "processor_flags": list(processor_flags()),
            **in_bf16(network.onnx, path, expected_BK, judged_BCHW),
        }


def in_bf16(onnx: Path, integers: Path, expected_BK: Tensor, images_BCHW: Tensor) -> dict[str, Any]:
    """What bf16 gives beside integers, as ``bf16``: ``ms``, ``int8_ms``, ``kl`` and, where it is near, an ``offer``.

    Args:
        onnx: The network in fp32.
        integers: The same in integers.
        expected_BK: Logits of the network.
        images_BCHW: The images that it gave them for.

    Returns:
        Nothing where the processor has no bf16, or is too busy for a number.
    """
    try:
        ms, int8_ms = (
            _ms(name, path, (1, *images_BCHW.shape[1:]))
            for name, path in (("openvino@bf16", onnx), ("openvino@int8", integers))
        )
    except (RuntimeMissingError, BusyMachineError):
        return {}
    run = _compiled(onnx, "bf16")
    logits_BK = torch.cat([run(image_CHW[None]) for image_CHW in images_BCHW])
    kl = max(divergence(expected_BK, logits_BK), 0.0)
    return {"bf16": {"ms": ms, "int8_ms": int8_ms, "kl": kl, "offer": offer(ms, int8_ms, kl)}}


def offer(ms: float, int8_ms: float, kl: float) -> str | None:
    """What to say where bf16 is nearly as fast as integers."""
    if ms > NEARLY * int8_ms:
        return None
    return (
        f"bf16 takes {ms:.3g} ms in OpenVINO, int8 {int8_ms:.3g} ms, with a KL of {kl:.1e}: `--format openvino`, which"
        " OpenVINO loads in bf16 here where `INFERENCE_PRECISION_HINT` is not set"
    )


def _ms(runtime: str, path: Path, shape: tuple[int, ...]) -> float:
    chosen = get_runtime(runtime)
    with LocalTransport() as transport:
        runner = DeviceRunner(chosen, transport, chosen.python())
        runner.facts()  # which says whether the processor has bf16
        return measure(runner, [NetworkFile(path, shape)], QUICK).measurements[0].ms


def _save(model: Any, path: Path) -> None:
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=False)


def _compiled(path: Path, precision: str = "f32") -> Any:
    """A function of images ``(B, 3, H, W)`` that gives logits ``(B, K)``."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    try:
        model = openvino.Core().compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise NasError(f"`{path.name}`: OpenVINO cannot load it: {first}", hint="export it again") from error

    def run(images_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(np.array(model(images_BCHW.numpy())[0]))

    return run


def _macs(model: Any) -> dict[str, tuple[int, bool]]:
    """Multiply-accumulates of each product with weights, and whether both of its inputs are in integers, by name."""
    found = {}
    for node in model.get_ops():
        if node.get_type_name() not in PRODUCTS or not _is_constant(node.input_value(1).get_node()):
            continue
        weights, output = list(node.input_value(1).get_shape()), node.output(0).get_partial_shape()
        places = [output[axis].get_length() for axis in range(len(output)) if output[axis].is_static]
        if node.get_type_name() == "MatMul":
            macs = math.prod(places[:-1]) * math.prod(weights)
        else:
            macs = math.prod(places[2:]) * math.prod(weights)
        found[node.get_friendly_name()] = macs, all(_is_quantised(node.input_value(side)) for side in (0, 1))
    return found


def _is_constant(node: Any) -> bool:
    """Whether a value comes from weights alone."""
    inputs = [node.input_value(place).get_node() for place in range(node.get_input_size())]
    return node.get_type_name() == "Constant" or (bool(inputs) and all(map(_is_constant, inputs)))


def _is_quantised(value: Any) -> bool:
    """Whether a value is rounded to few levels, as an activation or as stored weights, before moves of data."""
    node = value.get_node()
    if node.get_type_name() == "FakeQuantize" or "int8" in str(node.get_output_element_type(0)):
        return True
    moves = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Concat", "Split", "VariadicSplit", "StridedSlice")
    through = (*moves, "Convert", "Multiply", "Subtract") if _is_constant(node) else moves
    return node.get_type_name() in through and _is_quantised(node.input_value(0))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's remarks and bars of progress off the terminal."""
    import os

    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logger.setLevel(level)


OPENVINO, OPENVINO_INT8 = OpenVINO(), OpenVINOInt8()
