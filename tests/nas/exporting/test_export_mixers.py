"""Networks whose token mixers are chosen, as files: every kind runs there, with as many operations as were counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latency_tables.onnx_graph import read_onnx_graph
from nas.exporting.export import ExportRequest, export_subnet, load
from search_spaces import get_space

# two networks that have all kinds: of three stages the mixers of both layers, positions, feed-forward network and entry
NETWORKS = {
    "patch": ("pool conv cpe plain", "window shift none dw merge", "full linear none repa75 patch"),
    "overlap": ("sra pooled none repa75", "hilo shift cpe plain overlap", "window none cpe dw merge"),
}


@pytest.mark.parametrize("stem", ["overlap", pytest.param("patch", marks=pytest.mark.slow)])
def test_every_kind_is_exported(stem: str, tmp_path: Path) -> None:
    space = get_space("mixers-mini")
    values: dict[str, int | str] = {**dict(space.find("conv").settings), "stem.kind": stem, "S1.depth": 2}
    for number, stage in enumerate(NETWORKS[stem], start=1):
        names = ("mixer", "mixer_odd", "position", "ffn", "entry")
        values |= {f"S{number}.{name}": kind for name, kind in zip(names, stage.split(), strict=False)}
    architecture = space.from_values(values)
    export = export_subnet(ExportRequest(space, architecture), tmp_path / "export")
    assert export.proof["onnx_difference"] <= 1e-5
    assert export.proof["deployed_difference"] <= 1e-5
    counted, written = space.lower(architecture), read_onnx_graph(export.onnx)
    assert written.macs == counted.macs
    assert not [op.function for op in written.ops() if op.kind == "other"]
    module = load(export.folder)
    assert sum(parameter.numel() for parameter in module.parameters()) == counted.params
    assert module(torch.zeros(1, 3, 32, 32)).shape == (1, space.classes)
