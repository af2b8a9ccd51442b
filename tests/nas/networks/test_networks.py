"""Networks by name: every form that is understood, and what is said about all else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nas.errors import RunError, UsageError
from nas.networks.resolve import resolve_network
from search_spaces import get_space
from search_spaces.errors import ArchitectureError, UnknownNameError
from supernets.checkpoint import SCHEMA


def write_run(folder: Path, **settings: object) -> Path:
    space = get_space("elastic-mini")
    members = [
        {
            "number": number,
            "architecture": architecture.to_dict(),
            "params": 1,
            "macs": 1,
            "latency": {"t": {"ms": ms, "low_ms": ms, "high_ms": ms, "kind": "measured", "extrapolated": False}},
            "objectives": {"capacity": ms},
        }
        for number, (architecture, ms) in enumerate([(space.smallest, 1.0), (space.middle, 2.0), (space.largest, 9.0)])
    ]
    document = {
        "schema": 1,
        "space": "elastic-mini",
        "target": "t",
        "objectives": {"maximise": "capacity"},
        "evaluated": 3,
        "front": members,
        "sources": [],
    }
    folder.mkdir()
    (folder / "front.json").write_text(json.dumps(document))
    (folder / "settings.json").write_text(json.dumps({"command": "search", "space": "elastic-mini", **settings}))
    return folder


def test_a_published_architecture() -> None:
    network = resolve_network("elastic/M")
    assert (network.name, network.input_shape, network.onnx_path) == ("elastic/M", (3, 224, 224), None)
    assert network.graph() is network.graph()
    assert network.build is not None
    assert sum(parameter.numel() for parameter in network.build().parameters()) == network.graph().params


def test_an_architecture_as_text_and_in_a_file(tmp_path: Path) -> None:
    architecture = get_space("elastic-mini").middle
    (tmp_path / "mine.json").write_text(architecture.to_json())
    text, file = resolve_network(architecture.to_json()), resolve_network(str(tmp_path / "mine.json"))
    assert text.architecture == file.architecture == architecture
    assert file.name == "mine"
    with pytest.raises(UsageError, match="cannot be read"):
        resolve_network(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ArchitectureError, match=r"bad\.json.*expected a JSON object"):
        resolve_network(str(tmp_path / "bad.json"))


def test_a_run_and_its_members(tmp_path: Path) -> None:
    run, space = write_run(tmp_path / "run"), get_space("elastic-mini")
    assert resolve_network(f"{run}:best").architecture == space.largest
    assert resolve_network(f"{run}:0").architecture == space.smallest
    assert resolve_network(str(run)).name == f"{run}:knee"
    with pytest.raises(UsageError, match="no network `7`"):
        resolve_network(f"{run}:7")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match=r"no `front\.json`"):
        resolve_network(str(tmp_path / "other"))


def write_checkpoint(run: Path, classes: int) -> None:
    metadata: dict[str, object] = {"schema": SCHEMA, "space": "elastic-mini", "version": 1, "classes": classes}
    metadata |= {"step": 1, "total_steps": 1, "data": {}, "settings": {}, "training": {}}
    (run / "checkpoints").mkdir()
    file = run / "checkpoints" / "supernet.safetensors"
    save_file({"x": np.zeros(1)}, file, {"nas.supernet": json.dumps(metadata)})


def test_a_trained_run_has_the_classes_of_its_images(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data="images")
    write_checkpoint(run, classes=37)
    classifier = list(resolve_network(str(run)).graph().ops())[-1]
    assert classifier.output_shape == (37,)


def test_the_network_of_a_training(tmp_path: Path) -> None:
    architecture = get_space("elastic-mini").middle
    settings = {"command": "train", "space": "elastic-mini", "data": "images", "architecture": architecture.to_dict()}
    run = write_run(tmp_path / "run", **settings)
    write_checkpoint(run, classes=37)
    network = resolve_network(str(run))
    assert (network.name, network.architecture) == (str(run), architecture)
    assert list(network.graph().ops())[-1].output_shape == (37,)
    with pytest.raises(UsageError, match="found pick `knee`"):
        resolve_network(f"{run}:knee")


def test_a_supernet_is_no_network(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", command="train", data="images", architecture=None)
    with pytest.raises(UsageError, match="holds a supernet, expected one network"):
        resolve_network(str(run))


def test_a_timm_model_and_its_image_side() -> None:
    assert resolve_network("timm/mobilenetv3_small_050").input_shape == (3, 224, 224)
    network = resolve_network("mobilenetv3_small_050", image_side=128)
    assert network.input_shape == (3, 128, 128)
    assert next(network.graph().ops()).output_shape == (16, 64, 64)
    assert network.build is not None
    assert sum(parameter.numel() for parameter in network.build().parameters()) == network.graph().params


def test_a_transformer_is_built_for_the_image_side() -> None:
    patch = next(resolve_network("vit_tiny_patch16_224", image_side=96).graph().ops())
    assert patch.output_shape == (192, 6, 6)


def test_a_fixed_network_takes_no_other_image() -> None:
    assert resolve_network("elastic/M", 224).name == "elastic/M"
    with pytest.raises(UsageError, match="image side 96, expected 224"):
        resolve_network("elastic/M", 96)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mobilenetv3_large_10", "did you mean `mobilenetv3"),
        ("elastic/X", "known: "),
        ("zzzzqqqq", "expected `space/name`"),
    ],
)
def test_unknown_names_get_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_network(text)
    assert hint in caught.value.hint
