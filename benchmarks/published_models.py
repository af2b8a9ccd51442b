"""The files behind `nas pick`: timm's published accuracies, and what every such model computes at its size of images.

    python benchmarks/published_models.py results-imagenet.csv [--journal graphs.jsonl] [--most 100] [--write]

``results-imagenet.csv`` is timm's own table (https://github.com/huggingface/pytorch-image-models, folder ``results``,
Apache-2.0): the columns model, img_size and top1 are read. Each model is built on the meta device, so no weights are
downloaded, and traced by `latency_tables.trace`. The models that are most accurate for their size come first; what was
traced stands in the journal, and a run that was stopped goes on. Without ``--write`` the files are only compared with
those that are there. Prints how many models have been traced, and the time that a trace takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import timm

from latency_tables.errors import LatencyError
from latency_tables.kernels import fuse
from latency_tables.runtimes.registry import RUNTIMES
from nas.errors import UsageError
from nas.networks.named import timm_network
from nas.objectives.pareto import pareto_ranks
from nas.picking.packed_graphs import GraphPacker, unpack
from nas.picking.published import ACCURACIES, COLUMNS, FOLDER, GRAPHS
from search_spaces import Op, OpGraph
from search_spaces.errors import NasError
from supernets.timm_models import chain_of

HEADER = """\
# Top-1 accuracy on the 50,000 validation images of ImageNet-1k, as timm {version} publishes it
# (results/results-imagenet.csv of https://github.com/huggingface/pytorch-image-models, Ross Wightman, Apache-2.0).
# Licences of weights are those of timm's configurations. `graph` is a number in graphs.npz.
# Made by benchmarks/published_models.py.
"""
Form = tuple[str, int]
"""A model without the tag of its weights, and the side of its images."""


def main() -> None:
    """Trace, pack, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--journal", type=Path, default=Path("graphs.jsonl"))
    parser.add_argument("--most", type=int, help="models to trace in this run")
    parser.add_argument("--write", action="store_true", help="write the files of the package")
    arguments = parser.parse_args()
    with arguments.results.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if is_wanted(row["model"])]
    known = trace_all(rows, arguments.journal, arguments.most)
    traced = {form: entry for form, entry in known.items() if entry["ops"]}
    print(f"{len(traced)} of {len({form_of(row) for row in rows})} models are traced")
    print(f"{np.mean([entry['seconds'] for entry in known.values()]):.1f} s each")
    folder = FOLDER if arguments.write else arguments.journal.parent
    pack(rows, traced, folder)
    if not arguments.write:
        same = [(folder / name).read_bytes() == (FOLDER / name).read_bytes() for name in (ACCURACIES, GRAPHS)]
        print(f"accuracies {'as' if same[0] else 'others than'} shipped, graphs {'as' if same[1] else 'others than'}")


def is_wanted(model: str) -> bool:
    """Whether timm knows the model, and has it for users rather than for its own tests."""
    return timm.is_model(model) and not model.startswith("test_")


def form_of(row: Mapping[str, str]) -> Form:
    """What is traced for a row."""
    return row["model"].partition(".")[0], int(row["img_size"])


def trace_all(rows: list[dict[str, str]], journal: Path, most: int | None) -> dict[Form, dict[str, Any]]:
    """The journal's entries, after tracing what it lacks."""
    known: dict[Form, dict[str, Any]] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            known[entry["model"], entry["side"]] = entry
    size_n = [np.log(float(row["param_count"].replace(",", "")) * int(row["img_size"]) ** 2) for row in rows]
    ranks_n = pareto_ranks(np.array([[-float(row["top1"]), size] for row, size in zip(rows, size_n, strict=True)]))
    left = {form_of(rows[place]): rows[place]["model"] for place in np.argsort(ranks_n, kind="stable")[::-1]}
    with journal.open("a", encoding="utf-8") as file:
        for form, name in [item for item in reversed(left.items()) if item[0] not in known][:most]:
            started = time.perf_counter()
            ops: list[Any] = []
            try:
                ops = [astuple(op) for op in timm_network(name, form[1]).graph().blocks[0][1]]
            except (LatencyError, UsageError) as error:
                print(f"{name}: {error}")
            entry = {"model": form[0], "side": form[1], "ops": ops, "searchable": is_searchable(form[0])}
            known[form] = json.loads(json.dumps({**entry, "seconds": time.perf_counter() - started}))
            file.write(json.dumps(known[form]) + "\n")
            file.flush()
    return known


def is_searchable(model: str) -> bool:
    """Whether `nas search --model` takes it."""
    try:
        chain_of(model)
    except NasError:
        return False
    return True


def pack(rows: list[dict[str, str]], traced: Mapping[Form, Mapping[str, Any]], folder: Path) -> None:
    """Write both files, once every runtime is seen to make the same kernels of packed graphs."""
    packer, numbers, graphs = GraphPacker(), {}, {}
    for form, entry in traced.items():
        ops = tuple(Op(*(_tuples(field) for field in fields)) for fields in entry["ops"])
        graph = OpGraph([("model", ops)], (3, form[1], form[1]))
        numbers[form] = packer.add(graph)
        graphs[numbers[form]] = graph
    with (folder / GRAPHS).open("wb") as file:
        np.savez_compressed(file, **packer.arrays())
    for number, packed in enumerate(unpack(folder / GRAPHS)):
        for fusion in {runtime.fusion for runtime in RUNTIMES.values()}:
            whole = [kernel.key for kernel in fuse(graphs[number].blocks[0][1], fusion)]
            blocks = [tuple(packed.ops())] if fusion.is_int8 else [ops for _, ops in packed.blocks]
            parts = [kernel.key for ops in blocks for kernel in fuse(ops, fusion)]
            assert whole == parts, (number, fusion.name)
    with (folder / ACCURACIES).open("w", encoding="utf-8", newline="\n") as file:
        file.write(HEADER.format(version=timm.__version__))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in sorted(rows, key=lambda row: (-float(row["top1"]), row["model"])):
            form = form_of(row)
            if form in numbers:
                licence = timm.get_pretrained_cfg(row["model"]).license or "unknown"
                is_elastic = int(traced[form]["searchable"])
                writer.writerow([row["model"], form[1], row["top1"], licence, is_elastic, numbers[form]])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
