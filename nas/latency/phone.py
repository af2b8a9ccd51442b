"""Latency tables of phones: whole networks through a benchmark program, since no Python runs there."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latency_tables.build import SampledNetwork, observe, require_enough, table_from_observations
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.phone import PhoneCampaign, PhoneModel, PhoneOptions, measure_on_phone, program_digest
from latency_tables.runtimes import Runtime
from latency_tables.table import SCHEMA, LatencyTable
from latency_tables.transports import Transport
from nas.events import Progress, StageProgress
from nas.latency.request import BuildRequest


def build_phone_table(
    request: BuildRequest,
    runtime: Runtime,
    networks: Sequence[SampledNetwork],
    transport: Transport,
    folder: Path,
    progress: Progress,
) -> LatencyTable:
    """Measure the networks on a phone and fit a table whose kernels are priced by their classes alone.

    Args:
        folder: Folder of the journal.

    Raises:
        BusyMachineError: The phone stays too warm, or its clock too unsteady.
        CalibrationError: Too few of the networks run there.
        ProfileError: None of them does.
        TransportError: The phone has gone; what was measured so far is kept.
    """
    from latency_tables.benchmark_model import RepeatSettings

    require_enough(networks)
    options = PhoneOptions(request.program, repeat=RepeatSettings(threads=request.threads))
    settings = {
        "device": request.device,
        "threads": request.threads,
        "program": program_digest(request.program),
        "names": [network.name for network in networks],
    }
    journal = MeasurementJournal(folder / "journal.jsonl", settings)
    done = [record["visit"] for record in journal.of_kind("phone_visit")]
    measured = measure_on_phone(
        transport,
        [PhoneModel(network.name, network.path, network.writing) for network in networks],
        options,
        lambda stage, count, total: progress(StageProgress(f"phone: {stage}", count, total)),
        on_repeat=lambda name, number, record: journal.append({"kind": "phone_visit", "visit": dict(record)}),
        done=done,
    )
    by_name = {measurement.name: measurement for measurement in measured.measurements}
    observations = [
        observe(network, by_name[network.name], runtime.fusion)[0] for network in networks if network.name in by_name
    ]
    require_enough(observations)
    return table_from_observations(observations, _header(request, runtime, options, measured))


def _header(request: BuildRequest, runtime: Runtime, options: PhoneOptions, measured: PhoneCampaign) -> dict[str, Any]:
    device = measured.device
    notes = [
        "the benchmark program tells no kernel's time: classes are fitted to whole networks only",
        *(f"{name} was left out: {reason}" for name, reason in measured.failures.items()),
    ]
    return {
        "schema": SCHEMA,
        "name": request.name,
        "unit": "ms",
        "device": {
            "name": device.name,
            "processor": device.soc,
            "cores": f"{len(device.cores)} cores",
            "system": device.build,
        },
        "runtime": {"name": runtime.title, "provider": runtime.provider, "fusion": runtime.fusion.name},
        "precision": "fp32",
        "threads": request.threads,
        "provenance": {
            "kind": "measured",
            "status": f"measured through {request.device}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tool_version": options.tool,
            "host": device.name,
            "transport": request.device,
            "protocol": {**asdict(options.rounds), **measured.facts, "discarded_visits": measured.discarded},
            "anchor_drift": measured.anchor_drift,
            "notes": tuple(notes),
        },
    }
