"""Families of timm's models that no table was fitted to: what a table of this machine claims of them, and what holds.

    nas latency build --target local
    python benchmarks/unseen_families.py [--target local] [--families levit,mixer] [MODEL ...]

Measures one model of each family, in a few minutes for ten, and prints what the table claims beside what it takes.
Where the table declines it claims nothing. Ends with 1 where the median error is above 10 %, or where fewer than four
fifths of the models lie inside their intervals. `--list` names the families.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from latency_tables.errors import TableMissingError
from nas.latency.check import CheckedNetwork, check_target

FAMILIES = {
    "levit": "levit_128s",
    "pvt": "pvt_v2_b0",
    "xcit": "xcit_nano_12_p16_224",
    "efficientformer": "efficientformer_l1",
    "mobilevit": "mobilevit_xxs",
    "edgenext": "edgenext_xx_small",
    "repvit": "repvit_m0_9",
    "mobilenetv4": "mobilenetv4_conv_small",
    "mixer": "mixer_s32_224",
    "mnasnet": "mnasnet_100",
    "coat": "coat_lite_tiny",
    "pit": "pit_ti_224",
    "cait": "cait_xxs24_224",
    "twins": "twins_pcpvt_small",
    "tiny_vit": "tiny_vit_5m_224",
    "fastvit": "fastvit_t8",
    "efficientvit": "efficientvit_b0",
    "inception_next": "inception_next_atto",
    "resmlp": "resmlp_12_224",
    "mixnet": "mixnet_s",
    "rexnet": "rexnet_100",
    "vovnet": "ese_vovnet19b_dw",
    "dla": "dla34",
    "vgg": "vgg11?img_size=96",
}
"""A model of each family; networks of none of them are in the groups that tables of this machine are made from."""
DEFAULT = 10
MEDIAN_ERROR, INSIDE = 0.10, 0.80


def line(network: CheckedNetwork) -> str:
    """What is claimed of a network, what it takes, and whether the claim holds."""
    latency = network.prediction.latency
    shown = f"{network.name:28} {network.prediction.macs / 1e6:7.0f}M {network.measured_ms:9.3g}"
    if network.is_declined:
        return f"{shown}  declined: {network.reason}"
    claim = f"{latency.ms:9.3g} {f'{latency.low_ms:.3g} to {latency.high_ms:.3g}':>16} {network.error:+7.1%}"
    return f"{shown} {claim}  {'holds' if network.is_inside else 'DOES NOT HOLD'}"


def main() -> None:
    """Measure, compare, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="models to measure in place of families")
    parser.add_argument("--target", default="local")
    parser.add_argument("--families", default=",".join(list(FAMILIES)[:DEFAULT]))
    parser.add_argument("--record", type=Path, help="JSON file to write")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{family:16} {model}" for family, model in FAMILIES.items()))
        return
    unknown = set(arguments.families.split(",")) - set(FAMILIES)
    if unknown:
        parser.error(f"unknown families {', '.join(sorted(unknown))}, expected some of {', '.join(FAMILIES)}")
    models = arguments.models or [FAMILIES[family] for family in arguments.families.split(",")]
    try:
        result = check_target(arguments.target, models)
    except TableMissingError as error:
        parser.error(f"{error}: `nas latency build --target {arguments.target}` makes a table")
    print(f"{'model':28} {'MACs':>8} {'measured':>9} {'predicted':>9} {'interval':>16} {'error':>7}")
    for network in result.networks:
        print(line(network))
    if result.machine_change is not None:
        print(f"{len(result.again)} of the table's own networks take {result.machine_change:+.1%} now (median)")
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    claimed = [network for network in result.networks if not network.is_declined]
    if not claimed:
        print(f"the table declines all {len(models)}")
        sys.exit(1)
    error = statistics.median(abs(network.error) for network in claimed)
    inside = sum(network.is_inside for network in claimed) / len(claimed)
    print(f"{len(claimed)} of {len(models)} predicted: median error {error:.1%}, {inside:.0%} inside their intervals")
    sys.exit(error > MEDIAN_ERROR or inside < INSIDE)


if __name__ == "__main__":
    main()
