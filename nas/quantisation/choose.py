"""Precisions for the layers of one network: what each loses and takes, what a program makes of it, and the files.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from latency_tables.onnx_quantised import BLOCK, WEIGHT_BITS, Precision, name_layers, place, quantise_onnx
from nas.events import Progress, StageProgress
from nas.networks.onnx import export_onnx
from nas.quantisation.equalise import equalise
from nas.quantisation.program import Assignment, LayerOptions, Option, assignments
from nas.quantisation.sensitivity import SENSITIVITY_IMAGES, sensitivities
from nas.quantisation.times import LayerTimes, layer_times
from nas.quantisation.watching import WeightedLayer, inputs_of_layers, weighted_layers

TRIED: tuple[Precision, ...] = ("fp32", "int8", "w4", "w2")
FRONT_MEMBERS = 8
"""Assignments that are written and measured."""
ADVANTAGE = 0.97
"""Share of the time of fp32 above which integers have no advantage on this processor."""


@dataclass(frozen=True)
class Candidates:
    """A network's layers with all that the program needs.

    Attributes:
        source: fp32 ONNX file of the network as it is quantised.
        stages: What was done to the network before.
        layers: What each layer can compute in, and what that costs.
        times: What was measured of the whole network.
        rest_ms: What the network takes beside its layers.
        rest_bytes: What the file has beside its layers' weights.
        left_out: Layers that stay in fp32, and why.
        images: Images that ranges were found on.
        macs: Multiply-accumulates of each layer.
    """

    source: Path
    stages: tuple[str, ...]
    layers: tuple[LayerOptions, ...]
    times: LayerTimes
    rest_ms: float
    rest_bytes: float
    left_out: Mapping[str, str]
    images: Tensor
    macs: Mapping[str, int]

    @property
    def int8_ratio(self) -> float:
        """Latency of the network in ``int8`` throughout beside fp32."""
        return self.times.whole["int8"] / self.times.whole["fp32"]

    @property
    def has_advantage(self) -> bool:
        """Whether integers are faster on this processor."""
        return self.int8_ratio <= ADVANTAGE

    def front(self, limit_ms: float | None, limit_bytes: float | None) -> list[Assignment]:
        """Assignments for the whole network, what loses least within the limits first.

        Where integers are not faster, bytes are the budget: those given, else those of ``int8`` throughout.

        Raises:
            UsageError: Nothing is within the limits.
        """
        if limit_bytes is None and not self.has_advantage:
            limit_bytes = self.rest_bytes + sum(min(o.size for o in layer.options[:2]) for layer in self.layers)
        found = assignments(
            self.layers,
            None if limit_ms is None else limit_ms - self.rest_ms,
            None if limit_bytes is None else limit_bytes - self.rest_bytes,
            FRONT_MEMBERS,
            self.has_advantage,
        )
        return [
            Assignment(each.precisions, each.loss, each.ms + self.rest_ms, each.size + self.rest_bytes)
            for each in found
        ]

    def write(self, precisions: Mapping[str, Precision], path: Path) -> None:
        """Write the network in an assignment of precisions."""
        import onnx

        quantise_onnx(onnx.load(str(self.source)), partial(place, wanted=dict(precisions)), singly(self.images), path)


def find_candidates(network: nn.Module, images_BCHW: Tensor, folder: Path, progress: Progress) -> Candidates:
    """Equalise a network, and measure what each of its layers loses and takes in each precision.

    Args:
        network: In evaluation mode, on the CPU; it is left as it is.
        images_BCHW: Training images at its side.
        folder: Where to keep files.
        progress: Told of every stage.

    Raises:
        BusyMachineError: The machine is too busy for a number.
        ProfileError: ONNX Runtime cannot run a file.
    """
    import onnx

    module = copy.deepcopy(network)
    stages = ("equalise",) if equalise(module, images_BCHW) else ()
    source = folder / "equalised.onnx"
    progress(StageProgress("write in each precision", 0, len(TRIED)))
    export_onnx(module, images_BCHW.shape[-1], source)
    model = onnx.load(str(source))
    known = name_layers(model)
    files: dict[Precision, Path] = {precision: folder / f"{precision}.onnx" for precision in TRIED}
    onnx.save(model, str(files["fp32"]))
    placed = {
        precision: quantise_onnx(
            onnx.load(str(source)), partial(place, wanted=precision), singly(images_BCHW), files[precision]
        )
        for precision in TRIED[1:]
        if place(known, precision).precisions
    }
    layers = weighted_layers(module, images_BCHW[:1])
    tried = {
        layer.name: ("fp32", *(precision for precision, each in placed.items() if layer.name in each.precisions))
        for layer in layers
    }
    losses = sensitivities(
        module,
        images_BCHW[:SENSITIVITY_IMAGES],
        inputs_of_layers(module, images_BCHW),
        tried,
        lambda done, total: progress(StageProgress("try each layer in each precision", done, total)),
    )
    progress(StageProgress("measure layers", 0, 1))
    times = layer_times({name: files[name] for name in ("fp32", *placed)}, list(tried), folder / "profiles")
    options = tuple(_options(layer, losses[layer.name], times) for layer in layers)
    left_out = {name: reason for name, reason in placed["int8"].left_out.items() if name in tried}
    left_out |= {name: "its file has another form" for name in tried if name not in {each.name for each in known}}
    return Candidates(
        source,
        stages,
        options,
        times,
        times.whole["fp32"] - sum(layer.options[0].ms for layer in options),
        source.stat().st_size - sum(layer.options[0].size for layer in options),
        left_out,
        images_BCHW,
        {layer.name: layer.macs for layer in layers},
    )


def _options(layer: WeightedLayer, losses: Mapping[Precision, float], times: LayerTimes) -> LayerOptions:
    """A layer in each precision; one whose kernel could not be told from others takes as long in all."""
    known = times.layers.get(layer.name, {})
    fp32_ms = known.get("fp32", 0.0)
    options = tuple(
        Option(precision, loss, known.get(precision, fp32_ms) if "fp32" in known else 0.0, _bytes(layer, precision))
        for precision, loss in losses.items()
    )
    return LayerOptions(layer.name, options, layer.source, times.quantisers.get(layer.name, 0.0))


def _bytes(layer: WeightedLayer, precision: Precision) -> float:
    """Bytes of a layer's weights, scales included."""
    outputs, *rest = layer.weight_shape
    weights = outputs
    for side in rest:
        weights *= side
    if precision == "fp32":
        return 4.0 * weights
    if precision in WEIGHT_BITS:
        return weights * (WEIGHT_BITS[precision] / 8 + 4 / BLOCK)
    return weights + 4.0 * outputs


def singly(images_BCHW: Tensor) -> Iterator[Any]:
    """Images one by one, as ONNX Runtime takes them."""
    return (image_CHW[None].numpy() for image_CHW in images_BCHW)


def counts(precisions: Mapping[str, Precision]) -> dict[str, int]:
    """How many layers compute in each precision."""
    chosen: Sequence[Precision] = list(precisions.values())
    return {precision: chosen.count(precision) for precision in TRIED if precision in chosen}
