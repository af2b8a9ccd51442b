"""Make the shipped calibrated tables again from published figures, and compare each with the line through MACs.

    python benchmarks/calibrate_tables.py FIGURES.csv MORE.csv [--output latency_tables/tables] [--only pixel6]

The CSV files have the columns model, input_px, macs_m, device, processor, runtime, threads, precision, latency_ms,
source and, where it is known, family. Networks are rebuilt with random weights (`published_rebuilds`) and traced, so
that the fit sees their operators; a row whose rebuilt MACs are not the published ones is left out, and the table says
so. What is traced is kept in `latency_tables/published_networks.json`, which the tables refer to; networks that are in
it are not built again without ``--rebuild``. Given the same CSV files, versions and date, all files come out equal to
the last byte. The errors in `docs/reference-targets.md` are replaced too.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from latency_tables.calibrate import Sample, calibrate, leave_families_out
from latency_tables.calibrated_table import calibrated_table, form_or_line
from latency_tables.calibration_form import CalibratedDevice, ranked_forms, samples_of
from latency_tables.calibration_terms import FORMS, LARGE_WINDOWS, MAC_LINE, Form
from latency_tables.figures import PublishedFigure, as_check, rebuild_figures
from latency_tables.kinds import KINDS, believed_kinds
from latency_tables.published_features import PATH as NETWORKS
from latency_tables.published_features import features_of
from latency_tables.table import SCHEMA, LatencyTable
from latency_tables.table_validation import Features, Figure
from latency_tables.transfer import Lender, Trial, borrow, loan

if TYPE_CHECKING:
    from calibration_devices import Device, Row
    from published_rebuilds import Rebuilder

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "latency_tables" / "tables"
DOCUMENT = ROOT / "docs" / "reference-targets.md"
BEGIN, END = "<!-- errors: benchmarks/calibrate_tables.py -->", "<!-- end of errors -->"
STATUS = "nobody touched the device: for ranking and coarse budgets"
OUTSIDE = 3.0
"""A family whose networks are off by this factor, all in one direction, is outside what a table tells."""


def main() -> None:
    """Rebuild, fit, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, nargs="*", help="published figures; without them shipped tables are shown")
    parser.add_argument("--output", type=Path, default=TABLES)
    parser.add_argument("--only", default="", help="write and print only the table of this file name")
    parser.add_argument("--rebuild", action="store_true", help="build networks again that are known already")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date in the tables")
    arguments = parser.parse_args()
    if not arguments.csv:
        print(summary(shipped()))
        return
    # What rebuilds networks needs packages that showing the shipped tables does not.
    from calibration_devices import BUILT_IN, DEVICES
    from published_rebuilds import Rebuilder

    rows = [row for path in arguments.csv for row in csv.DictReader(path.open(newline="", encoding="utf-8"))]
    known = {} if arguments.rebuild else json.loads(NETWORKS.read_text(encoding="utf-8")) if NETWORKS.exists() else {}
    rebuilder = Rebuilder(known)
    figures = {
        device.file: figures_of(device, rows, rebuilder) for device in track(DEVICES, console=Console(stderr=True))
    }
    write_networks(rebuilder.used if not arguments.only else {**known, **rebuilder.used})
    peers = {device.file: peer(device, figures[device.file][0]) for device in DEVICES}
    tables: dict[str, LatencyTable] = {}
    for device in DEVICES:
        forms = ranked_forms(peers[device.file], peers.values())
        samples, left_out = without_outsiders(*figures[device.file], forms)
        table = calibrated_table(header(device, arguments.date), samples, forms, [*notes(device), *left_out])
        tables[device.file] = table
    trials = [tables[device.file] for device in DEVICES if device.runtime == BUILT_IN]
    for device in DEVICES:
        if device.lender:
            tables[device.file] = lent(tables[device.file], tables[device.lender], trials)
    tables = {file: shorter(table) for file, table in tables.items()}
    for device in DEVICES:
        if arguments.only in ("", device.file):
            tables[device.file].save(arguments.output / f"{device.file}.json")
            print_figures(tables[device.file])
    if not arguments.only:
        text = summary([tables[device.file] for device in DEVICES])
        print(f"\n{text}")
        if arguments.output == TABLES:
            write_document(text)
    print_not_shipped(rows, DEVICES)


def shipped() -> list[LatencyTable]:
    """The tables that the package has."""
    return [LatencyTable.load(path) for path in sorted(TABLES.glob("*.json"))]


def figures_of(device: Device, rows: Sequence[Row], rebuilder: Rebuilder) -> tuple[list[Sample], list[str]]:
    """A device's samples, and a sentence for each of its figures that is left out."""
    protocol = device.protocol
    rebuild = rebuilder.source(protocol.origin)
    chosen, not_chosen = protocol.choose([row for row in rows if device.takes(row)])
    samples, left_out = rebuild_figures(
        [published(row, row["family"] if protocol.says_families else "") for row in chosen],
        rebuild,
        device.precision,
        rounding_m=protocol.rounding_m,
        tolerance=protocol.tolerance,
    )
    checks, _ = rebuild_figures(
        [published(row, row["family"]) for row in rows if device.checks(row)], rebuild, device.precision
    )
    return samples + as_check(checks), [f"left out: {sentence}" for sentence in (*not_chosen, *left_out)]


def without_outsiders(
    samples: Sequence[Sample], left_out: Sequence[str], form_names: Sequence[str]
) -> tuple[list[Sample], list[str]]:
    """The samples, with families kept as checks that the fit of all others is far off, and a sentence for each."""
    fitted = [sample for sample in samples if sample.use == "fit"]
    form, _ = form_or_line(fitted, form_names)
    ratio_s = np.array([sample.measured_ms for sample in fitted]) / leave_families_out(fitted, form)
    factors: dict[str, list[float]] = {}
    for sample, ratio in zip(fitted, ratio_s.tolist(), strict=True):
        factors.setdefault(sample.family, []).append(ratio)
    outside = {family for family, each in factors.items() if max(each) < 1 / OUTSIDE or min(each) > OUTSIDE}
    sentences = [
        f"outside: {family} takes {np.exp(np.mean(np.log(factors[family]))):.2g} times what all others let expect; kept"
        " as a check"
        for family in sorted(outside)
    ]
    kept = [replace(sample, use="check") if sample.family in outside else sample for sample in samples]
    return kept, [*left_out, *sentences]


def lent(table: LatencyTable, of_lender: LatencyTable, tables: Sequence[LatencyTable]) -> LatencyTable:
    """A table with the prices that it borrows; other devices' tables of all kinds of networks are the trials."""
    samples = samples_of(of_lender)
    lender = Lender(of_lender.name, calibrate(samples, form_of(of_lender)), samples)
    trials = [
        Trial(other.name, form_of(other), samples_of(other))
        for other in tables
        if other.precision == table.precision
        and other.device.name not in (table.device.name, of_lender.device.name)
        and len(other.validation.by_kind) == len(KINDS)
    ]
    return borrow(table, loan(samples_of(table), lender, trials))


def form_of(table: LatencyTable) -> Form:
    """The form that a table says it was fitted by."""
    reason = table.provenance.notes[0]
    return MAC_LINE if reason.startswith("a straight line") else FORMS[reason.split("`")[1]]


def published(row: Row, family: str) -> PublishedFigure:
    """A row of the CSV as a figure."""
    return PublishedFigure(
        model=row["model"],
        latency_ms=float(row["latency_ms"]),
        family=family,
        input_px=int(row["input_px"]) if row["input_px"] else None,
        macs_m=float(row["macs_m"]) if row["macs_m"] else None,
        source=re.sub(r" \S+/perf\.yaml|; FLOPs.*", "", row["source"]),
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


def shorter(table: LatencyTable) -> LatencyTable:
    """The table with numbers of seven digits, which is all that anything is known to."""
    return LatencyTable.model_validate(rounded(table.model_dump(mode="json", by_alias=True)))


def rounded(value: Any) -> Any:
    """A JSON value with every fraction rounded to seven digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def write_networks(networks: Mapping[str, Mapping[str, Features]]) -> None:
    """Write the file of networks, one a line."""
    lines = []
    for key, elements in sorted(networks.items()):
        whole = {op: [int(number) for number in sums] for op, sums in elements.items()}
        lines.append(f"{json.dumps(key)}: {json.dumps(whole, separators=(',', ':'))}")
    NETWORKS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def print_figures(table: LatencyTable) -> None:
    """Every figure of a table beside its left-out prediction and the MAC line's."""
    print(f"\n{table.name}: {table.provenance.protocol['form']}")
    for figure in table.figures:
        error, line_error = (ms / figure.measured_ms - 1 for ms in (figure.left_out_ms, figure.mac_line_left_out_ms))
        print(
            f"  {figure.model:33}{figure.use:6}{figure.macs / 1e9:7.2f} GMACs {figure.measured_ms:8.2f} ms, left out"
            f" {figure.left_out_ms:8.2f} [{figure.left_out_low_ms:8.2f}, {figure.left_out_high_ms:8.2f}] {error:+7.1%},"
            f" MAC line {line_error:+7.1%}"
        )
    for note in table.provenance.notes:
        print(f"  {note}")


def summary(tables: Sequence[LatencyTable]) -> str:
    """What each shipped table may be believed for, as `docs/reference-targets.md` has it."""
    rows = [
        "| target | runs on | figures, families | error | MAC line | convolutional | plain transformers | hybrids |"
        " within 80 % interval |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(summary_row(table) for table in sorted(tables, key=lambda table: table.name)),
    ]
    pixel6 = next(table for table in tables if "pixel6" in table.aliases)
    kinds: dict[str, list[Figure]] = {
        "without large depthwise windows": [],
        "FastViT and ConvNeXt": [],
        "EfficientNet-Lite, as whole pipelines by another protocol": [],
    }
    typical, large, checks = kinds.values()
    for figure, features in zip(pixel6.figures, features_in(pixel6), strict=True):
        group = checks if figure.use == "check" else large if LARGE_WINDOWS in features else typical
        group.append(figure)
    rows += ["", "| `pixel6` | figures | mean error | MAC line |", "| --- | ---: | ---: | ---: |"]
    for kind, figures in kinds.items():
        errors = [error_of(figures, prediction) for prediction in ("left_out_ms", "mac_line_left_out_ms")]
        rows.append(f"| {kind} | {len(figures)} | {errors[0]} | {errors[1]} |")
    return "\n".join(rows)


def features_in(table: LatencyTable) -> list[Mapping[str, Features]]:
    """The features of the network of each figure."""
    return [features_of(figure.network, table.bytes_per_element) for figure in table.figures]


def summary_row(table: LatencyTable) -> str:
    """A table's row in the summary."""
    fitted = [figure for figure in table.figures if figure.use == "fit"]
    families = len({figure.family for figure in fitted})
    validation = table.validation
    threads = "" if table.threads == 1 else f", {table.threads} threads"
    cells = [
        f"`{table.aliases[-1]}`",
        f"{table.device.processor}, {table.runtime.name} {table.precision}{threads}",
        f"{len(fitted)}, {families}",
        "the line" if form_of(table) == MAC_LINE else f"{validation.mean_error:.1%}",
        f"{validation.mac_line_mean_error:.1%}",
        *(kind_cell(table, kind) for kind in KINDS),
        f"{validation.interval_coverage:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def kind_cell(table: LatencyTable, kind: str) -> str:
    """The error on networks of one kind, in bold where the table may be believed."""
    entry = next((entry for entry in table.validation.by_kind if entry.kind == kind), None)
    if entry is None:
        return "borrowed" if any(roofline.borrowed_from for roofline in table.rooflines) else ""
    text = f"{entry.mean_error:.0%} of {entry.networks}"
    return f"**{text}**" if kind in believed_kinds(table) else text


def error_of(figures: Sequence[Figure], prediction: str) -> str:
    """The mean relative error of a kind of networks."""
    errors = [abs(getattr(figure, prediction) / figure.measured_ms - 1) for figure in figures]
    return f"{np.mean(errors):.1%}"


def write_document(text: str) -> None:
    """Put the summary into `docs/reference-targets.md`, in the place of the former one."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def print_not_shipped(rows: Sequence[Row], devices: Sequence[Device]) -> None:
    """What the CSV holds beyond the shipped tables."""
    counts: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not any(device.takes(row) or device.checks(row) for device in devices):
            where = row["processor"].partition(" (")[0] if "layers" in row["processor"] else row["processor"]
            key = (row["device"], where, *(row[name] for name in ("runtime", "precision", "threads")))
            counts.setdefault(key, []).append(row)
    print(
        "\nnot shipped: too few figures or families by one protocol to fit and to check, more threads of a phone, or"
        " networks nobody published"
    )
    for key, members in counts.items():
        print(f"  {', '.join(filter(None, key))}: {len(members)} figures")


if __name__ == "__main__":
    main()
