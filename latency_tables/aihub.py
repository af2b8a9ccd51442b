"""Devices of Qualcomm AI Hub: networks are sent there as ONNX files, compiled, and timed on a real device of theirs.

Jobs are submitted through their client library `qai_hub`, which finds the user's token by itself; nothing here reads
it, and messages that might hold it are cleared of it. Every job's number is written down when it is submitted, so that
a session that was killed waits for its jobs, and submits none twice.
"""

from __future__ import annotations

import contextlib
import io
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables.errors import AddressError, ProfileError, TransportError
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import Measurement, Progress, is_steady
from latency_tables.runtimes.base import RuntimeMissingError
from latency_tables.writing import ALL_WRITTEN, Writing
from search_spaces.errors import UnknownNameError

TARGET_RUNTIMES = {
    "onnx": "ONNX Runtime",
    "tflite": "LiteRT",
    "qnn_dlc": "QNN",
    "qnn_context_binary": "QNN",
    "precompiled_qnn_onnx": "ONNX Runtime",
}
"""What networks are compiled to, and the runtime that this is for; the first is the default."""
UNITS = ("all", "npu", "gpu", "cpu")
"""Where networks may run."""
ACCOUNT = "`pip install 'nas-vit[aihub]'`, then `qai-hub configure --api_token TOKEN` with your account's token"
_TOKEN = re.compile(r"(?i)(token\W{1,3})\S+")


@dataclass(frozen=True)
class HubSession:
    """What AI Hub's device answered.

    Attributes:
        measurements: Results, in the order of the networks.
        units: Layers per unit over all networks, for example ``{"NPU": 310, "CPU": 4}``.
        device: Name of the device; system is its operating system.
        anchor_drift: Relative difference of the first network's two jobs, one before and one after all others.
    """

    measurements: tuple[Measurement, ...]
    units: dict[str, int]
    device: str
    system: str
    anchor_drift: float

    @property
    def accelerated_share(self) -> float:
        """Share of the layers that the processor did not compute."""
        return 1 - self.units.get("CPU", 0) / max(1, sum(self.units.values()))


def measure_on_hub(
    device: str,
    networks: Sequence[Path],
    target_runtime: str,
    unit: str,
    journal: MeasurementJournal,
    progress: Progress,
    writing: Writing = ALL_WRITTEN,
) -> HubSession:
    """Compile and time networks on a device of AI Hub.

    Args:
        device: Its name there, for example ``Samsung Galaxy S24``.
        networks: Their ONNX files, of fixed shapes; the first one is timed twice.
        target_runtime: One of `TARGET_RUNTIMES`.
        unit: One of `UNITS`.
        journal: The jobs of an earlier session with the same networks; those of this one are added.
        progress: Called at every job.
        writing: Who writes the files; each is sent as soon as it is there.

    Raises:
        ProfileError: A network cannot be compiled or run there.
        RuntimeMissingError: The client library, or its token, is missing.
        TransportError: AI Hub cannot be reached.
        UnknownNameError: AI Hub has no such device.
    """
    hub = _library()
    with _translated():
        chosen = _device(hub, device)
        jobs = _Jobs(hub, chosen, target_runtime, unit, journal)
        for position, path in enumerate(networks):  # they compile side by side
            writing.wait(path)
            progress("compile", position, len(networks))
            jobs.compiling(position, path)
        order = [*range(len(networks)), 0]
        for number, position in enumerate(order):
            progress("submit", number, len(order))
            jobs.profiling(number, position, networks[position])
        profiles = []
        for number, position in enumerate(order):
            progress("measure", number, len(order))
            profiles.append(jobs.profile(number, networks[position]))
    found = [_measurement(path.stem, profile) for path, profile in zip(networks, profiles, strict=False)]
    again = _measurement(networks[0].stem, profiles[-1])
    units: Counter[str] = Counter()
    for profile in profiles[:-1]:
        units.update(profile["units"])
    return HubSession(tuple(found), dict(units), chosen.name, chosen.os, abs(again.ms / found[0].ms - 1))


def require_hub_device(device: str) -> None:
    """Make sure that AI Hub can be reached and has a device, before anything is done for it.

    Raises:
        RuntimeMissingError: The client library, or its token, is missing.
        TransportError: AI Hub cannot be reached.
        UnknownNameError: AI Hub has no such device.
    """
    hub = _library()
    with _translated():
        _device(hub, device)


class _Jobs:
    """Jobs of one session, each submitted once."""

    def __init__(self, hub: Any, device: Any, target_runtime: str, unit: str, journal: MeasurementJournal) -> None:
        self.hub, self.device, self.journal = hub, device, journal
        self.compile_options = f"--target_runtime {target_runtime}"
        self.profile_options = "" if unit == "all" else f"--compute_unit {unit}"
        self.numbers = {(record["step"], record["number"]): record["job"] for record in journal.of_kind("hub_job")}
        self.profiles = {record["number"]: record for record in journal.of_kind("hub_profile")}

    def compiling(self, position: int, path: Path) -> None:
        if ("compile", position) not in self.numbers:
            job = self.hub.submit_compile_job(str(path), self.device, name=path.stem, options=self.compile_options)
            self._note("compile", position, job)

    def profiling(self, number: int, position: int, path: Path) -> None:
        if ("profile", number) in self.numbers:
            return
        model = self._finished("compile", position, path).get_target_model()
        options = {"name": path.stem, "options": self.profile_options, "profile": True}
        self._note("profile", number, self.hub.submit_inference_job(model, self.device, **options))

    def profile(self, number: int, path: Path) -> dict[str, Any]:
        if number not in self.profiles:
            told = self._finished("profile", number, path).download_profile()
            summary = told["execution_summary"]
            times = list(summary.get("all_inference_times") or [summary["estimated_inference_time"]])
            units = Counter(str(layer["compute_unit"]) for layer in told["execution_detail"])
            record = {"kind": "hub_profile", "number": number, "microseconds": times, "units": dict(units)}
            self.journal.append(record)
            self.profiles[number] = record
        return self.profiles[number]

    def _note(self, step: str, number: int, job: Any) -> None:
        self.numbers[step, number] = job.job_id
        self.journal.append({"kind": "hub_job", "step": step, "number": number, "job": job.job_id})

    def _finished(self, step: str, number: int, path: Path) -> Any:
        job = self.hub.get_job(self.numbers[step, number])
        status = job.wait()
        if not status.success:
            raise ProfileError(
                f"network `{path}`: AI Hub could not {step} it: {_cleared(status.message or status.code)}",
                f"see job {job.job_id} there",
            )
        return job


def _measurement(name: str, profile: dict[str, Any]) -> Measurement:
    times = [microseconds * 1e-3 for microseconds in profile["microseconds"]]
    if not times or min(times) <= 0:
        raise ProfileError(f"network `{name}`: AI Hub timed nothing: {len(times)} runs", "build again")
    low, quarter, median, three_quarters, high = (float(value) for value in np.percentile(times, [5, 25, 50, 75, 95]))
    iqr = three_quarters - quarter
    return Measurement(
        name=name,
        ms=statistics.median(times),
        statistic="median",
        iqr_ms=iqr,
        p5_ms=low,
        p95_ms=high,
        min_ms=min(times),
        runs=len(times),
        rounds=1,
        round_spread=0.0,
        clock="device",
        clean_share=1.0,
        steady=is_steady(iqr, 0.0, median),
    )


def _library() -> Any:
    try:
        import qai_hub
    except ImportError as error:
        raise RuntimeMissingError("AI Hub's client library `qai_hub` is not installed", ACCOUNT) from error
    return qai_hub


def _device(hub: Any, name: str) -> Any:
    """The device of this name, in its newest version.

    Raises:
        AddressError: No name was given.
        UnknownNameError: There is none.
    """
    if not name:
        raise AddressError("target `aihub:`: expected a device's name behind the colon", "`qai-hub list-devices`")
    found = hub.get_devices(name=name)
    if not found:
        raise UnknownNameError("device of AI Hub", name, sorted({device.name for device in hub.get_devices()}))
    return found[-1]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The library's errors as ours, and what it prints kept off the terminal."""
    hub = _library()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except hub.UserError as error:
        text = _cleared(str(error))
        if "configuration" in text:
            raise RuntimeMissingError(f"AI Hub: {text}", ACCOUNT) from None
        raise TransportError(f"AI Hub refuses: {text}", "finished jobs are kept: build again") from None
    except hub.Error as error:
        raise TransportError(f"AI Hub: {_cleared(str(error))}", "finished jobs are kept: build again") from None


def _cleared(text: str) -> str:
    """The first line of a message, without what follows the word token."""
    return _TOKEN.sub(r"\1...", next(iter(text.strip().splitlines()), "no reason given"))
