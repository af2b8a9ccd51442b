"""Verbs on small things: what each is given, and what it leaves in its folder that no two runs may have different."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import nas
from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.runtimes import get_runtime
from latency_tables.transports import open_transport
from supernets.checkpoint import read_checkpoint
from tests.support.searches import recorded
from tests.support.sessions import SLOW, network_files

OPTIONS = {"batch_size": 16, "checkpoint_every_seconds": 0.0}
_CHANCE = ("seconds", "run", "latency", "throughput")
"""What no two runs have alike, and the folder."""


def timeless(document: Any) -> Any:
    """A document without what depends on the clock and on the folder."""
    if isinstance(document, dict):
        return {name: timeless(value) for name, value in document.items() if not any(word in name for word in _CHANCE)}
    return [timeless(value) for value in document] if isinstance(document, list) else document


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Every tensor by a digest of its bits."""
    plain = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    return {name: hashlib.sha256(value).hexdigest() for name, value in plain.items()}


def weights(path: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint by a digest of its bits, and how far it was trained."""
    found = read_checkpoint(path)
    parts = {"model": found.weights, "optimizer": found.optimizer, "average": found.averages}
    return {"step": found.metadata["step"], **{part: bits(tensors) for part, tensors in parts.items()}}


class Verb:
    """One verb on small things: what it is given, and what it leaves in its folder."""

    def __init__(self, images: Path, made: Path) -> None:
        self.images, self.made = images, made

    def __call__(self, folder: Path) -> None:
        raise NotImplementedError

    def left(self, folder: Path) -> dict[str, Any]:
        raise NotImplementedError

    def kept(self, folder: Path) -> list[Any]:
        """Records that must stay the beginning of those to come."""
        return []


class Train(Verb):
    def __call__(self, folder: Path) -> None:
        nas.train("elastic-mini", self.images, epochs=4, output=folder, resume=True, options=OPTIONS)

    def left(self, folder: Path) -> dict[str, Any]:
        document = json.loads((folder / "training.json").read_text())
        return {**timeless(document), **weights(folder / "checkpoints" / "supernet.safetensors")}


class Search(Verb):
    def __call__(self, folder: Path) -> None:
        nas.search(supernet=self.made / "supernet", target="pixel6", evaluations=30, output=folder, resume=True)

    def left(self, folder: Path) -> dict[str, Any]:
        front = json.loads((folder / "front.json").read_text())
        exported = folder / front["verified"]["export"]
        return {
            "front": timeless(front),
            "trials": recorded(folder),
            "journal": (folder / "journal.log").read_text().count("\n"),
            "export": bits(load_file(exported / "model.safetensors")),
        }

    def kept(self, folder: Path) -> list[Any]:
        trials = folder / "trials.jsonl"
        return trials.read_bytes().split(b"\n")[:-1] if trials.exists() else []


class Finish(Verb):
    def __call__(self, folder: Path) -> None:
        nas.finish(self.made / "network", epochs=4, output=folder, resume=True, options=OPTIONS)

    def left(self, folder: Path) -> dict[str, Any]:
        document = json.loads((folder / "finish.json").read_text())
        exported = folder / document["verified"]["export"]
        checkpoint = weights(folder / "checkpoints" / "supernet.safetensors")
        return {**timeless(document), **checkpoint, "export": bits(load_file(exported / "model.safetensors"))}


class Measure(Verb):
    """Times are of chance, so what is compared is the plan: each visit once, and none that was recorded is repeated."""

    def __call__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        networks = [NetworkFile(path, (1, 8, 16, 16)) for path in sorted(self.made.glob("*.onnx"))]
        journal = MeasurementJournal(folder / "journal.jsonl", {"protocol": "slow"})
        with open_transport("local") as transport:
            found = measure(DeviceRunner(get_runtime("onnxruntime"), transport), networks, SLOW, journal=journal)
        assert len(found.measurements) == len(networks)

    def left(self, folder: Path) -> dict[str, Any]:
        before = (folder / "journal.jsonl").read_bytes()
        self(folder)  # reads all of it, and measures nothing
        assert (folder / "journal.jsonl").read_bytes() == before
        visits = [json.loads(line) for line in before.splitlines()]
        return {"steps": [visit["step"] for visit in visits if visit["kind"] == "visit"]}

    def kept(self, folder: Path) -> list[Any]:
        journal = folder / "journal.jsonl"
        return journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []


def make_sources(top: Path, images: Path) -> Path:
    """A supernet, a network and files to begin with."""
    network_files(top, 3)
    nas.train("elastic-mini", images, epochs=1, output=top / "supernet", options=OPTIONS)
    nas.train(data=images, arch="elastic-mini/smallest", epochs=1, output=top / "network", options=OPTIONS)
    return top
