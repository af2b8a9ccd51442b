"""ONNX files with integers inside: 8-bit weights and activations, or weights alone in 4 or 2 bits.

``onnx-int8`` is equalised (`nas.quantisation.equalise`), written in every way that suits the network
(`latency_tables.onnx_quantised`), and the fastest of those that are as good is kept: which that is depends on the
network and on the processor, so it is measured. Nothing is promised to be faster than fp32; that is measured too
(`nas.exporting.formats.measured`).
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from latency_tables.errors import ProfileError
from latency_tables.measure import measure_networks
from latency_tables.onnx_quantised import (
    CALIBRATION_IMAGES,
    PRECISIONS,
    Layer,
    Placement,
    Precision,
    place,
    processor_flags,
    quantise_onnx,
)
from latency_tables.repeats import QUICK
from nas.errors import NasError, UsageError
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.onnx_file import OnnxFile
from nas.networks.onnx import OnnxNetwork, export_onnx
from nas.quantisation.equalise import equalise
from nas.quantisation.evaluated import Wanted
from nas.quantisation.sensitivity import divergence
from nas.quantisation.watching import weighted_layers
from search_spaces import SearchSpace

JUDGED_IMAGES = 64
"""Calibration images that two ways of quantising are compared on."""
SAME_TIME = 0.03
"""Latencies that differ by less are the same; then the network that lost less is kept."""
AS_GOOD = 2.0
"""A divergence is as good as the smallest one up to this factor, or below `NEGLIGIBLE`."""
NEGLIGIBLE = 5e-4
"""Divergence, in nats, that no accuracy on some thousand images shows."""


class QuantisedOnnx(OnnxFile):
    """An ONNX file in one precision, or in the best way of several.

    Args:
        name: Name of the format.
        file: Name of the file in the exported folder.
        precisions: What layers may compute in; of several the faster one is kept.
    """

    tolerance = None
    any_batch = False  # it is chosen by its latency for one image, and integers of a batch share their ranges

    def __init__(self, name: str, file: str, *precisions: Precision) -> None:
        self.name, self.file, self.precisions = name, file, precisions

    @property
    def needs_ranges(self) -> bool:
        """Whether activations are quantised, so that their sizes on training images matter."""
        return "int8" in self.precisions or "int8-dynamic" in self.precisions

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Refuse networks without training images where those are needed."""
        super().check(space, is_trained)
        if self.needs_ranges and not is_trained:
            raise UsageError(
                f"format `{self.name}` is calibrated on training images, found random weights and no images",
                hint="search with `--data` or `--supernet`, and export from that run",
            )

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Write the file.

        Returns:
            ``placement``, ``stages``, ``calibration_images``, ``integer_macs``, the share of MACs in integers,
            ``left_in_fp32`` with reasons, ``processor_flags``, ``ways`` with what each one tried gave, and
            ``kl_calibration``, the mean divergence from fp32 on calibration images.

        Raises:
            NasError: The fp32 file cannot be converted, or no layer can compute in this precision.
        """
        images_BCHW = first_images(network, CALIBRATION_IMAGES)
        with tempfile.TemporaryDirectory(prefix="nas-quantised-") as name:
            folder = Path(name)
            module, stages = self._prepared(network, images_BCHW)
            source = network.onnx
            if stages:
                source = folder / "equalised.onnx"
                export_onnx(module, images_BCHW.shape[-1], source)
            try:
                ways = written_ways(source, self.wanted(network), images_BCHW, folder)
            except ProfileError as error:
                raise NasError(f"format `{self.name}`: {error}", hint=error.hint or "leave the format out") from error
            chosen, tried = fastest(ways, network.onnx, images_BCHW[:JUDGED_IMAGES])
            shutil.copyfile(folder / f"{chosen}.onnx", path)
        macs = {layer.name: layer.macs for layer in weighted_layers(network.module, images_BCHW[:1])}
        placement = ways[chosen][1]
        return {
            "placement": chosen,
            "kl_calibration": tried[chosen]["kl"],
            "stages": stages,
            "calibration_images": len(images_BCHW) if "int8" in placement.precisions.values() else 0,
            "integer_macs": sum(macs.get(layer, 0) for layer in placement.precisions) / max(sum(macs.values()), 1),
            "left_in_fp32": dict(placement.left_out),
            "processor_flags": list(processor_flags()),
            "ways": tried,
        }

    def wanted(self, network: ExportedNetwork) -> Sequence[Wanted]:
        """What layers compute in, in each of the ways to try."""
        return self.precisions

    def _prepared(self, network: ExportedNetwork, images_BCHW: Tensor) -> tuple[nn.Module, list[str]]:
        if not self.needs_ranges:
            return network.module, []
        module = copy.deepcopy(network.module)
        return module, ["equalise"] if equalise(module, images_BCHW) else []


class MixedOnnx(QuantisedOnnx):
    """``onnx-mixed``: precisions that were chosen for each layer."""

    def wanted(self, network: ExportedNetwork) -> Sequence[Wanted]:
        """The one assignment of the run.

        Raises:
            UsageError: There is none, or it is of another network or holds no precision.
        """
        if network.assignment is None:
            raise UsageError(
                f"format `{self.name}`: nobody has chosen precisions for the layers of this network",
                "nas quantise RUN --pick PICK",
            )
        known = {layer.name for layer in weighted_layers(network.module, network.images_BCHW[:1])}
        for layer, precision in network.assignment.items():
            if layer not in known or precision not in PRECISIONS:
                raise UsageError(
                    f"format `{self.name}`: found `{precision}` for layer `{layer}`, expected one of this"
                    f" network and one of {', '.join(PRECISIONS)}",
                    "nas quantise RUN --pick PICK",
                )
        return [cast("Mapping[str, Precision]", network.assignment)]


def first_images(network: ExportedNetwork, count: int) -> Tensor:
    """The first calibration images ``(B, 3, H, W)``; the images that forms are compared on where there are none."""
    batches_BCHW, found = [], 0
    for batch_BCHW in network.calibration():
        batches_BCHW.append(batch_BCHW[: count - found])
        found += len(batches_BCHW[-1])
        if found >= count:
            break
    return torch.cat(batches_BCHW) if found else network.images_BCHW


def written_ways(
    source: Path, wanted: Sequence[Wanted], images_BCHW: Tensor, folder: Path
) -> dict[str, tuple[Path, Placement]]:
    """The files that a network is quantised to in every way that suits it, by the name of the way.

    Raises:
        ProfileError: None can be written; a way that cannot is left out where another can.
    """
    import onnx

    ways: dict[str, tuple[Path, Placement]] = {}
    problem: ProfileError | None = None
    layers: list[Layer] = []
    for each in wanted:
        for way, options in _options(each).items():
            if not _suits(way, layers):
                continue
            path = folder / f"{way}.onnx"

            def choose(found: list[Layer], wanted: Wanted = each, options: Any = options) -> Placement:
                layers[:] = found
                placement = place(found, wanted, **options)
                if not placement.precisions:
                    raise ProfileError("no layer of the network can compute in what is asked for")
                return placement

            try:
                ways[way] = path, quantise_onnx(onnx.load(str(source)), choose, _single(images_BCHW), path)
            except ProfileError as error:
                problem = problem or error
    if not ways:
        raise problem or ProfileError("no layer of the network can be quantised")
    return ways


def _options(wanted: Wanted) -> dict[str, dict[str, bool]]:
    """The ways of placing quantisers, the plainest one first."""
    if wanted != "int8":
        return {wanted if isinstance(wanted, str) else "mixed": {}}
    return {"inputs-only": {}, "chain": {"chain": True}, "fp32-depthwise": {"depthwise": False}}


def _suits(way: str, layers: Sequence[Layer]) -> bool:
    """Whether a way differs from the plain one on these layers."""
    inner = [layer for layer in layers if not layer.reads_image]
    if way == "chain":
        return any(not layer.is_linear for layer in inner)
    return way != "fp32-depthwise" or any(layer.is_depthwise for layer in inner)


def _single(images_BCHW: Tensor) -> Iterator[Any]:
    return (image_CHW[None].numpy() for image_CHW in images_BCHW)


def fastest(
    ways: Mapping[str, tuple[Path, Placement]], fp32: Path, images_BCHW: Tensor
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The fastest way of those that are as good as the best, and what each gave: ``kl`` and ``ms``.

    Files are measured in turns, and only where there is more than one to choose from.
    """
    expected_BK = torch.from_numpy(OnnxNetwork(fp32)(images_BCHW))
    tried: dict[str, dict[str, Any]] = {
        way: {"kl": divergence(expected_BK, torch.from_numpy(OnnxNetwork(path)(images_BCHW)))}
        for way, (path, _) in ways.items()
    }
    least = min(entry["kl"] for entry in tried.values())
    good = [way for way, entry in tried.items() if entry["kl"] <= max(AS_GOOD * least, NEGLIGIBLE)]
    if len(good) > 1:
        for way, measurement in zip(
            good, measure_networks([ways[way][0] for way in good], QUICK).measurements, strict=True
        ):
            tried[way]["ms"] = measurement.ms
        quickest = min(tried[way]["ms"] for way in good)
        good = [way for way in good if tried[way]["ms"] <= (1 + SAME_TIME) * quickest]
    return min(good, key=lambda way: tried[way]["kl"]), tried


INTEGER = QuantisedOnnx("onnx-int8", "model.int8.onnx", "int8", "int8-dynamic")
DYNAMIC = QuantisedOnnx("onnx-int8-dynamic", "model.int8-dynamic.onnx", "int8-dynamic")
MIXED = MixedOnnx("onnx-mixed", "model.mixed.onnx", "int8")
FOUR_BITS = QuantisedOnnx("onnx-w4", "model.w4.onnx", "w4")
TWO_BITS = QuantisedOnnx("onnx-w2", "model.w2.onnx", "w2")
