"""Build a measured table: measure sampled networks on a device, profile them where its runtime can, fit, say how wrong.

The error comes from networks that the fit has not seen: they are dealt into folds, and each fold is predicted by a
table made from the others. The table that is kept is made from all of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables import device_runner
from latency_tables.calibrate import mac_line, summary
from latency_tables.device_runner import PROFILE_WARM_UP, DeviceRunner, NetworkFile
from latency_tables.errors import BusyMachineError, CalibrationError
from latency_tables.evidence import held_out_interval
from latency_tables.foreign_fit import foreign_interval
from latency_tables.kernels import Fusion, Kernel, fuse
from latency_tables.local_fit import LocalFit, Observation, fit_local
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.profile import match, read_profile
from latency_tables.repeats import QUICK, Measurement, MeasurementSession, Progress, Protocol
from latency_tables.table import SCHEMA, LatencyTable
from latency_tables.table_validation import ValidationRow
from latency_tables.targets import LOCAL
from latency_tables.writing import ALL_WRITTEN, Writing
from search_spaces.graph import OpGraph

FOLDS = 6
LEAST_UNDISTURBED = 0.1
"""Share of undisturbed repeats below which not even the fastest runs of a network say what it takes."""
MOSTLY = 0.5
"""Share of repeats with idle neighbours below which a table says so."""
_CONSTANT = ("governor", "highest_clock_khz", "browser", "accelerator", "driver")


@dataclass(frozen=True)
class SampledNetwork:
    """A network to measure.

    Attributes:
        graph: Its op graph, as the predictor will see it.
        path: The same network as the runtime's file, with fixed shapes and one image per batch.
        expected: File of outputs of PyTorch that the device must reproduce (`latency_tables.worker.digest`); None skips
            that.
        writing: Who writes the files.
    """

    name: str
    graph: OpGraph
    path: Path
    expected: Path | None = None
    writing: Writing = ALL_WRITTEN


@dataclass(frozen=True)
class Conditions:
    """What a table says about how it came about.

    Attributes:
        name: Name of the target.
        batch: Images in a batch.
        transport: How the device was reached; empty for this machine.
        device: The device's name; empty takes what it calls itself.
        allow_busy: Whether to accept that other programs were running nearly all the time; the table then says so.
    """

    name: str = LOCAL
    batch: int = 1
    transport: str = ""
    device: str = ""
    allow_busy: bool = False


def build_table(
    networks: Sequence[SampledNetwork],
    runner: DeviceRunner,
    folder: Path,
    *,
    conditions: Conditions = Conditions(),
    protocol: Protocol = QUICK,
    journal: MeasurementJournal | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure and profile the networks and fit a table.

    Args:
        networks: At least 6, better 20 or more, sampled from the space that the table is for; where the smallest and
            largest network are among them, few predictions extrapolate.
        runner: Where, and with what.
        folder: Where to keep profiles while the table is being built.
        conditions: What the table says about how it came about.
        protocol: How long and how often to measure.
        journal: What has been measured already; what is measured now is added.
        progress: Called at every step.

    Raises:
        BusyMachineError: The machine is too busy for a number.
        CalibrationError: There are too few networks.
        ProfileError: The runtime cannot run one of the networks.
        TransportError: The device has gone.
    """
    require_enough(networks)
    journal = journal or MeasurementJournal()
    facts = runner.facts()
    files = [
        NetworkFile(network.path, (conditions.batch, *network.graph.source_shape), network.expected, network.writing)
        for network in networks
    ]
    least_undisturbed = 0.0 if conditions.allow_busy else LEAST_UNDISTURBED
    measured = device_runner.measure(
        runner, files, protocol, journal=journal, progress=progress, least_undisturbed=least_undisturbed
    )
    if not conditions.allow_busy:
        _require_quiet(measured, journal)
    profiles: list[tuple[Path, Path] | None] = [None] * len(files)
    if runner.runtime.profiles and conditions.batch == 1:
        profiles = list(device_runner.profile(runner, files, folder / "profiles", journal, progress))
    observations, unmatched = [], set()
    for network, measurement, profile in zip(networks, measured.measurements, profiles, strict=True):
        observation, missing = observe(network, measurement, runner.runtime.fusion, profile, conditions.batch)
        observations.append(observation)
        unmatched |= missing
    header = _header(conditions, runner, protocol, measured, facts, journal, len(unmatched))
    return table_from_observations(observations, header)


def require_enough(networks: Sequence[object]) -> None:
    """Make sure that there are enough networks for a table.

    Raises:
        CalibrationError: There are not.
    """
    if len(networks) < FOLDS:
        raise CalibrationError(f"{len(networks)} networks, expected at least {FOLDS}", "sample more networks")


def observe(
    network: SampledNetwork,
    measurement: Measurement,
    fusion: Fusion,
    profile: tuple[Path, Path] | None = None,
    batch: int = 1,
) -> tuple[Observation, set[str]]:
    """What the fit sees of a network, and the keys of its kernels that the profile has no counterpart for.

    Args:
        profile: Files of the profiler's events and the optimised graph; None where the runtime has no profiler.
        batch: Images in a batch.
    """
    blocks = [fuse(ops, fusion, batch) for _, ops in network.graph.blocks]
    kernels: tuple[Kernel, ...] = tuple(kernel for block in blocks for kernel in block)
    if profile is None:
        return Observation(network.name, network.graph.macs, kernels, measurement.ms, ()), set()
    matched = match(kernels, read_profile(*profile, PROFILE_WARM_UP))
    observation = Observation(network.name, network.graph.macs, kernels, measurement.ms, matched.samples)
    return observation, set(matched.unmatched)


def table_from_observations(observations: Sequence[Observation], header: dict[str, Any]) -> LatencyTable:
    """Fit a table and validate it by folds.

    Args:
        observations: Measured networks.
        header: The table's fields that the fit does not decide.
    """
    rows = held_out_rows(observations)
    fit = fit_local(observations)
    own = held_out_interval(rows)
    return LatencyTable.model_validate(
        {
            **header,
            "overhead_ms": fit.overhead_ms,
            "scale": fit.scale,
            "interval": own,
            "foreign_interval": foreign_interval(observations, own),
            "validation": summary(f"{FOLDS} folds, each predicted by a table made from the others", rows),
            "rooflines": fit.rooflines,
            "kernels": fit.kernels,
        }
    )


def held_out_rows(observations: Sequence[Observation]) -> list[ValidationRow]:
    """Every network with the prediction of a table, and of a MAC line, that has not seen it."""
    rows: list[ValidationRow | None] = [None] * len(observations)
    for fold in range(FOLDS):
        others = [observation for row, observation in enumerate(observations) if row % FOLDS != fold]
        fit: LocalFit = fit_local(others)
        line = mac_line([other.macs for other in others], [other.measured_ms for other in others])
        for row in range(fold, len(observations), FOLDS):
            observation = observations[row]
            rows[row] = ValidationRow(
                network=observation.name,
                macs=observation.macs,
                measured_ms=observation.measured_ms,
                predicted_ms=fit.milliseconds(observation.kernels),
                mac_line_ms=line(observation.macs),
            )
    return [row for row in rows if row is not None]


def _require_quiet(measured: MeasurementSession, journal: MeasurementJournal) -> None:
    share = measured.undisturbed_share
    if share is not None and share < LEAST_UNDISTURBED:
        journal.clear()
        raise BusyMachineError(
            f"other programs kept all processors busy during {1 - share:.0%} of the measurements, expected at most"
            f" {1 - LEAST_UNDISTURBED:.0%}: they slow the core, the caches and the memory that all share",
            "stop them and try again; or accept the numbers with `nas latency build --allow-busy`",
        )


def _header(
    conditions: Conditions,
    runner: DeviceRunner,
    protocol: Protocol,
    measured: MeasurementSession,
    facts: Mapping[str, Any],
    journal: MeasurementJournal,
    unmatched: int,
) -> dict[str, Any]:
    measurements = measured.measurements
    steady = sum(measurement.steady for measurement in measurements)
    statistic = measurements[0].statistic
    runtime = runner.runtime
    how = (
        "median of round medians" if statistic == "median" else "5th percentile of the runs, since the machine was busy"
    )
    notes = [f"latency is the {how}; {steady} of {len(measurements)} networks were steady"]
    if measured.quiet_share is not None and measured.quiet_share < MOSTLY:
        busy = 1 - measured.quiet_share
        notes.append(f"other programs kept the other processors busy during {busy:.0%} of the measurements")
    limited = [record["power_limited"] for record in journal.of_kind("visit") if "power_limited" in record]
    if any(limited):
        notes.append(f"the accelerator was at its power limit in {sum(limited) / len(limited):.0%} of the repeats")
    if unmatched:
        notes.append(f"{unmatched} kernels had no counterpart in the profiles and are priced by their class")
    if not runtime.profiles or conditions.batch > 1:
        notes.append(f"{runtime.title} tells no kernel's time: classes are fitted to whole networks only")
    return {
        "schema": SCHEMA,
        "name": conditions.name,
        "unit": "ms",
        "device": {
            "name": conditions.device or facts["host"] or "this machine",
            "processor": facts["processor"],
            "cores": f"{facts['cores']} logical",
            "system": facts["system"],
        },
        "runtime": {
            "name": runtime.title,
            "version": facts["runtime_version"],
            "provider": runtime.provider,
            "fusion": runtime.fusion.name,
            "options": runtime.options,
        },
        "precision": runtime.precision,
        "threads": protocol.threads,
        "batch": conditions.batch,
        "provenance": {
            "kind": "measured",
            "status": f"measured {_where(conditions)}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tool_version": f"{runtime.distribution} {facts['runtime_version']}",
            "host": facts["host"],
            "transport": conditions.transport,
            "protocol": {
                **asdict(protocol),
                "statistic": statistic,
                "clean_share": float(np.mean([measurement.clean_share for measurement in measurements])),
                "restarted_rounds": measured.restarted,
                **({} if measured.quiet_share is None else {"quiet_share": measured.quiet_share}),
                **_state(journal),
            },
            "anchor_drift": measured.anchor_drift,
            "notes": tuple(notes),
        },
    }


def _where(conditions: Conditions) -> str:
    return f"through {conditions.transport}" if conditions.transport else "on this machine"


def _state(journal: MeasurementJournal) -> dict[str, Any]:
    """What does not change, and clock and temperature at the start and at the end, where the device tells them."""
    first, last = journal.of_kind("facts")[0], journal.of_kind("done")[-1]
    state: dict[str, Any] = {name: first[name] for name in _CONSTANT if name in first}
    for name in ("clock_khz", "celsius", "load"):
        for moment, record in (("start", first), ("end", last)):
            if name in record:
                state[f"{name}_{moment}"] = record[name]
    return state
