"""Build a measured table of this machine: measure sampled networks, profile them, fit, and say how wrong it is.

The error comes from networks that the fit has not seen: they are dealt into folds, and each fold is predicted by a
table made from the others. The table that is kept is made from all of them.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables.calibrate import mac_line, summary
from latency_tables.errors import CalibrationError
from latency_tables.kernels import FUSIONS, fuse
from latency_tables.local_fit import LocalFit, Observation, fit_local
from latency_tables.measure import QUICK, Campaign, Progress, Protocol, measure_networks
from latency_tables.profile import match, profile_networks
from latency_tables.table import SCHEMA, Interval, LatencyTable, ValidationRow
from latency_tables.targets import LOCAL
from search_spaces.graph import OpGraph

FOLDS = 6
_COVERAGE = 0.9


@dataclass(frozen=True)
class SampledNetwork:
    """A network to measure.

    Attributes:
        graph: Its op graph, as the predictor will see it.
        onnx_path: The same network as an ONNX file with fixed shapes and one image per batch.
    """

    name: str
    graph: OpGraph
    onnx_path: Path


def build_local_table(
    networks: Sequence[SampledNetwork],
    *,
    name: str = LOCAL,
    protocol: Protocol = QUICK,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure and profile the networks with ONNX Runtime and fit a table.

    Args:
        networks: At least 6, better 20 or more, sampled from the space that the table is for; where the smallest and
            largest network are among them, few predictions extrapolate.
        name: Name of the target.
        protocol: How long and how often to measure.
        progress: Told of every step.

    Raises:
        BusyMachineError: The machine is too busy for a number.
        CalibrationError: There are too few networks.
        ProfileError: ONNX Runtime cannot run one of the networks.
    """
    if len(networks) < FOLDS:
        raise CalibrationError(f"{len(networks)} networks, expected at least {FOLDS}", "sample more networks")
    paths = [network.onnx_path for network in networks]
    campaign = measure_networks(paths, protocol, progress)
    profiles = profile_networks(paths, progress=progress)
    observations: list[Observation] = []
    unmatched: set[str] = set()
    for network, measurement, nodes in zip(networks, campaign.measurements, profiles, strict=True):
        kernels = tuple(kernel for _, ops in network.graph.blocks for kernel in fuse(ops, FUSIONS["onnxruntime"]))
        profile = match(kernels, nodes)
        unmatched.update(profile.unmatched)
        observations.append(Observation(network.name, network.graph.macs, kernels, measurement.ms, profile.samples))
    return table_from_observations(observations, _header(name, protocol, campaign, len(unmatched)))


def table_from_observations(observations: Sequence[Observation], header: dict[str, Any]) -> LatencyTable:
    """Fit a table and validate it by folds.

    Args:
        observations: Measured networks.
        header: The table's fields that the fit does not decide.
    """
    rows = held_out_rows(observations)
    fit = fit_local(observations)
    residuals = np.sort([row.measured_ms / row.predicted_ms - 1 for row in rows])
    # As for a new network among these: the quantile's rank is rounded outwards.
    outside = int((len(residuals) + 1) * (1 - _COVERAGE) / 2)
    position = max(outside - 1, 0)
    return LatencyTable.model_validate(
        {
            **header,
            "overhead_ms": fit.overhead_ms,
            "scale": fit.scale,
            "interval": Interval(
                low=float(residuals[position]), high=float(residuals[-1 - position]), coverage=_COVERAGE
            ),
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


def _header(name: str, protocol: Protocol, campaign: Campaign, unmatched: int) -> dict[str, Any]:
    import onnxruntime

    measurements = campaign.measurements
    shares = [measurement.clean_share for measurement in measurements]
    steady = sum(measurement.steady for measurement in measurements)
    statistic = measurements[0].statistic
    how = (
        "median of round medians" if statistic == "median" else "5th percentile of the runs, since the machine was busy"
    )
    notes = [f"latency is the {how}; {steady} of {len(measurements)} networks were steady"]
    if unmatched:
        notes.append(f"{unmatched} kernels had no counterpart in the profiles and are priced by their class")
    return {
        "schema": SCHEMA,
        "name": name,
        "unit": "ms",
        "device": {
            "name": platform.node() or "this machine",
            "processor": this_processor(),
            "cores": f"{os.cpu_count()} logical",
            "system": platform.platform(),
        },
        "runtime": {
            "name": "ONNX Runtime",
            "version": onnxruntime.__version__,
            "provider": "CPUExecutionProvider",
            "fusion": "onnxruntime",
            "options": {"execution": "sequential", "optimisation": "all"},
        },
        "precision": "fp32",
        "threads": protocol.threads,
        "provenance": {
            "kind": "measured",
            "status": "measured on this machine",
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "tool_version": f"onnxruntime {onnxruntime.__version__}",
            "host": platform.node(),
            "protocol": {
                **asdict(protocol),
                "statistic": statistic,
                "clean_share": float(np.mean(shares)),
                "restarted_rounds": campaign.restarted,
            },
            "anchor_drift": campaign.anchor_drift,
            "notes": tuple(notes),
        },
    }


def this_processor() -> str:
    """The name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
