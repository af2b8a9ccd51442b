"""A phone made of recordings, behind the fake `adb` of `recorded_device/`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded_device"
CLASSES = (
    (range(4), "0xd05", 124, 1803000),
    (range(4, 6), "0xd0b", 427, 2253000),
    (range(6, 8), "0xd44", 1024, 2802000),
)


@dataclass
class RecordedPhone:
    """A Pixel 6 as far as it is asked; ``folder`` is its life: state, file system, and what was done to it."""

    folder: Path

    def change(self, **state: object) -> None:
        """Change what `adb` says about it."""
        path = self.folder / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **state}))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def repeats(self) -> int:
        return int((self.lines("visits") or ["0"])[0])

    def set_limit(self, khz: int) -> None:
        """Limit the clock of its fastest cores."""
        for core in (6, 7):
            for name in ("scaling_max_freq", "scaling_cur_freq"):
                (self.folder / f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}").write_text(f"{khz}\n")


def make_phone(folder: Path, monkeypatch: pytest.MonkeyPatch, serial: str) -> RecordedPhone:
    """Plug in a phone: from now on `adb` on the path is the fake one."""
    folder.mkdir()
    phone = RecordedPhone(folder)
    phone.write("state.json", json.dumps({"phones": {serial: "device"}}))
    phone.write("thermal", "0\n")
    phone.write("battery", "284\n")
    phone.write(
        "properties",
        "ro.product.model=Pixel 6\nro.product.device=oriole\nro.soc.model=GS101\nro.product.cpu.abi=arm64-v8a\n"
        "ro.build.fingerprint=google/oriole/oriole:14/AP2A.240805.005/12025142:user/release-keys\n",
    )
    (folder / "data/local/tmp").mkdir(parents=True)
    (folder / "proc").mkdir()
    blocks = []
    for numbers, part, capacity, khz in CLASSES:
        for number in numbers:
            blocks.append(f"processor\t: {number}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\n")
            clocks = folder / f"sys/devices/system/cpu/cpu{number}/cpufreq"
            clocks.mkdir(parents=True)
            (clocks.parent / "cpu_capacity").write_text(f"{capacity}\n")
            for name in ("cpuinfo_max_freq", "scaling_max_freq", "scaling_cur_freq"):
                (clocks / name).write_text(f"{khz}\n")
            (clocks / "scaling_governor").write_text("sched_pixel\n")
    phone.write("proc/cpuinfo", "\n".join(blocks))
    shutil.copytree(RECORDED / "outputs", folder / "outputs")
    monkeypatch.setenv("RECORDED_DEVICE", str(folder))
    monkeypatch.setenv("PATH", f"{RECORDED}:/usr/bin:/bin")
    return phone
