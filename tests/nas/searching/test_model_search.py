"""A search inside a model of one's own: from its weights, taught by it, to the exported winner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.errors import RunError, UsageError
from nas.runs.folder import original_checkpoint
from nas.training.fine_tuning import PRETRAINED_RATE
from search_spaces import UnknownNameError
from supernets.checkpoint import load_supernet
from supernets.errors import SupernetError
from supernets.timm_models.colours import adapt_colours
from supernets.timm_models.loading import load_original, load_timm_supernet

MODEL = "vit_tiny_patch16_224?depth=2&embed_dim=48&img_size=16&num_heads=3&patch_size=4"


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timm exports it, with colours of its own."""
    import timm

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, embed_dim=48, img_size=16, num_heads=3, patch_size=4, num_classes=10
    )
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "license": "cc-by-4.0"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_weights_fit_the_colours_of_other_images(weights: Path) -> None:
    original = load_original(MODEL, weights, classes=10)
    assert (original.tells_classes, original.mean, original.license) == (True, (0.1, 0.2, 0.3), "cc-by-4.0")
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    network, given = original.supernet.network, ((0.4, 0.4, 0.4), (0.2, 0.3, 0.1))
    with torch.no_grad():
        before = network(normalised(original.mean, original.std))
        adapt_colours(original.supernet, original.first_convolution, (original.mean, original.std), given)
        after = network(normalised(*given))
    assert torch.allclose(before, after, atol=1e-4)


def test_layers_that_cannot_take_over_colours_say_so() -> None:
    supernet = load_timm_supernet("xcit_nano_12_p16_224?depth=2&img_size=32", classes=10)
    expected, given = ((0.5,) * 3, (0.5,) * 3), ((0.4,) * 3, (0.5,) * 3)
    with pytest.raises(SupernetError, match="cannot take over the difference"):
        adapt_colours(supernet, "patch_embed.proj.0.0", expected, given)


def test_classifier_for_other_classes_cannot_teach(weights: Path) -> None:
    original = load_original(MODEL, weights / "model.safetensors", classes=7)
    assert not original.tells_classes
    assert original.supernet.space.classes == 7


@pytest.mark.usefixtures("one_thread")
def test_search_export_and_resume(weights: Path, tmp_path: Path) -> None:
    question = {"model": MODEL, "weights": weights, "data": "digits", "target": "pixel6", "output": tmp_path / "run"}
    result = nas.search(**question, budget_seconds=6, evaluations=3, train="supernet")  # type: ignore[arg-type]
    document = result.document
    assert document["model"]["teaches"] is True
    assert document["model"]["license"] == "cc-by-4.0"
    assert set(document["model"]["criteria"]) >= {"embed", "head", "hidden"}
    assert document["space"].startswith("timm:vit_tiny_patch16_224?")
    assert 0 <= document["verified"]["original_test_accuracy"] <= 1
    config = json.loads((result.run / document["verified"]["export"] / "config.json").read_text(encoding="utf-8"))
    page = result.report().read_text(encoding="utf-8")
    assert "From the model to the file" in page
    assert "cc-by-4.0" in page
    assert config["source_model"] == {"name": MODEL, "weights": weights.name, "license": "cc-by-4.0"}

    original, _ = load_supernet(original_checkpoint(result.run))
    assert original.space.name == document["space"]
    again = nas.search(output=result.run, resume=True, evaluations=5)
    assert len((result.run / "trials.jsonl").read_text(encoding="utf-8").splitlines()) >= 3
    assert again.document["training"]["steps"] == document["training"]["steps"]
    with pytest.raises(RunError, match="`model` was"):
        nas.search(model="vit_small_patch16_224", data="digits", output=result.run, resume=True)


@pytest.mark.usefixtures("one_thread")
def test_the_supernet_is_trained_as_it_was_asked_for(weights: Path, tmp_path: Path) -> None:
    asked = {"policy": "sandwich", "options": {"low_rank": 2, "batch_size": 16}}
    question = {"model": MODEL, "weights": weights, "data": "digits", "output": tmp_path / "run", **asked}
    result = nas.search(**question, budget_seconds=4, evaluations=1)  # type: ignore[arg-type]
    trained, metadata = load_supernet(result.run / result.document["training"]["checkpoint"])
    found = metadata["settings"]
    assert (found["policy"], found["low_rank"], found["batch_size"]) == ("sandwich", 2, 16)
    assert found["learning_rate"] == PRETRAINED_RATE
    original, _ = load_supernet(original_checkpoint(result.run))
    before, after = original.state_dict(), trained.state_dict()
    changes = [(after[name] - before[name]).flatten(1) for name in before if name.endswith("attn.qkv.weight")]
    assert len(changes) == 2
    assert [int(torch.linalg.matrix_rank(change.double(), rtol=1e-4)) for change in changes] == [2, 2]

    again = nas.search(output=result.run, resume=True, evaluations=2)
    assert again.document["training"]["steps"] == result.document["training"]["steps"]
    with pytest.raises(RunError, match="`policy` was 'sandwich'"):
        nas.search(output=result.run, resume=True, policy="uniform")


def test_questions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for given, message in (
        ({"model": MODEL}, "without images"),
        ({"weights": "random", "data": "digits"}, "`weights` without `model`"),
        ({"model": MODEL, "data": "digits", "space": "elastic"}, "both `model` and `space`"),
        ({"policy": "uniform"}, "`policy` given, but nothing is trained"),
        (
            {"options": {"low_rank": 4}, "supernet": "nowhere", "space": "elastic-mini"},
            "training settings given, but nothing is trained",
        ),
        ({"data": "digits", "options": {"low_rank": 4}, "space": "elastic-mini"}, "the weights are random"),
        ({"data": "digits", "options": {"low_rang": 4}}, "setting `low_rang`: not known"),
        ({"data": "digits", "space": "elastic-mini", "options": {"teachers": ("resnet10",)}}, "teacher `resnet10`"),
        ({"data": "digits", "policy": "sandwitch"}, "sandwitch"),
    ):
        with pytest.raises((UsageError, UnknownNameError), match=message):
            nas.search(**given, output=tmp_path / "run")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
