"""A table of this machine that has seen one space, and models of timm: it claims what holds, or declines.

    python benchmarks/evidence.py [--groups elastic-mini] [--record FILE]

Measures 12 networks of each group in a cache folder of its own, which is kept, then the models, and prints what the
table claims of each beside what it takes. `--groups broad,elastic-mini` shows what a broad table knows. Ends with 1
where a claim does not hold. `--record` writes the table and the models' kernels with their times, for a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from latency_tables import LatencyTable, TableMissingError, fuse, load_target
from latency_tables.evidence import Evidence
from latency_tables.kernels import ONNX_RUNTIME
from nas.latency.build import build
from nas.latency.check import CheckedNetwork, check_target
from nas.latency.request import BuildRequest
from nas.networks.resolve import resolve_network

MODELS = (
    "vit_small_patch14_dinov2?img_size=98",
    "test_vit?img_size=32",
    "xcit_nano_12_p16_224",
    "levit_128s",
    "efficientformer_l1",
    "mobilevit_xxs",
    "edgenext_xx_small",
    "repvit_m0_9",
    "pvt_v2_b0",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_small_035?img_size=32",
    "mobilenetv3_small_050?img_size=32",
    "mobilenetv2_035?img_size=32",
    "efficientnet_lite0?img_size=32",
    "mixnet_s?img_size=32",
    "ghostnet_050?img_size=32",
    "convnext_atto?img_size=32",
    "resnet10t?img_size=32",
    "regnetx_002?img_size=32",
    "deit_tiny_patch16_224",
)
"""Models of more than ten families: half of them as they are, half about as small as networks of `elastic-mini`."""


def local_table(groups: tuple[str, ...]) -> LatencyTable:
    """The table of this machine in this cache folder, measured where it has seen other groups or none."""
    try:
        table = load_target("local")
        if set(Evidence.of(table).groups) == set(groups):
            return table
    except TableMissingError:
        pass
    return build(BuildRequest(groups, allow_busy=True))


def verdict(network: CheckedNetwork) -> str:
    """Whether what the table claims holds."""
    return "declined" if network.is_declined else "holds" if network.is_inside else "DOES NOT HOLD"


def kernels_of(model: str) -> list[list[Any]]:
    """The kernels of a model: class, key, MACs, elements read and written, and how many there are of each."""
    counts: dict[tuple[Any, ...], int] = {}
    for _, ops in resolve_network(model).graph().blocks:
        for kernel in fuse(ops, ONNX_RUNTIME):
            row = (kernel.op, kernel.key, kernel.macs, kernel.elements_read, kernel.elements_written)
            counts[row] = counts.get(row, 0) + 1
    return [[*row, count] for row, count in counts.items()]


def main() -> None:
    """Measure, compare, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", default="elastic-mini")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "nas-evidence")
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    os.environ["NAS_CACHE_DIR"] = str(arguments.cache / arguments.groups)
    table = local_table(tuple(sorted(arguments.groups.split(","))))
    networks = check_target("local", MODELS).networks
    print(f"{'model':42} {'MACs':>8} {'claimed ms':>22} {'measured':>9}  verdict")
    for network in networks:
        claims = network.prediction.latency.claims()
        known = "" if network.is_declined else f"{claims['low_ms']:.3g} to {claims['high_ms']:.3g}"
        macs = f"{network.prediction.macs / 1e6:.1f}M"
        print(f"{network.name:42} {macs:>8} {known:>22} {network.measured_ms:9.3g}  {verdict(network)}")
    if arguments.record is not None:
        models = {each.name: {"measured_ms": each.measured_ms, "kernels": kernels_of(each.name)} for each in networks}
        document = {"table": table.model_dump(mode="json", by_alias=True), "models": models}
        arguments.record.write_text(json.dumps(document) + "\n", encoding="utf-8")
    sys.exit(any(verdict(network).isupper() for network in networks))


if __name__ == "__main__":
    main()
