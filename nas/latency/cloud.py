"""Latency tables of devices in a cloud: whole networks, timed there."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency_tables.aihub import TARGET_RUNTIMES, HubSession, measure_on_hub
from latency_tables.build import SampledNetwork, observe, require_enough, table_from_observations
from latency_tables.kernels import ONNX_RUNTIME, XNNPACK
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.table import SCHEMA, LatencyTable
from nas.events import Progress, StageProgress
from nas.latency.request import BuildRequest


def build_cloud_table(
    request: BuildRequest, networks: Sequence[SampledNetwork], folder: Path, progress: Progress
) -> LatencyTable:
    """Have networks timed on a device of Qualcomm AI Hub, and fit a table whose kernels are priced by their classes.

    Args:
        request: Its runtime is what networks are compiled to, with the unit to run on behind a colon.
        networks: As ONNX files.
        folder: Folder of the journal.
        progress: Receives `nas.events.StageProgress`.

    Raises:
        CalibrationError: There are too few networks.
        ProfileError: A network cannot be compiled or run there.
        RuntimeMissingError: The client library, or its token, is missing.
        TransportError: AI Hub cannot be reached; jobs that it was given are kept.
        UnknownNameError: AI Hub has no such device.
    """
    require_enough(networks)
    target_runtime, _, unit = request.runtime.partition(":")
    fusion = XNNPACK if target_runtime == "tflite" else ONNX_RUNTIME
    settings = {
        "device": request.device,
        "runtime": request.runtime,
        "names": [network.name for network in networks],
    }
    measured = measure_on_hub(
        request.device.partition(":")[2],
        [network.path for network in networks],
        target_runtime,
        unit or "all",
        MeasurementJournal(folder / "journal.jsonl", settings),
        lambda stage, done, total: progress(StageProgress(f"AI Hub: {stage}", done, total)),
        networks[0].writing,
    )
    observations = [
        observe(network, measurement, fusion)[0]
        for network, measurement in zip(networks, measured.measurements, strict=True)
    ]
    return table_from_observations(observations, _header(request, target_runtime, unit, fusion.name, measured))


def _header(request: BuildRequest, target_runtime: str, unit: str, fusion: str, measured: HubSession) -> dict[str, Any]:
    steady = sum(measurement.steady for measurement in measured.measurements)
    layers = ", ".join(f"{count} on {name}" for name, count in sorted(measured.units.items()))
    notes = [
        f"latency is the median of a job's runs; {steady} of {len(measured.measurements)} networks were steady",
        f"layers of all networks: {layers or 'not told'}",
        "the service tells no kernel's time that could be trusted: classes are fitted to whole networks only",
        "networks are fp32 files; what a NPU or a GPU takes of them it computes in fp16",
    ]
    return {
        "schema": SCHEMA,
        "name": request.name,
        "unit": "ms",
        "device": {"name": measured.device, "processor": unit.upper() or "all units", "system": measured.system},
        "runtime": {
            "name": TARGET_RUNTIMES[target_runtime],
            "provider": "AI Hub",
            "fusion": fusion,
            "options": {"target_runtime": target_runtime, "compute_unit": unit or "all"},
        },
        "precision": "fp32",
        "threads": 1,
        "provenance": {
            "kind": "measured",
            "status": f"measured through {request.device}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tool_version": "Qualcomm AI Hub",
            "host": measured.device,
            "transport": request.device,
            "protocol": {
                "runs": min(measurement.runs for measurement in measured.measurements),
                "accelerated_share": measured.accelerated_share,
            },
            "anchor_drift": measured.anchor_drift,
            "notes": tuple(notes),
        },
    }
