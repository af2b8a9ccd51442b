"""What AI Hub's client library looks like from here: its calls that we make, and a service in a folder.

The service is ``$RECORDED_HUB``: ``state.json`` says what goes wrong, ``jobs`` notes every job. A network takes a
nanosecond for every byte of its file, and half of its layers run on the NPU.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Error(Exception):
    pass


class UserError(Error):
    pass


class InternalError(Error):
    pass


@dataclass(frozen=True)
class Device:
    name: str
    os: str


@dataclass(frozen=True)
class Status:
    success: bool
    message: str | None = None
    code: str = "FAILED"


@dataclass(frozen=True)
class Job:
    job_id: str
    source: str
    kind: str

    def wait(self) -> Status:
        sys.stdout.write("waiting, as the library does on standard output\n")
        refused = _state().get("fails")
        return Status(False, f"{refused} is not supported") if refused == self.kind else Status(True)

    def get_target_model(self) -> str:
        return self.source

    def download_profile(self) -> dict[str, Any]:
        microseconds = Path(self.source).stat().st_size / 1000
        times = [microseconds * factor for factor in (1.5, 1.0, 0.99, 1.0, 1.01)]
        layers = [
            {"name": str(number), "compute_unit": unit} for number, unit in enumerate(["NPU", "NPU", "CPU", "CPU"])
        ]
        summary = {"estimated_inference_time": round(min(times)), "all_inference_times": times}
        return {"execution_summary": summary, "execution_detail": layers}


def _state() -> dict[str, Any]:
    state: dict[str, Any] = json.loads((Path(os.environ["RECORDED_HUB"]) / "state.json").read_text())
    return state


def _jobs() -> list[dict[str, str]]:
    path = Path(os.environ["RECORDED_HUB"]) / "jobs"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _submit(kind: str, source: str, device: Device, options: str) -> Job:
    number, state = len(_jobs()), _state()
    if number == state.get("dies_after"):
        raise InternalError("Could not connect to Qualcomm AI Hub, header: token SECRET")
    job = {"job_id": f"j{number}", "source": source, "kind": kind, "options": options, "device": device.name}
    with (Path(os.environ["RECORDED_HUB"]) / "jobs").open("a") as file:
        file.write(json.dumps(job) + "\n")
    return get_job(job["job_id"])


def get_devices(name: str = "") -> list[Device]:
    if _state().get("has_no_token"):
        raise UserError("Failed to load client configuration file.\n\n.qai_hub/client.ini not found.")
    everything = [Device("Samsung Galaxy S24", "14"), Device("RB3 Gen 2 (Proxy)", "1.3")]
    return [device for device in everything if name in ("", device.name)]


def submit_compile_job(model: str, device: Device, name: str | None = None, options: str = "") -> Job:
    return _submit("compile", model, device, options)


def submit_inference_job(
    model: str, device: Device, name: str | None = None, options: str = "", profile: bool = True
) -> Job:
    return _submit("profile", model, device, options)


def get_job(job_id: str) -> Job:
    return next(Job(job_id, job["source"], job["kind"]) for job in _jobs() if job["job_id"] == job_id)
