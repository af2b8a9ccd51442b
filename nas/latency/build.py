"""Latency tables measured by their user: this machine's is built on first use, others on request.

A build works in a folder of its own in the cache, named after its settings: exported networks, a journal, and
profiles. Killed at any moment and started again, it goes on where it was; when the table is written, the folder goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.errors import TableError, TableMissingError
from latency_tables.evidence import Evidence, group_of
from latency_tables.table import LatencyTable
from latency_tables.targets import BROWSER, LOCAL, load_target, staleness, user_table_path
from nas.errors import UsageError
from nas.events import Progress, StageProgress, ignore
from nas.latency.request import BuildRequest, extended, networks_of
from nas.records.files import write_failed
from search_spaces import SearchSpace
from search_spaces.files import cache_dir

if TYPE_CHECKING:
    from latency_tables.build import SampledNetwork
    from latency_tables.runtimes import Runtime
    from nas.latency.sample import Sample
    from nas.latency.write_networks import ExportJob

FEWEST_NETWORKS = 6


def ensure_target(target: str, space: SearchSpace, progress: Progress = ignore) -> LatencyTable:
    """The table of a target; that of this machine is built where it is missing, outdated or has not seen the space.

    Raises:
        UnknownNameError: There is no such target.
        TableError: The target's file is broken.
        BusyMachineError: This machine is too busy to be measured.
    """
    device, _, precision = target.partition("@")
    if device != LOCAL:
        return load_target(target)
    return ensure_groups([group_of(space)], _titled(progress), precision or "fp32")


def ensure_groups(groups: Sequence[str], progress: Progress = ignore, precision: str = "fp32") -> LatencyTable:
    """The table of this machine, built where it is missing, outdated or has not seen all of these groups of networks.

    Raises:
        TableError: The table's file is broken.
        BusyMachineError: This machine is too busy to be measured.
    """
    from latency_tables.runtimes import name_in_precision

    table = None
    with contextlib.suppress(TableMissingError):
        table = load_target(f"{LOCAL}@{precision}")
    if table is not None and not staleness(table) and set(groups) <= set(Evidence.of(table).groups):
        return table
    request = replace(extended(table, groups), runtime=name_in_precision("onnxruntime", precision))
    return build(request, progress).in_precision(precision)


def build(request: BuildRequest, progress: Progress = ignore) -> LatencyTable:
    """Measure networks on a device and keep the fitted table.

    Args:
        request: What to measure, where, and with what.
        progress: Receives `nas.events.StageProgress`.

    Raises:
        BusyMachineError: The device is too busy, or too warm, to be measured.
        RuntimeMissingError: The runtime is not installed, here or on the device.
        ProfileError: A network cannot be converted, or does not compute there what it computes here.
        TransportError: The device cannot be reached; what was measured so far is kept.
        UnknownNameError: There is no such group or runtime.
        UsageError: The settings make no sense together.
    """
    from latency_tables.runtimes import get_runtime

    request = request.completed()
    _check(request)
    runtime = get_runtime("onnxruntime" if request.is_cloud else request.runtime)
    folder = cache_dir() / "builds" / f"{_safe(request.name)}-{_fingerprint(request)}"
    try:
        with _alone(LOCAL if request.is_here else request.device):
            table = _beside_other_precisions(_build(request, runtime, folder, progress))
            table.save(user_table_path(request.name))
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        hint = "free some space, or name another folder by the variable NAS_CACHE_DIR, then build again"
        raise write_failed(folder, error, hint) from error
    return table


def _beside_other_precisions(table: LatencyTable) -> LatencyTable:
    """The table with the times that its file holds in other precisions, unless those are of another machine."""
    path = user_table_path(table.name)
    try:
        known = LatencyTable.load(path)
    except TableError:
        return table
    if (known.device, known.threads, known.runtime.version) != (table.device, table.threads, table.runtime.version):
        return table
    others = [known.in_precision(precision) for precision in known.precisions if precision != table.precision]
    first, *rest = sorted([table, *others], key=lambda each: each.precision != "fp32")
    joined = first.model_copy(update={"name": table.name, "further": ()})
    for each in rest:
        joined = joined.with_precision(each)
    return joined


def _build(request: BuildRequest, runtime: Runtime, folder: Path, progress: Progress) -> LatencyTable:
    from latency_tables.transports import open_transport

    if request.is_cloud:
        from latency_tables.aihub import require_hub_device
        from nas.latency.cloud import build_cloud_table

        require_hub_device(request.device.partition(":")[2])
        with _networks(request, runtime, folder, progress) as networks:
            return build_cloud_table(request, networks, folder, progress)
    with open_transport(request.device) as transport:
        if request.is_phone:
            from nas.latency.phone import build_phone_table

            with _networks(request, runtime, folder, progress) as networks:
                return build_phone_table(request, runtime, networks, transport, folder, progress)
        from latency_tables.build import Conditions, build_table
        from latency_tables.device_runner import DeviceRunner
        from latency_tables.measurement_journal import MeasurementJournal
        from latency_tables.repeats import QUICK

        python = runtime.python(request.python or None) if request.is_here else request.python or "python3"
        runner = DeviceRunner(runtime, transport, python, request.threads)
        facts = runner.facts()  # before minutes go into exporting
        protocol = replace(QUICK, threads=request.threads)
        identity = {name: facts[name] for name in ("host", "processor", "runtime_version")}
        settings = {**_settings(request), **identity, "protocol": asdict(protocol)}
        transport_name = "" if request.is_here else request.device
        with _networks(request, runtime, folder, progress) as networks:
            return build_table(
                networks,
                runner,
                folder,
                conditions=Conditions(request.name, request.batch, transport_name, allow_busy=request.allow_busy),
                protocol=protocol,
                journal=MeasurementJournal(folder / "journal.jsonl", settings),
                progress=lambda stage, done, total: progress(StageProgress(f"{stage} networks", done, total)),
            )


@contextlib.contextmanager
def _alone(device: str) -> Iterator[None]:
    """Keep a second build out, which would disturb this one; the lock of a process that dies is released."""
    path = cache_dir() / f"build-{_safe(device)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is measuring `{device}`", "wait for it to end") from error
        yield


@contextlib.contextmanager
def _networks(
    request: BuildRequest, runtime: Runtime, folder: Path, progress: Progress
) -> Iterator[list[SampledNetwork]]:
    """The sampled networks as files of the runtime, which are written while their op graphs are read.

    Where that disturbs nothing they are written on while the first of them are measured: on a device elsewhere, or here
    where so many cores are idle that the worker calls it quiet all the same.
    """
    from latency_tables.build import SampledNetwork
    from nas.latency.samples import latency_samples
    from nas.latency.write_networks import ExportJob, NetworkWriter, expected_outputs, spare_cores

    environment = {}
    if runtime.own_environment:
        chosen = request.python if request.is_here else ""
        environment[runtime.variable] = runtime.python(chosen or None)
    samples: list[tuple[Sample, ExportJob]] = []
    for group in request.groups:
        count = networks_of(group, request.networks)
        for number, sample in enumerate(latency_samples(group, count, request.seed)):
            path = folder / "networks" / f"{_safe(group)}-{number}{runtime.suffix}"
            samples.append((sample, ExportJob(group, count, request.seed, number, str(path), request.batch)))
    cores = spare_cores(request.threads) if request.is_here else []
    networks = []
    with NetworkWriter(runtime.name, [job for _, job in samples], environment, progress, cores) as writer:
        for sample, job in samples:
            path = Path(job.path)
            networks.append(SampledNetwork(sample.name, sample.graph, path, expected_outputs(path), writer))
            writer.look()
        if request.is_here and not cores:
            writer.finish()
        yield networks


def _check(request: BuildRequest) -> None:
    from nas.latency.samples import group_names, is_group
    from search_spaces import UnknownNameError

    for group in request.groups:
        if not is_group(group):
            raise UnknownNameError("group of networks", group, group_names())
    if len(set(request.groups)) < len(request.groups):
        raise UsageError(f"groups {', '.join(request.groups)}: found one twice, expected each once")
    if len(request.groups) * request.networks < FEWEST_NETWORKS:
        raise UsageError(
            f"{len(request.groups) * request.networks} networks, expected at least {FEWEST_NETWORKS}",
            "a table is fitted to them: 24 of each group are a good number",
        )
    if min(request.threads, request.batch) < 1:
        raise UsageError(f"{request.threads} threads and batches of {request.batch}, expected at least 1 of each")
    if request.batch > 1 and (request.is_phone or request.is_cloud):
        raise UsageError(f"batches of {request.batch}: `{request.device}` is measured with one image at a time")
    if request.is_phone and request.runtime != "litert":
        raise UsageError(f"runtime `{request.runtime}`: phones are measured with `litert`")
    if request.is_cloud:
        _check_cloud(*request.runtime.partition(":")[::2])
    if (request.device == BROWSER) != (request.runtime.partition(":")[0] == "onnxruntime-web"):
        raise UsageError(
            f"target `{request.device}` and runtime `{request.runtime}`: `onnxruntime-web` runs in browsers, and in"
            " them nothing else",
            "nas latency build --target browser",
        )
    if request.program is not None and not request.program.is_file():
        raise UsageError(f"`--program {request.program}`: no such file, expected the `benchmark_model` program")
    chosen = (request.device, request.runtime.partition("@")[0], request.threads, request.batch)
    if request.name == LOCAL and chosen != (LOCAL, "onnxruntime", 1, 1):
        raise UsageError(
            f"target `{LOCAL}` is this machine with ONNX Runtime on one thread", "choose another name with --name"
        )


def _check_cloud(target_runtime: str, unit: str) -> None:
    from latency_tables.aihub import TARGET_RUNTIMES, UNITS
    from search_spaces import UnknownNameError

    if target_runtime not in TARGET_RUNTIMES:
        raise UnknownNameError("runtime of AI Hub", target_runtime, TARGET_RUNTIMES)
    if unit and unit not in UNITS:
        raise UnknownNameError("unit of AI Hub", unit, UNITS)


def _titled(progress: Progress) -> Progress:
    """For a search, of which the table is only a part."""

    def tell(event: object) -> None:
        if isinstance(event, StageProgress):
            event = replace(event, name=f"latency table: {event.name}")
        progress(event)

    return tell


def _settings(request: BuildRequest) -> dict[str, Any]:
    """What decides which networks are measured and what their times mean."""
    chosen = asdict(request)
    names = ("groups", "device", "runtime", "threads", "networks", "seed", *(["batch"] if request.batch > 1 else []))
    return {name: chosen[name] for name in names}


def _fingerprint(request: BuildRequest) -> str:
    text = json.dumps({**_settings(request), "python": list(sys.version_info[:2])}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)
