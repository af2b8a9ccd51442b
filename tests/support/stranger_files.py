"""Every format of file that the project reads: a good file of each, how it is made wrong, and what reads it."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nas
from latency_tables import LatencyPredictor, LatencyTable
from latency_tables.benchmark_model import RepeatSettings, parse_litert_benchmark
from latency_tables.device_runner import _rounds
from latency_tables.figures import CONDITIONS, read_figures
from latency_tables.measurement_journal import MeasurementJournal
from nas.errors import NasError
from nas.evaluation.accuracy_table import AccuracyTable
from nas.exporting import members
from nas.finishing.settings import FinishSettings
from nas.finishing.source import find_source
from nas.growth.grow import _settings as scale_settings
from nas.growth.settings import ScaleSettings
from nas.networks.resolve import resolve_network
from nas.records.trial_record import TrialRecord
from nas.report import page, sections, statistics
from nas.report.reading import read_run
from nas.runs import run as run_module
from nas.runs.folder import RunFolder, checkpoint_header
from nas.runs.front import PICKS, load_front
from nas.runs.run import Run
from nas.runs.settings_file import read_settings, toml_text
from nas.scores.correlate import read_trained
from nas.searching.resolution import resolve_settings, resume_settings
from nas.searching.settings import SearchSettings
from nas.training.request import run_settings
from nas.training.settings import TrainSettings
from search_spaces import Architecture, SingleSpace, get_space
from supernets.checkpoint import load_supernet, save_checkpoint
from supernets.data import image_index
from supernets.data.image_files import find_images
from supernets.data.mask_folder import find_masks
from supernets.features import remembered
from supernets.importing.registry import read_supernet
from supernets.supernet import Supernet
from supernets.timm_models.weight_files import beside, find_weights, read_weights
from supernets.training.log import LOG_NAME, TrainingLog
from supernets.training.settings import TrainingSettings
from supernets.training.soup import _ACCURACY, Snapshots
from tests.support import tables
from tests.support.labelled_images import write_spots
from tests.support.mutations import (
    Mutation,
    mutate_bytes,
    mutate_fields,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
)
from tests.support.onnx_networks import save_network
from tests.support.published_supernets import autoformer_tensors

SPACE = get_space("elastic-mini")
GRAPH = SPACE.lower(SPACE.largest)


class Stop(NasError):
    """Raised in place of what a reader goes on to do."""


@dataclass(frozen=True)
class Format:
    """A format of file.

    Attributes:
        name: What it is called.
        path: Where its good file stands.
        mutate: How it is made wrong.
        read: Reads it, and all that is asked of it; raises nothing but errors of ours.
    """

    name: str
    path: Path
    mutate: Mutation
    read: Callable[[], object]


def make_formats(folder: Path, patch: pytest.MonkeyPatch) -> list[Format]:
    """Good files of every format below a folder."""

    def stop(*_: object, **__: object) -> None:
        raise Stop("enough")

    patch.setenv("NAS_CACHE_DIR", str(folder / "cache"))
    patch.setattr(page, "_plotly", str)
    patch.setattr(statistics, "RESAMPLES", 4)
    patch.setattr(run_module, "describe_environment", lambda seed: {"seed": seed})
    patch.setattr(os, "fsync", lambda descriptor: None)
    patch.setattr(members, "export_subnet", stop)
    return [
        *_run_formats(folder / "search"),
        *_trained_formats(folder / "trained"),
        *_table_formats(folder / "tables"),
        *_network_formats(folder / "networks"),
        *_cache_formats(folder / "caches"),
        *_label_formats(folder / "labels"),
    ]


# -- run folders -------------------------------------------------------------------------------------------------------


def _run_formats(run: Path) -> list[Format]:
    nas.search(SPACE.name, score="capacity", evaluations=6, target="pixel6", limit_ms=3.0, output=run, seed=1)
    scale, finish = run.parent / "scale", run.parent / "finish"
    _write_settings(scale, "scale", {**ScaleSettings(network="asvit/seed", up_to="30ms").recorded()})
    (scale / "trials.jsonl").write_bytes((run / "trials.jsonl").read_bytes())
    training = {"training": TrainingSettings(epochs=1).to_dict(), "architecture": SPACE.smallest.to_dict()}
    card = {"latency": {}, "sources": ["pixel6"], "source_model": {"name": "m", "weights": "w", "license": "l"}}
    finished = {
        **FinishSettings(data="digits").recorded(),
        **training,
        "space": SPACE.name,
        "card": card,
        "digest": "0",
    }
    _write_settings(finish, "finish", finished)
    (run / "running.jsonl").write_bytes((run / "trials.jsonl").read_bytes())
    document = json.loads((run / "front.json").read_text())
    many = {
        **document,
        "limits": {"latency:pixel6": {"upper": 3.0}, "params": {"upper": 1e6, "lower": 1.0}},
        "fronts": {"pixel6": document["front"]},
        "settled": document["front"][0],
        "verified": {"number": 0, "test_accuracy": 0.5, "latency": document["front"][0]["latency"], "warnings": ["w"]},
        "training": {"steps": 1, "seconds": 2.0},
        "model": {"name": "m", "weights": "w", "license": "l"},
        "formats": {"knee": {"number": 0, "files": {"onnx": {"file": "n.onnx", "bytes": 4, "difference": 0.0}}}},
    }
    (run / "front.json").write_text(json.dumps(many))

    def read_front() -> None:
        front = load_front(run)
        for which in (*PICKS, 0, "settled", "pixel6:knee"):
            with suppress(NasError):
                member = front.pick(which)
                assert math.isfinite(member.value("latency:pixel6"))
        for read in (
            lambda: resolve_network(f"{run}:knee").graph(),
            lambda: page.render(read_run(run)),
            lambda: find_source(run, None, None),
            lambda: members.export_run(run, "knee"),
        ):
            with suppress(NasError):
                read()

    def read_trials() -> None:
        with suppress(NasError):
            page.render(read_run(run))
        for trial in TrialRecord(run).load(SPACE):
            trial.to_line()

    def read_search_settings() -> None:
        with suppress(NasError):
            resolve_network(f"{run}:knee")
        with suppress(NasError):
            members.export_run(run)
        with suppress(NasError):
            sections.sources_section(read_run(run))
        given = {"resume": True, "output": str(run), "evaluations": 8}
        resumed = resume_settings(given, RunFolder(run).settings, run)
        _ = (
            resumed.bounds,
            resumed.targets,
            resumed.known_quantities,
            resumed.to_repeat(),
            toml_text(resumed.recorded()),
        )
        with Run(run, None, resume=True) as opened:
            opened.update_settings({"evaluations": 8})

    def read_environment() -> None:
        with suppress(NasError):
            sections.sources_section(read_run(run))
        with Run(run, None, resume=True):
            pass

    def read_scale_settings() -> None:
        scale_settings({"resume": True, "output": str(scale)})

    def read_finish_settings() -> None:
        recorded = RunFolder(finish)
        _ = recorded.architecture, recorded.command, recorded.checkpoint
        for read in (
            lambda: find_source(finish, None, None),
            lambda: members.export_run(finish),
            lambda: recorded.classes,
        ):
            with suppress(NasError):
                read()
        FinishSettings.from_record(recorded.settings)
        TrainingSettings.from_dict(recorded.settings["training"])

    options = {"learning_rate": 1e-3, "batch_size": 4}
    lines = "".join(f"{line}\n" for line in (run / "settings.toml").read_text().splitlines() if "score" not in line)
    more = toml_text({"data": "digits", "policy": "sandwich", "limits": {"params": 1e6}, "options": options})
    (run / "config.toml").write_text(lines + more)
    training = toml_text(
        {"space": SPACE.name, "data": "digits", "epochs": 2, "validate": ["smallest"], "options": options}
    )
    (run / "train.toml").write_text(training)
    return [
        Format("front.json", run / "front.json", mutate_json, read_front),
        Format("trials.jsonl", run / "trials.jsonl", mutate_lines, read_trials),
        Format("running.jsonl", run / "running.jsonl", mutate_lines, read_trials),
        Format("settings of a search", run / "settings.json", mutate_json, read_search_settings),
        Format("settings of a growth", scale / "settings.json", mutate_json, read_scale_settings),
        Format("settings of a finish", finish / "settings.json", mutate_json, read_finish_settings),
        Format("environment.json", run / "environment.json", mutate_json, read_environment),
        Format("lease", run / "lease", mutate_bytes, read_environment),
        Format(
            "--config of a search",
            run / "config.toml",
            mutate_fields,
            lambda: resolve_settings(read_settings(run / "config.toml", SearchSettings)),
        ),
        Format(
            "--config of a training",
            run / "train.toml",
            mutate_fields,
            lambda: run_settings(read_settings(run / "train.toml", TrainSettings)),
        ),
    ]


def _trained_formats(run: Path) -> list[Format]:
    space = SingleSpace(SPACE, SPACE.smallest)
    supernet = Supernet(space)
    metadata: Any = {
        "schema": 1,
        "space": SPACE.name,
        "version": SPACE.version,
        "classes": space.classes,
        "architecture": SPACE.smallest.to_dict(),
        "step": 1,
        "total_steps": 2,
        "data": {"source": "digits", "digest": "0", "image_side": 32, "classes": 10},
        "settings": TrainingSettings(epochs=1).to_dict(),
        "training": {"seconds": 1.0},
    }
    checkpoint = run / "checkpoints" / "supernet.safetensors"
    save_checkpoint(checkpoint, supernet, {"step": torch.zeros(1)}, metadata)
    recorded = TrainSettings(SPACE.name, "digits", arch=SPACE.smallest.to_json(), epochs=1).recorded()
    _write_settings(run, "train", recorded)
    log = TrainingLog(run)
    log.begin()
    for step in range(4):
        log.add({"step": step, "loss": 1.5})
    soup = run / "soup" / "step-000000001.safetensors"
    soup.parent.mkdir()
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, soup, {_ACCURACY: "0.5"})
    return [
        Format(
            "checkpoint", checkpoint, mutate_safetensors, lambda: (load_supernet(checkpoint), RunFolder(run).classes)
        ),
        Format(
            "header of a checkpoint",
            checkpoint,
            mutate_safetensors,
            lambda: int(checkpoint_header(checkpoint)["classes"]),
        ),
        Format(
            "settings of a training",
            run / "settings.json",
            mutate_json,
            lambda: (resolve_network(str(run)), run_settings({"resume": True, "output": str(run)})),
        ),
        Format("training.jsonl", run / LOG_NAME, mutate_lines, lambda: log.rewind(2)),
        Format(
            "checkpoint of a soup",
            soup,
            mutate_safetensors,
            lambda: [each.load() for each in Snapshots(soup.parent, lambda supernet: 0.0).ingredients()],
        ),
        *_export_formats(run / "export", supernet),
    ]


def _export_formats(export: Path, supernet: Supernet) -> list[Format]:
    from safetensors.torch import save_file

    from nas.exporting.formats.checkpoint import make_checkpoint

    shipped = make_checkpoint(supernet.space, SPACE.smallest, supernet.extract(SPACE.smallest), {})
    export.mkdir()
    save_file(dict(shipped.state), export / "model.safetensors")
    (export / "config.json").write_text(
        json.dumps({"schema": 1, "space": SPACE.name, **shipped.entries, "trained": True})
    )
    torch.save({"state_dict": {"weight": torch.ones(2, 2)}, "epoch": 3}, export / "weights.pth")
    published = export.parent / "supernet.pth"
    torch.save({"model": autoformer_tensors(64, 3, 1, 2, 4)}, published)

    def read_export() -> None:
        module = nas.load(export)
        with torch.no_grad():
            module(module.preprocess(torch.zeros(1, 3, 16, 16)))

    def read_folder() -> None:
        beside(find_weights(export), "config.json")

    return [
        Format("config.json of an export", export / "config.json", mutate_json, read_export),
        Format("weights of an export", export / "model.safetensors", mutate_safetensors, read_export),
        Format("config.json beside weights", export / "config.json", mutate_json, read_folder),
        Format(
            "safetensors weights",
            export / "model.safetensors",
            mutate_safetensors,
            lambda: read_weights(export / "model.safetensors"),
        ),
        Format("published supernet", published, mutate_bytes, lambda: read_supernet(published)),
        Format("pickled weights", export / "weights.pth", mutate_bytes, lambda: read_weights(export / "weights.pth")),
    ]


def _write_settings(run: Path, command: str, recorded: dict[str, Any]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "settings.json").write_text(json.dumps({"schema": 1, "command": command, **recorded}))


# -- tables, figures and journals --------------------------------------------------------------------------------------


def _table_formats(folder: Path) -> list[Format]:
    folder.mkdir()
    table, figures, accuracies = folder / "table.json", folder / "figures.csv", folder / "accuracies.csv"
    journal, benchmark = folder / "journal.jsonl", folder / "benchmark.json"
    LatencyTable.from_dict(tables.document(), "table").save(table)
    head = "model,latency_ms,family,input_px,macs_m,source,device,processor,runtime,precision,threads"
    rows = [f"elastic/T{row},{row}.5,f{row},224,{row}00,s,d,p,r,fp32,1" for row in range(1, 5)]
    figures.write_text("\n".join([head, *rows, ""]))
    names = ("smallest", "largest")
    rows = [f"elastic-mini/{name},{80 + place}.5" for place, name in enumerate(names)]
    rows += [f"elastic/{name},{70 + place}.5" for place, name in enumerate(("T1", "T2", "S1", "S2"))]
    accuracies.write_text("\n".join(["network,accuracy", *rows, ""]))
    known = folder / "known.csv"
    known.write_text("architecture,accuracy\nS1,77.2\nT1,75.1\n")
    kept = MeasurementJournal(journal, {"device": "d"})
    for record in (
        {"kind": "facts", "governor": "performance", "celsius": 40.5},
        {"kind": "loaded", "network": "0", "provider": "CPU"},
        {"kind": "visit", "step": [0, 0], "wall_ms": [1.5, 1.25], "cpu_ms": [1.5, 1.25], "others_busy": 0.0},
        {"kind": "visit", "step": [0, 1], "wall_ms": [1.5, 1.25], "cpu_ms": [1.5, 1.25], "others_busy": 0.0},
        {"kind": "profiled", "position": 0},
        {"kind": "done", "celsius": 41.0},
    ):
        kept.append(record)
    latency = {
        name: 1.5 for name in ("num_runs", "avg_ms", "min_ms", "max_ms", "std_ms", "median_ms", "p5_ms", "p95_ms")
    }
    benchmark.write_text(json.dumps({"latency": latency, "fully_accelerated": True}))

    def read_table() -> None:
        predicted = LatencyPredictor(LatencyTable.load(table)).graph(GRAPH)
        assert all(math.isfinite(value) for value in (predicted.ms, predicted.low_ms, predicted.high_ms))

    def read_figures_file() -> None:
        found = read_figures(figures)
        assert all(0 < row.latency_ms < math.inf for row in found.rows)
        for name in CONDITIONS:
            found.condition(name, figures)

    def read_journal() -> None:
        found = MeasurementJournal(journal, {"device": "d"})
        for each in _rounds(found).values():
            each.is_complete([0, 1])
        assert all(record["position"] >= 0 for record in found.of_kind("profiled"))

    return [
        Format("latency table", table, mutate_json, read_table),
        Format("figures", figures, mutate_fields, read_figures_file),
        Format("accuracies", accuracies, mutate_fields, lambda: read_trained(accuracies)),
        Format("table of accuracies", known, mutate_fields, lambda: AccuracyTable.read(known, get_space("elastic"))),
        Format("measurement journal", journal, mutate_lines, read_journal),
        Format(
            "results of a benchmark program",
            benchmark,
            mutate_json,
            lambda: parse_litert_benchmark("", benchmark.read_text(errors="replace"), RepeatSettings()),
        ),
    ]


def _network_formats(folder: Path) -> list[Format]:
    folder.mkdir()
    architecture, network = folder / "architecture.json", folder / "network.onnx"
    architecture.write_text(get_space("elastic").named["T1"].to_json())
    save_network(network)
    return [
        Format("architecture", architecture, mutate_json, lambda: resolve_network(str(architecture)).graph()),
        Format("architecture as text", architecture, mutate_json, lambda: _from_text(architecture)),
        Format("ONNX file", network, mutate_bytes, lambda: resolve_network(str(network)).graph()),
    ]


def _from_text(path: Path) -> None:
    found = Architecture.from_json(path.read_text(errors="replace"))
    get_space(found.space).parse(found.to_dict())


def _label_formats(folder: Path) -> list[Format]:
    """Tables of labels, and masks."""
    table = write_spots(folder / "spots", 20, 8) / "labels.csv"
    lines = write_spots(folder / "lines", 20, 8) / "labels.jsonl"
    rows = [row.split(",") for row in (lines.parent / "labels.csv").read_text().split("\n")[1:]]
    said = [
        {"file": name, "labels": ["above"] * (above == "1") + ["below"] * (below == "1")} for name, above, below in rows
    ]
    lines.write_text("\n".join(map(json.dumps, said)))
    (lines.parent / "labels.csv").unlink()
    pictures, masks = write_spots(folder / "masked" / "images", 5, 8), folder / "masked" / "masks"
    masks.mkdir()
    for path in pictures.glob("*.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(masks / path.name)
    return [
        Format("table of labels", table, mutate_fields, lambda: find_images(str(table.parent)).divided(0)),
        Format("lines of labels", lines, mutate_lines, lambda: find_images(str(lines.parent)).divided(0)),
        Format("mask", masks / "0.png", mutate_bytes, lambda: find_masks(masks.parent)),
    ]


def _cache_formats(folder: Path) -> list[Format]:
    images = folder / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        (images / name / "1.png").write_bytes(b"x")
    index = image_index.index_images(images)
    cached = folder / "index.npz"
    image_index._remember(cached, index, [(name, (images / name).stat().st_mtime_ns) for name in ("", "a", "b")])
    assert image_index._remembered(cached, images) is not None
    features = folder / "features.npz"
    np.savez(features, keys=np.arange(64, dtype=np.uint8).reshape(4, 16), values=np.ones((4, 6), dtype=np.float32))
    assert len(remembered(features, 6)) == 4
    return [
        Format("remembered images", cached, _mutate_archive, lambda: image_index._remembered(cached, images)),
        Format("remembered features", features, _mutate_archive, lambda: remembered(features, 6)),
    ]


def _mutate_archive(generator: Any, contents: bytes) -> bytes:
    """A NumPy archive with an array of another shape or kind; now and then bytes alone."""
    if not generator.randrange(3):
        return mutate_bytes(generator, contents)
    with np.load(io.BytesIO(contents)) as archive:
        arrays = dict(archive)
    name = generator.choice(sorted(arrays))
    changes: list[Callable[[Any], Any]] = [
        lambda found: found.astype(np.float64) * np.nan,
        lambda found: -found.astype(np.int64),
        lambda found: found.astype(np.int64) * 2**40,
        lambda found: found[:-1],
        lambda found: found.reshape(1, -1),
        lambda found: np.array("text"),
        lambda found: np.zeros(0),
        lambda found: np.uint64(2**64 - 1),
        lambda found: np.concatenate([found, found]),
    ]
    arrays[name] = generator.choice(changes)(arrays[name])
    if not generator.randrange(5):
        del arrays[name]
    file = io.BytesIO()
    np.savez(file, **arrays)
    data = file.getvalue()
    if not generator.randrange(5):  # a shape that claims more than there is
        data = data.replace(b"'shape': (2,)", b"'shape': (9000000000000,)"[:13])
    return data
