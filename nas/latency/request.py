"""What a latency table is to be built of: networks, device, runtime and settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from latency_tables.evidence import Evidence
from latency_tables.table import LatencyTable
from latency_tables.targets import BROWSER, LOCAL
from nas.errors import UsageError
from nas.latency.sample import BROAD

LONGEST_NAME = 200
"""Letters of a target's name, which is that of its file."""

_RUNTIMES = {"adb": "litert", BROWSER: "onnxruntime-web", "aihub": "onnx"}

NETWORKS_PER_SPACE = 12
"""On first use; they suffice for an error of 2 % on `elastic-mini`. Writing the files takes most of the time."""
BROAD_NETWORKS = 24
"""The fewest networks of `broad`, so that there are several of each kind."""


@dataclass(frozen=True)
class BuildRequest:
    """A table to build.

    Attributes:
        groups: Groups of networks to measure (`nas.latency.samples.group_names`).
        device: ``local``, ``browser``, ``ssh:user@host[:port]``, ``adb:SERIAL`` or ``aihub:DEVICE``.
        runtime: Name of a runtime (`latency_tables.runtimes`), with its provider behind a colon where it is not the
            first, and its precision behind ``@`` where that is not fp32; empty takes ONNX Runtime, its build for
            browsers in one, and LiteRT on a phone. For AI Hub it is what networks are compiled to, with the unit to run
            on behind a colon.
        threads: Threads that compute.
        networks: Networks to measure of each group, a space's smallest and largest among them.
        name: Name of the target; empty derives it from device, runtime and threads.
        python: The Python on the device that has the runtime; empty takes the one that has it here, ``python3`` there.
        program: The ``benchmark_model`` program on this machine, for a phone.
        seed: Seed of the sample.
        allow_busy: Whether to accept that other programs run all the time; the table then says so.
        batch: Images in a batch; latency is that of a whole batch.
    """

    groups: tuple[str, ...]
    device: str = LOCAL
    runtime: str = ""
    threads: int = 1
    networks: int = NETWORKS_PER_SPACE
    name: str = ""
    python: str = ""
    program: Path | None = None
    seed: int = 0
    allow_busy: bool = False
    batch: int = 1

    @property
    def is_phone(self) -> bool:
        """Whether the device is reached over adb."""
        return self.device.partition(":")[0] == "adb"

    @property
    def is_cloud(self) -> bool:
        """Whether the device is one of Qualcomm AI Hub."""
        return self.device.partition(":")[0] == "aihub"

    @property
    def is_here(self) -> bool:
        """Whether the device is this machine, or a browser on it."""
        return self.device in (LOCAL, BROWSER)

    def completed(self) -> BuildRequest:
        """The same request with everything spelt out that it left open."""
        runtime = self.runtime or default_runtime(self.device)
        return replace(self, runtime=runtime, name=self.name or self._default_name(runtime))

    def _default_name(self, runtime: str) -> str:
        kind, _, address = self.device.partition(":")
        base = kind if kind in (LOCAL, BROWSER) else address.rpartition("@")[2].partition(":")[0] or kind
        if kind == "aihub":
            base = re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-") or kind
        words = runtime.partition("@")[0].split(":")
        if words[0] == default_runtime(self.device) and kind != "adb":
            del words[0]
        parts = [base, *words, *([] if self.threads == 1 else [f"{self.threads}-threads"])]
        if self.batch > 1:
            parts.append(f"batch-{self.batch}")
        return "-".join(parts)


def networks_of(group: str, networks: int) -> int:
    """How many networks of a group are measured where ``networks`` of each are asked for."""
    return max(networks, BROAD_NETWORKS) if group == BROAD else networks


def extended(table: LatencyTable | None, groups: Iterable[str]) -> BuildRequest:
    """The table of this machine with further groups: all are measured in one session, as many networks as before.

    Args:
        table: The table as it is; None where there is none.
        groups: Groups that it must cover.
    """
    known = {} if table is None else Evidence.of(table).groups
    networks = max([NETWORKS_PER_SPACE, *(count for group, count in known.items() if group != BROAD)])
    return BuildRequest(tuple(sorted({*known, *groups})), networks=networks)


def check_name(name: str) -> None:
    """Make sure that a target can have this name.

    Raises:
        UsageError: It cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", name) or len(name) > LONGEST_NAME:
        raise UsageError(
            f"target name `{name}`: expected letters, digits, `.`, `_` and `-`, in parts separated by `/`,"
            f" {LONGEST_NAME} at most",
            "for example `--name my-phone`",
        )


def default_runtime(device: str) -> str:
    """The runtime that a device is measured with where nobody names one."""
    return _RUNTIMES.get(device.partition(":")[0], "onnxruntime")
