"""What a device says about itself: make, cores and clocks, and how warm it is.

Everything is asked in one round trip and parsed here; what a device does not tell (a board has no battery, some phones
hide their clocks) is None or empty, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latency_tables.errors import LatencyError, TransportError
from latency_tables.transports.base import Transport

_CPU = "/sys/devices/system/cpu/cpu[0-9]*"
_CLOCKS = f"grep -H . {_CPU}/cpufreq/scaling_cur_freq {_CPU}/cpufreq/scaling_max_freq 2>/dev/null"
CONDITIONS_SCRIPT = f"{_CLOCKS}; dumpsys thermalservice 2>/dev/null; dumpsys battery 2>/dev/null"
"""Prints what `parse_conditions` reads. Clocks come first: they fall within milliseconds after a run."""

_PROPERTIES = ("ro.product.model", "ro.product.device", "ro.soc.model", "ro.build.fingerprint", "ro.product.cpu.abi")
_FACTS_SCRIPT = (
    f'for name in {" ".join(_PROPERTIES)}; do echo "$name=$(getprop $name 2>/dev/null)"; done;'
    ' echo "board=$(tr -d "\\000" 2>/dev/null < /proc/device-tree/model)"; echo "kernel=$(uname -srm)";'
    f" cat /proc/cpuinfo; grep -H . {_CPU}/cpu_capacity {_CPU}/cpufreq/cpuinfo_max_freq"
    f" {_CPU}/cpufreq/scaling_governor 2>/dev/null; true"
)
_SETTING = re.compile(r"cpu(?P<core>\d+)/(?:cpufreq/)?(?P<name>\w+):(?P<value>\S+)\s*$")

ARM_PARTS: Mapping[tuple[int, int], str] = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD4D): "Cortex-A715",
    (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD80): "Cortex-A520",
    (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4",
}
"""Names of cores by implementer and part number, as Arm's technical reference manuals give them; for display only."""


@dataclass(frozen=True)
class Core:
    """One core.

    Attributes:
        part: Implementer and part number, the processor's name where there are none.
        capacity: The kernel's own measure of speed, 1024 for the fastest core of a device.
        max_khz: Highest clock.
    """

    number: int
    part: str
    capacity: int | None = None
    max_khz: int | None = None
    governor: str = ""


@dataclass(frozen=True)
class DeviceFacts:
    """A device as it describes itself; texts are empty where it does not say.

    Attributes:
        name: Model of the phone or board.
        code_name: Code name of the phone, for example ``oriole``.
        build: Fingerprint of the operating system's build, or the kernel.
        abi: What programs must be made for, for example ``arm64-v8a``.
    """

    name: str
    code_name: str
    soc: str
    build: str
    abi: str
    cores: tuple[Core, ...]


@dataclass(frozen=True)
class Conditions:
    """How a device is at one moment; None where it does not say.

    Attributes:
        thermal_status: Android's: 0 is none, 1 light, 2 moderate, 3 severe throttling, and so on.
        battery_celsius: Temperature of the battery.
        battery_percent: Charge of the battery.
        clocks_khz: Current clock by core.
        limits_khz: Highest clock that is allowed now, by core.
    """

    thermal_status: int | None
    battery_celsius: float | None
    battery_percent: int | None
    clocks_khz: Mapping[int, int]
    limits_khz: Mapping[int, int]


def read_facts(transport: Transport) -> DeviceFacts:
    """Ask a device what it is.

    Raises:
        TransportError: It does not answer, or names no core.
    """
    facts = parse_facts(transport.run(["sh", "-c", _FACTS_SCRIPT], timeout=60).stdout)
    if not facts.cores:
        raise TransportError("the device names no core in /proc/cpuinfo", "is it a Linux or Android device?")
    return facts


def read_conditions(transport: Transport) -> Conditions:
    """Ask a device how warm it is.

    Raises:
        TransportError: It does not answer.
    """
    return parse_conditions(transport.run(["sh", "-c", CONDITIONS_SCRIPT], timeout=60).stdout)


def parse_facts(text: str) -> DeviceFacts:
    """Facts from what the script printed."""
    told = dict(re.findall(r"^([\w.]+)=(.*)$", text, re.MULTILINE))
    settings = _settings(text)
    cores = tuple(
        Core(
            number,
            part,
            _integer(settings.get(("cpu_capacity", number))),
            _integer(settings.get(("cpuinfo_max_freq", number))),
            settings.get(("scaling_governor", number), ""),
        )
        for number, part in _parts(text)
    )
    return DeviceFacts(
        name=told.get("ro.product.model", "") or told.get("board", ""),
        code_name=told.get("ro.product.device", ""),
        soc=told.get("ro.soc.model", ""),
        build=told.get("ro.build.fingerprint", "") or told.get("kernel", ""),
        abi=told.get("ro.product.cpu.abi", ""),
        cores=cores,
    )


def parse_conditions(text: str) -> Conditions:
    """Conditions from what `CONDITIONS_SCRIPT` printed."""
    settings = _settings(text)
    status = re.search(r"^\s*Thermal Status:\s*(\d+)", text, re.MULTILINE)
    # The first of each: behind them some makers print a log of earlier values.
    tenths = re.search(r"^\s*temperature:\s*(-?\d+)\s*$", text, re.MULTILINE)
    level = re.search(r"^\s*level:\s*(\d+)\s*$", text, re.MULTILINE)
    return Conditions(
        thermal_status=None if status is None else int(status[1]),
        battery_celsius=None if tenths is None else int(tenths[1]) / 10,
        battery_percent=None if level is None else int(level[1]),
        clocks_khz=_by_core(settings, "scaling_cur_freq"),
        limits_khz=_by_core(settings, "scaling_max_freq"),
    )


def fastest_cores(cores: Sequence[Core]) -> tuple[Core, ...]:
    """The cores of the fastest class: same part, same highest clock.

    Classes are ordered by the kernel's own measure of their capacity, or where a device does not tell, by clock.

    Raises:
        LatencyError: The cores differ and the device tells neither.
    """
    classes: dict[tuple[str, int | None], list[Core]] = {}
    for core in cores:
        classes.setdefault((core.part, core.max_khz), []).append(core)
    if len(classes) == 1:
        return tuple(cores)
    for told in ("capacity", "max_khz"):
        speeds = [min(getattr(core, told) or 0 for core in group) for group in classes.values()]
        if all(speeds) and speeds.count(max(speeds)) == 1:
            return tuple(list(classes.values())[speeds.index(max(speeds))])
    raise LatencyError(
        f"the device has cores of {len(classes)} classes ({describe_cores(cores)}) and does not tell which is fastest",
        "name the cores to measure on by a mask in hex, for example `c0` for cores 6 and 7",
    )


def affinity_mask(cores: Iterable[Core]) -> str:
    """The cores as ``taskset`` takes them: hex without 0x, bit n for core n."""
    return f"{sum(1 << core.number for core in cores):x}"


def masked_cores(cores: Sequence[Core], mask: str) -> tuple[Core, ...]:
    """The cores that a mask stands for.

    Raises:
        LatencyError: The mask is no hex number, or names none of the cores or others than these.
    """
    bits = int(mask, 16) if re.fullmatch("[0-9a-fA-F]+", mask) else 0
    chosen = tuple(core for core in cores if bits >> core.number & 1)
    if not chosen or affinity_mask(chosen) != f"{bits:x}":
        raise LatencyError(
            f"mask `{mask}`: expected hex with a bit for some of the cores {', '.join(str(c.number) for c in cores)}",
            f"`{affinity_mask(cores)}` stands for all of them",
        )
    return chosen


def core_name(part: str) -> str:
    """The name of a core's design, or its numbers where it is not a known one."""
    numbers = re.fullmatch(r"(0x[0-9a-f]+)/(0x[0-9a-f]+)", part)
    return part if numbers is None else ARM_PARTS.get((int(numbers[1], 16), int(numbers[2], 16)), part)


def describe_cores(cores: Sequence[Core]) -> str:
    """The classes of the cores in words, for example ``2 x Cortex-X1 2.80 GHz + 4 x Cortex-A55 1.80 GHz``."""
    counts: dict[tuple[str, int | None], int] = {}
    for core in cores:
        key = (core.part, core.max_khz)
        counts[key] = counts.get(key, 0) + 1
    fastest_first = sorted(counts.items(), key=lambda item: -(item[0][1] or 0))
    return " + ".join(
        f"{count} x {core_name(part)}" + (f" {khz / 1e6:.2f} GHz" if khz else "")
        for (part, khz), count in fastest_first
    )


def _parts(text: str) -> list[tuple[int, str]]:
    """Numbers and parts of the cores in /proc/cpuinfo, whose blocks each start with a ``processor`` line."""
    blocks = re.split(r"^processor\s*:\s*(\d+)\s*$", text, flags=re.MULTILINE)
    cores = []
    for number, block in zip(blocks[1::2], blocks[2::2], strict=True):
        told = dict(re.findall(r"^(CPU implementer|CPU part|model name)\s*:\s*(.*?)\s*$", block, re.MULTILINE))
        part = (
            f"{told['CPU implementer']}/{told['CPU part']}" if "CPU part" in told and "CPU implementer" in told else ""
        )
        cores.append((int(number), part or told.get("model name", "")))
    return cores


def _settings(text: str) -> dict[tuple[str, int], str]:
    matches = (_SETTING.search(line) for line in text.splitlines())
    return {(match["name"], int(match["core"])): match["value"] for match in matches if match is not None}


def _by_core(settings: Mapping[tuple[str, int], str], name: str) -> dict[int, int]:
    return {core: int(value) for (setting, core), value in settings.items() if setting == name and value.isdigit()}


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
