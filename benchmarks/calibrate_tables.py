"""Make the shipped calibrated tables again from published figures, and compare each with the line through MACs.

    python benchmarks/calibrate_tables.py published_latency.csv [--output latency_tables/tables] [--only pixel6]

The CSV has the columns model, family, input_px, macs_m, device, processor, runtime, threads, precision, latency_ms and
source. Networks are rebuilt with random weights (`latency_tables.published_models`) and traced, so that the fit sees
their operators; a row whose rebuilt MACs are not the published ones is left out, and the table says so. Given the same
CSV, versions and date, the files come out equal to the last byte. The errors in `docs/targets.md` are replaced too.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from latency_tables.calibrate import LARGE_WINDOWS, Sample
from latency_tables.calibrated_table import calibrated_table
from latency_tables.calibration_form import CalibratedDevice, ranked_forms
from latency_tables.figures import PublishedFigure, as_check, rebuild_figures, rebuild_published
from latency_tables.table import SCHEMA, Figure, LatencyTable

Row = dict[str, str]

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "latency_tables" / "tables"
DOCUMENT = ROOT / "docs" / "targets.md"
BEGIN, END = "<!-- errors: benchmarks/calibrate_tables.py -->", "<!-- end of errors -->"
PAPER = "MobileNetV4 paper (arXiv 2404.10518), Table 6"
PADDLE = "PaddlePaddle/PaddleClas"
NCNN = "Tencent/ncnn"
PIPELINE = "MediaPipe Tasks (TFLite)"
STATUS = "nobody touched the device: for ranking and coarse budgets"


@dataclass(frozen=True)
class Protocol:
    """How the figures of one source were taken.

    Attributes:
        rounding_m: Half the last digit of its MACs, in millions; tolerance the relative difference accepted on top.
        family_of: The family of a row; empty for the catalogue's.
        notes: What its tables say.
    """

    source: str
    rounding_m: float
    tolerance: float
    family_of: Callable[[Row], str]
    notes: tuple[str, ...]


PAPER_PROTOCOL = Protocol(
    PAPER,
    rounding_m=50.0,
    tolerance=0.10,
    family_of=lambda row: row["family"],
    notes=(
        "each figure is the median of five means over about 1000 runs",
        "the paper rounds MACs to tenths of a billion, and states 5 to 8 % less than the rebuilt MobileNetV4 networks"
        " have: 10 % is accepted",
        "MNv4-Hybrid-L is rebuilt with GELU, as timm has it; what the paper converted is not stated",
    ),
)
PADDLE_PROTOCOL = Protocol(
    PADDLE,
    rounding_m=2.5,
    tolerance=0.05,
    family_of=lambda row: row["family"],
    notes=("threads are not stated, taken as 1", "MACs are printed as hundredths of a billion FLOPs"),
)
NCNN_PROTOCOL = Protocol(
    NCNN,
    rounding_m=0.5,
    tolerance=0.05,
    family_of=lambda row: "",
    notes=(
        "each figure is the fastest of a few loops, so that it is lower than a median; MACs are not published",
        "ncnn's default precision: weights and activations are stored as fp16 where the processor can, computed as the"
        " processor allows",
    ),
)


@dataclass(frozen=True)
class Device:
    """A table to be shipped: which rows it is made of, and what it says about the device."""

    file: str
    name: str
    aliases: tuple[str, ...]
    csv_device: str
    csv_processor: str
    protocol: Protocol
    device: Mapping[str, str]
    runtime: Mapping[str, str]
    precision: str
    threads: int = 1
    notes: tuple[str, ...] = ()

    def takes(self, row: Row) -> bool:
        """Whether a row's figure is fitted."""
        return (
            row["device"].startswith(self.csv_device)
            and row["processor"].startswith(self.csv_processor)
            and row["source"].startswith(self.protocol.source)
            and row["precision"] == ("fp (ncnn default)" if self.protocol is NCNN_PROTOCOL else self.precision)
            and row["threads"] in ("", str(self.threads))
        )

    def checks(self, row: Row) -> bool:
        """Whether a row's figure, of another protocol, is only compared with the fit."""
        return (
            self.file == "pixel6"
            and row["device"] == self.csv_device
            and row["processor"] == "CPU"
            and row["runtime"] == PIPELINE
            and row["precision"] == self.precision
            and row["family"] == "EfficientNet-Lite"
        )


XNNPACK = {"name": "TFLite", "provider": "XNNPACK", "fusion": "xnnpack"}
FASTEST = ("affinity to the fastest core; threads are not stated, taken as 1",)


def paper_device(file: str, name: str, csv_device: str, csv_processor: str, processor: str, **more: Any) -> Device:
    """A device of the MobileNetV4 paper."""
    device = {"name": csv_device, "processor": processor, "cores": more.pop("cores", "")}
    aliases = more.pop("aliases", (file,))
    return Device(file, name, aliases, csv_device, csv_processor, PAPER_PROTOCOL, device, **more)


def ncnn_devices(alias: str, csv_device: str, device: str, processor: str, threads: Sequence[int]) -> list[Device]:
    """A board or phone of ncnn's benchmark, with one table per thread count."""
    return [
        Device(
            file=alias if count == 1 else f"{alias}-{count}t",
            name=f"{alias}/cpu-{count}threads/ncnn-fp16" if count > 1 else f"{alias}/cpu/ncnn-fp16",
            aliases=(alias if count == 1 else f"{alias}-{count}t",),
            csv_device=csv_device,
            csv_processor="CPU",
            protocol=NCNN_PROTOCOL,
            device={"name": device, "processor": processor},
            runtime={"name": "ncnn", "provider": "CPU", "fusion": "xnnpack"},
            precision="fp16",
            threads=count,
        )
        for count in threads
    ]


DEVICES: tuple[Device, ...] = (
    paper_device(
        "pixel6",
        "pixel6/cpu-x1/litert-int8",
        "Google Pixel 6",
        "CPU",
        "CPU (Tensor G1)",
        cores="fastest core, Cortex-X1",
        runtime=XNNPACK,
        precision="int8",
        notes=(
            *FASTEST,
            "the fp32 time of this CPU is about 2.3 times the int8 time: two networks (EfficientNet-Lite 0 and 2)",
            "not in the fit: detectors, searched networks that nobody published, and EfficientNet-Lite (whole MediaPipe"
            " pipeline), which is kept as a check",
        ),
    ),
    paper_device(
        "galaxy-s23",
        "galaxy-s23/cpu/litert-int8",
        "Samsung Galaxy S23",
        "CPU",
        "CPU (Snapdragon 8 Gen 2)",
        cores="fastest core",
        runtime=XNNPACK,
        precision="int8",
        notes=FASTEST,
    ),
    paper_device(
        "galaxy-s23-gpu",
        "galaxy-s23/gpu/tflite-fp16",
        "Samsung Galaxy S23",
        "Adreno GPU",
        "GPU (Adreno 740)",
        runtime={"name": "TFLite", "provider": "GPU delegate", "fusion": "xnnpack"},
        precision="fp16",
    ),
    paper_device(
        "pixel7-gpu",
        "pixel7/gpu/tflite-fp16",
        "Google Pixel 7",
        "Mali GPU",
        "GPU (Mali-G710)",
        runtime={"name": "TFLite", "provider": "GPU delegate", "fusion": "xnnpack"},
        precision="fp16",
    ),
    paper_device(
        "pixel4-dsp",
        "pixel4/dsp/tflite-int8",
        "Google Pixel 4",
        "Hexagon DSP",
        "DSP (Hexagon 690)",
        runtime={"name": "TFLite", "provider": "Hexagon delegate", "fusion": "xnnpack"},
        precision="int8",
    ),
    paper_device(
        "pixel8-edgetpu",
        "pixel8/edgetpu/tflite-int8",
        "Google Pixel 8",
        "EdgeTPU",
        "EdgeTPU (Tensor G3)",
        runtime={"name": "TFLite", "provider": "EdgeTPU delegate", "fusion": "xnnpack"},
        precision="int8",
    ),
    paper_device(
        "iphone13-ane",
        "iphone13/ane/coreml-fp16",
        "Apple iPhone 13",
        "ANE/CoreML",
        "Neural Engine (A15)",
        aliases=("iphone13", "iphone13-ane"),
        runtime={"name": "Core ML", "version": "coremltools 7.1, iOS 16.6.1", "provider": "ANE", "fusion": "xnnpack"},
        precision="fp16",
    ),
    Device(
        file="snapdragon855",
        name="snapdragon855/cpu/paddlelite-fp32",
        aliases=("snapdragon855",),
        csv_device="Snapdragon 855 phone",
        csv_processor="CPU",
        protocol=PADDLE_PROTOCOL,
        device={"name": "Snapdragon 855 phone", "processor": "CPU (Snapdragon 855)"},
        runtime={"name": "Paddle-Lite", "provider": "ARM CPU", "fusion": "xnnpack"},
        precision="fp32",
    ),
    *ncnn_devices("snapdragon855plus", "Snapdragon 855+", "Snapdragon 855+ phone", "CPU (Kryo 485)", (1, 4)),
    *ncnn_devices("raspberrypi4", "Raspberry Pi 4 Model B", "Raspberry Pi 4 B", "CPU (Cortex-A72)", (1, 4)),
    *ncnn_devices("raspberrypi5", "Raspberry Pi 5", "Raspberry Pi 5", "CPU (Cortex-A76)", (1, 4)),
    *ncnn_devices("rk3588", "Rockchip RK3588", "Rockchip RK3588", "CPU (Cortex-A76)", (1, 4)),
    *ncnn_devices("jetson-orin-nano", "NVIDIA Jetson Orin Nano", "NVIDIA Jetson Orin Nano", "CPU (Cortex-A78AE)", (1,)),
)


def main() -> None:
    """Rebuild, fit, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, nargs="?", help="published figures; without it shipped tables are shown")
    parser.add_argument("--output", type=Path, default=TABLES)
    parser.add_argument("--only", default="", help="write and print only the table of this file name")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date in the tables")
    arguments = parser.parse_args()
    if arguments.csv is None:
        print(summary([LatencyTable.load(TABLES / f"{device.file}.json") for device in DEVICES]))
        return
    with arguments.csv.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rebuilt = {
        device.file: figures_of(device, rows) for device in track(DEVICES, "rebuild", console=Console(stderr=True))
    }
    known = [peer(device, rebuilt[device.file][0]) for device in DEVICES]
    tables = []
    for device, own in zip(DEVICES, known, strict=True):
        if arguments.only in ("", device.file):
            samples, left_out = rebuilt[device.file]
            table = calibrated_table(
                header(device, arguments.date), samples, ranked_forms(own, known), [*notes(device), *left_out]
            )
            table.save(arguments.output / f"{device.file}.json")
            print_figures(table)
            tables.append(table)
    if not arguments.only:
        print(f"\n{summary(tables)}")
        if arguments.output == TABLES:
            write_document(summary(tables))
    print_not_shipped(rows)


def figures_of(device: Device, rows: Sequence[Row]) -> tuple[list[Sample], list[str]]:
    """A device's samples, and a sentence for each of its figures that is left out."""
    protocol = device.protocol
    fitted = [published(row, protocol.family_of(row)) for row in rows if device.takes(row)]
    samples, left_out = rebuild_figures(
        fitted, rebuild, device.precision, rounding_m=protocol.rounding_m, tolerance=protocol.tolerance
    )
    checks, _ = rebuild_figures(
        [published(row, row["family"]) for row in rows if device.checks(row)], rebuild, device.precision
    )
    return samples + as_check(checks), [f"left out: {sentence}" for sentence in left_out]


rebuild = functools.cache(rebuild_published)


def published(row: Row, family: str) -> PublishedFigure:
    """A row of the CSV as a figure."""
    return PublishedFigure(
        model=row["model"],
        latency_ms=float(row["latency_ms"]),
        family=family,
        input_px=int(row["input_px"]) if row["input_px"] else None,
        macs_m=float(row["macs_m"]) if row["macs_m"] else None,
        source=row["source"],
        conditions={},
    )


def peer(device: Device, samples: Sequence[Sample]) -> CalibratedDevice:
    """What a device says in the choice of other devices' forms."""
    return CalibratedDevice(
        device=device.device["name"],
        runtime=device.runtime["name"],
        provider=device.runtime["provider"],
        is_cpu="CPU" in device.device["processor"],
        samples=tuple(sample for sample in samples if sample.use == "fit"),
    )


def notes(device: Device) -> tuple[str, ...]:
    """What a table says about its figures."""
    return (
        "an interval is where 80 % of networks of unseen families are expected",
        *device.notes,
        *device.protocol.notes,
    )


def header(device: Device, date: str) -> dict[str, Any]:
    """The fields of a table that the fit does not decide."""
    return {
        "schema": SCHEMA,
        "name": device.name,
        "aliases": device.aliases,
        "unit": "ms",
        "device": dict(device.device),
        "runtime": dict(device.runtime),
        "precision": device.precision,
        "threads": device.threads,
        "provenance": {
            "kind": "calibrated",
            "status": STATUS,
            "date": date,
            "tool_version": f"timm {version('timm')}, torch {version('torch')}, torchvision {version('torchvision')}",
        },
    }


def print_figures(table: LatencyTable) -> None:
    """Every figure of a table beside its left-out prediction and the MAC line's."""
    print(f"\n{table.name}: {table.provenance.protocol['form']}")
    for figure in table.figures:
        error, line_error = (ms / figure.measured_ms - 1 for ms in (figure.left_out_ms, figure.mac_line_left_out_ms))
        print(
            f"  {figure.model:26}{figure.use:6}{figure.macs / 1e9:7.2f} GMACs {figure.measured_ms:8.2f} ms, left out"
            f" {figure.left_out_ms:8.2f} [{figure.left_out_low_ms:8.2f}, {figure.left_out_high_ms:8.2f}] {error:+7.1%},"
            f" MAC line {line_error:+7.1%}"
        )
    for note in table.provenance.notes:
        print(f"  {note}")


def summary(tables: Sequence[LatencyTable]) -> str:
    """The errors of the shipped tables, and the Pixel 6's by kinds of networks, as `docs/targets.md` has them."""
    rows = [
        "| target | figures | families | form | mean error | MAC line | within 80 % interval |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
        *map(summary_row, tables),
    ]
    pixel6 = next(table for table in tables if "pixel6" in table.aliases)
    kinds: dict[str, list[Figure]] = {
        "without large depthwise windows": [],
        "FastViT and ConvNeXt": [],
        "EfficientNet-Lite, as whole pipelines by another protocol": [],
    }
    typical, large, checks = kinds.values()
    for figure in pixel6.figures:
        group = checks if figure.use == "check" else large if LARGE_WINDOWS in figure.features else typical
        group.append(figure)
    rows += ["", "| `pixel6` | figures | mean error | MAC line |", "| --- | ---: | ---: | ---: |"]
    for kind, figures in kinds.items():
        errors = [error_of(figures, prediction) for prediction in ("left_out_ms", "mac_line_left_out_ms")]
        rows.append(f"| {kind} | {len(figures)} | {errors[0]} | {errors[1]} |")
    return "\n".join(rows)


def summary_row(table: LatencyTable) -> str:
    """A table's row in the summary."""
    fitted = [figure for figure in table.figures if figure.use == "fit"]
    families = len({figure.family for figure in fitted})
    validation = table.validation
    form = "MAC line" if table.provenance.notes[0].startswith("a straight line") else "roofline"
    return (
        f"| `{table.aliases[0]}` | {len(fitted)} | {families} | {form} | {validation.mean_error:.1%} |"
        f" {validation.mac_line_mean_error:.1%} | {validation.interval_coverage:.0%} |"
    )


def error_of(figures: Sequence[Figure], prediction: str) -> str:
    """The mean relative error of a kind of networks."""
    errors = [abs(getattr(figure, prediction) / figure.measured_ms - 1) for figure in figures]
    return f"{np.mean(errors):.1%}"


def write_document(text: str) -> None:
    """Put the summary into `docs/targets.md`, in the place of the former one."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def print_not_shipped(rows: Sequence[Row]) -> None:
    """What the CSV holds beyond the shipped tables."""
    counts: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not any(device.takes(row) or device.checks(row) for device in DEVICES):
            key = tuple(row[name] for name in ("device", "processor", "runtime", "precision", "threads"))
            counts.setdefault(key, []).append(row)
    print(
        "\nnot shipped: too few figures or families by one protocol to fit and to check, or networks nobody published"
    )
    for key, members in counts.items():
        families = {row["family"] for row in members}
        print(f"  {', '.join(filter(None, key))}: {len(members)} figures, {len(families)} families")


if __name__ == "__main__":
    main()
