"""What NVIDIA's driver says about a GPU: functions that run on the device, through the program `nvidia-smi`."""

from __future__ import annotations

from typing import Any


def ask_gpu(*fields: str) -> list[str] | None:
    """What the driver says of the first GPU, field by field; None where there is no driver or no GPU."""
    import subprocess

    command = ["nvidia-smi", "--id=0", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in told.stdout.strip().split(",")]
    return values if told.returncode == 0 and len(values) == len(fields) else None


def nvidia_facts(**options: Any) -> dict[str, Any]:
    """Name and driver of the GPU, or what is missing."""
    told = ask_gpu("name", "driver_version", "clocks.max.sm")
    if told is None:
        return {
            "missing": "`nvidia-smi` finds no GPU: the driver is not installed, or not loaded",
            "remedy": "install NVIDIA's driver (https://www.nvidia.com/drivers); `nvidia-smi` must list the GPU",
        }
    facts = {"accelerator": told[0], "driver": told[1]}
    return {**facts, "highest_clock_khz": int(told[2]) * 1000} if told[2].isdigit() else facts


def nvidia_state() -> dict[str, Any]:
    """Clock and temperature of the GPU, and why it runs slower than it could, where it does."""
    told = ask_gpu("clocks.sm", "temperature.gpu", "clocks_event_reasons.active")
    clock, celsius, reasons = told or ("", "", "")
    # NVML's bits. A GPU that is idle or at its power limit is in its usual state.
    names = {0x08: "hw_slowdown", 0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "hw_power_brake"}
    active = int(reasons, 16) if reasons.startswith("0x") else 0
    return {
        "clock_khz": int(clock) * 1000 if clock.isdigit() else None,
        "celsius": int(celsius) if celsius.isdigit() else None,
        "throttled": [name for bit, name in names.items() if active & bit],
        "power_limited": bool(active & 0x04),
    }


def wall_clock(run: Any, image: Any) -> tuple[int, int]:
    """Wall time of one run that ends when the result is there; a processor's time says nothing about it."""
    import time

    before = time.perf_counter_ns()
    run(image)
    passed = time.perf_counter_ns() - before
    return passed, passed
