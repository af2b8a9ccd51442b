"""Predicted beside measured: how right a table of this machine is about networks that its fit has not seen."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import TableError
from latency_tables.predictor import LatencyPredictor
from latency_tables.repeats import QUICK, Measurement
from latency_tables.runtimes import Runtime, find_runtime
from latency_tables.table import LatencyTable
from latency_tables.table_validation import Validation, ValidationRow
from latency_tables.targets import load_target, provenance_line, staleness
from latency_tables.transports.local import LocalTransport
from nas.errors import UsageError
from nas.events import Progress, StageProgress, ignore
from nas.latency.check_networks import DrawnNetwork, fresh_networks, is_own, largest_group, own_networks
from nas.latency.predict import Prediction, predict_network
from nas.networks.named import NamedNetwork
from nas.networks.resolve import resolve_network

NAMED = "named"
"""The group of networks that were given by name."""


@dataclass(frozen=True)
class CheckedNetwork:
    """One network, predicted and measured.

    Attributes:
        group: Its space, ``vit``, or `NAMED`.
        mac_line_ms: Prediction of a straight line through MACs, fitted to the table's own networks.
        steady: Whether its runs agreed with each other.
    """

    name: str
    group: str
    prediction: Prediction
    measured_ms: float
    mac_line_ms: float
    steady: bool

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.prediction.latency.ms / self.measured_ms - 1

    @property
    def is_declined(self) -> bool:
        """Whether the table has no evidence for the network, so that nothing is predicted of it."""
        return self.prediction.latency.is_declined

    @property
    def is_inside(self) -> bool:
        """Whether the measured latency lies within the predicted interval."""
        return self.prediction.latency.low_ms <= self.measured_ms <= self.prediction.latency.high_ms

    @property
    def reason(self) -> str:
        """What is known of why the prediction may be off; empty where nothing is."""
        reasons = []
        if unseen := self.prediction.describe_extrapolation():
            reasons.append(f"no evidence for {unseen}")
        if not self.steady:
            reasons.append("its runs disagreed with each other")
        return "; ".join(reasons)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        latency = self.prediction.latency
        claims = latency.claims()
        return {
            "network": self.name,
            "group": self.group,
            "measured_ms": self.measured_ms,
            "predicted_ms": claims["ms"],
            "low_ms": claims["low_ms"],
            "high_ms": claims["high_ms"],
            "error": None if self.is_declined else self.error,
            "mac_line_ms": self.mac_line_ms,
            "params": self.prediction.params,
            "macs": self.prediction.macs,
            "extrapolated": latency.extrapolated,
            "extrapolated_share": self.prediction.extrapolated_share,
            "steady": self.steady,
            "inside_interval": None if self.is_declined else self.is_inside,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class MeasuredAgain:
    """A network that the table was made from, with its latency then and now: the machine's part of all errors."""

    name: str
    then_ms: float
    now_ms: float

    @property
    def change(self) -> float:
        """Relative change of the latency."""
        return self.now_ms / self.then_ms - 1


@dataclass(frozen=True)
class CheckResult:
    """A table's predictions beside measurements.

    Attributes:
        statistic: What of the runs is compared, the same as in the table.
        skipped: Names of networks that were left out because the table was fitted to them.
        again: Such networks that were measured all the same.
    """

    target: str
    source: str
    statistic: str
    seed: int
    networks: tuple[CheckedNetwork, ...]
    skipped: tuple[str, ...]
    again: tuple[MeasuredAgain, ...] = ()

    @property
    def machine_change(self) -> float | None:
        """Median change of the networks that the table was made from; None where none was measured again."""
        return statistics.median(network.change for network in self.again) if self.again else None

    def summaries(self) -> dict[str, Validation]:
        """The error statistics of the predictions of each group, and of ``all`` where there are several groups."""
        predicted = [network for network in self.networks if not network.is_declined]
        groups = list(dict.fromkeys(network.group for network in predicted))
        parts = {group: [network for network in predicted if network.group == group] for group in groups}
        if len(groups) > 1:
            parts["all"] = predicted
        return {group: _summary(members) for group, members in parts.items()}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        summaries = {
            group: {"networks": len(summary.rows), **summary.model_dump(mode="json", exclude={"rows", "how"})}
            for group, summary in self.summaries().items()
        }
        return {
            "schema": 1,
            "target": self.target,
            "source": self.source,
            "statistic": self.statistic,
            "seed": self.seed,
            "groups": summaries,
            "networks": [network.to_dict() for network in self.networks],
            "skipped": list(self.skipped),
            "machine_change": self.machine_change,
            "measured_again": [{**asdict(network), "change": network.change} for network in self.again],
        }


@dataclass(frozen=True)
class _Candidate:
    group: str
    network: NamedNetwork
    prediction: Prediction


def check_target(
    target: str,
    models: Sequence[str] = (),
    groups: Sequence[str] = (),
    *,
    networks: int = 40,
    seed: int = 1,
    progress: Progress = ignore,
) -> CheckResult:
    """Measure networks on this machine and set the table's predictions beside them.

    Args:
        target: A table that was measured on this machine, or in a browser on it.
        models: Names of networks, as `nas.networks.resolve.resolve_network` understands them.
        groups: Groups of networks to sample (`nas.latency.samples`).
        networks: Networks of each group.
        seed: Seed of the sample; another one than the table's.
        progress: Receives `nas.events.StageProgress`.

    Raises:
        BusyMachineError: The machine is too busy to be measured.
        TableError: The table is out of date.
        UnknownNameError: There is no such target, group or network.
        UsageError: The table is not of this machine, or nothing is left to check.
    """
    table = load_target(target)
    runtime = require_measurable(table)
    predictor = LatencyPredictor(table)
    named = [
        _Candidate(NAMED, network, predict_network(predictor, network)) for network in map(resolve_network, models)
    ]
    candidates, skipped = _unseen(named, table)
    sampled: list[DrawnNetwork] = []
    for group in groups:
        fresh, seen = fresh_networks(group, networks, seed, predictor)
        sampled += fresh
        skipped += seen
    if not candidates and not sampled:
        raise UsageError(
            "nothing is left to check: the table was fitted to every network given", "give another seed or other models"
        )
    for group in groups or largest_group(table):
        sampled += own_networks(group, predictor)
    with tempfile.TemporaryDirectory(prefix="nas-check-") as folder:
        files = _write_sampled(sampled, Path(folder), runtime, table.batch, progress)
        files += _write_named(candidates, Path(folder), runtime, table.batch, progress)
        measured = _measure(files, runtime, table, progress)
    line, again = _mac_line(table), []
    checked = []
    entries = [(entry.group, entry.name, entry.prediction, entry.then_ms) for entry in sampled]
    entries += [(entry.group, entry.network.name, entry.prediction, None) for entry in candidates]
    for (group, name, prediction, then_ms), found in zip(entries, measured, strict=True):
        if then_ms is not None:
            again.append(MeasuredAgain(name, then_ms, found.ms))
        else:
            checked.append(CheckedNetwork(name, group, prediction, found.ms, line(prediction.macs), found.steady))
    source, statistic = provenance_line(table), measured[0].statistic
    return CheckResult(table.name, source, statistic, seed, tuple(checked), tuple(skipped), tuple(again))


def require_measurable(table: LatencyTable) -> Runtime:
    """The table's runtime, when what it measures here may stand beside the table.

    Raises:
        TableError: The table is out of date.
        UsageError: The table is of another device or runtime.
    """
    remedy = "check `local`; `nas latency build --target local` measures this machine"
    if table.provenance.kind != "measured":
        raise UsageError(
            f"target `{table.name}` is {table.provenance.kind}, expected a table measured on this machine", remedy
        )
    if table.provenance.transport:
        raise UsageError(
            f"target `{table.name}` was measured through `{table.provenance.transport}`, expected this machine", remedy
        )
    runtime = find_runtime(table.runtime.name, table.runtime.provider, table.precision)
    if runtime is None:
        raise UsageError(
            f"target `{table.name}` is of {table.runtime.name} in {table.precision}, expected a runtime that is known"
            " here in that precision",
            remedy,
        )
    stale = staleness(table)
    if stale:
        raise TableError(
            f"latency table `{table.name}` is out of date: {stale}", "measure again with `nas latency build`"
        )
    return runtime


def _unseen(candidates: Sequence[_Candidate], table: LatencyTable) -> tuple[list[_Candidate], list[str]]:
    kept: list[_Candidate] = []
    seen: list[str] = []
    for entry in candidates:
        architecture = entry.network.architecture
        group = architecture.space if architecture is not None else NAMED
        if is_own(group, entry.prediction.macs, table):
            seen.append(entry.network.name)
        else:
            kept.append(entry)
    return kept, seen


def _write_sampled(
    sampled: Sequence[DrawnNetwork], folder: Path, runtime: Runtime, batch: int, progress: Progress
) -> list[NetworkFile]:
    from nas.latency.write_networks import ExportJob, expected_outputs, export_samples

    paths = [folder / f"{place}{runtime.suffix}" for place in range(len(sampled))]
    jobs = [
        ExportJob(entry.group, entry.count, entry.seed, entry.number, str(path), batch)
        for entry, path in zip(sampled, paths, strict=True)
    ]
    export_samples(runtime.name, jobs, {}, progress)
    return [
        NetworkFile(path, (batch, *entry.prediction.input_shape), expected_outputs(path))
        for entry, path in zip(sampled, paths, strict=True)
    ]


def _write_named(
    candidates: Sequence[_Candidate], folder: Path, runtime: Runtime, batch: int, progress: Progress
) -> list[NetworkFile]:
    files = []
    for number, entry in enumerate(candidates):
        network, path = entry.network, folder / f"named-{number}{runtime.suffix}"
        if network.build is not None:
            progress(StageProgress("write named networks", number, len(candidates)))
            runtime.write(network.deployed(), network.input_shape, path, batch)
        elif network.onnx_path is not None and network.onnx_path.suffix == path.suffix:
            path = network.onnx_path
        else:
            raise UsageError(f"network `{network.name}`: {runtime.title} runs no ONNX file, expected a network by name")
        files.append(NetworkFile(path, (batch, *network.input_shape)))
    return files


def _measure(
    files: Sequence[NetworkFile], runtime: Runtime, table: LatencyTable, progress: Progress
) -> tuple[Measurement, ...]:
    def tell(stage: str, done: int, total: int) -> None:
        progress(StageProgress(f"{stage} networks", done, total))

    statistic = table.provenance.protocol.get("statistic")
    protocol = replace(QUICK, threads=table.threads)
    with LocalTransport() as transport:
        runner = DeviceRunner(runtime, transport, runtime.python(), table.threads)
        session = measure(runner, files, protocol, progress=tell, statistic="p5" if statistic == "p5" else "median")
    return session.measurements


def _mac_line(table: LatencyTable) -> Callable[[float], float]:
    from latency_tables.calibrate import mac_line

    rows = table.validation.rows
    return mac_line([row.macs for row in rows], [row.measured_ms for row in rows])


def _summary(networks: Sequence[CheckedNetwork]) -> Validation:
    from latency_tables.calibrate import summary

    rows = [
        ValidationRow(
            network=network.name,
            macs=network.prediction.macs,
            measured_ms=network.measured_ms,
            predicted_ms=network.prediction.latency.ms,
            mac_line_ms=network.mac_line_ms,
        )
        for network in networks
    ]
    inside = sum(network.is_inside for network in networks) / len(networks)
    found = summary("networks that the fit has not seen", rows)
    return found.model_copy(update={"interval_coverage": inside})
