"""The README of an exported network: what it says of weights, latency, licence, formats and preparation."""

from __future__ import annotations

from typing import Any

import yaml

from nas.exporting.model_card import model_card

PROOF: dict[str, Any] = {"onnx_difference": 1.25e-7, "images": 8}
USAGE = "import nas\n"


def config(**changes: Any) -> dict[str, Any]:
    return {
        "space": "elastic-mini",
        "architecture": {"choices": {"input.side": 32, "stem.width": 16}},
        "network": {"input_side": 32, "model": "vit_tiny_patch16_224"},
        "image": {"load_side": 32},
        "requires": {"torch": "2.9"},
        "made_with": {"torch": "2.14.1"},
        "params": 1_234_567,
        "macs": 89_012_345,
        "trained": False,
        **changes,
    }


def test_random_weights_are_said_to_be_random() -> None:
    card = model_card(config(), PROOF, USAGE)
    assert "---\n# A network of the search space `elastic-mini`\n> [!WARNING]\n" in card
    assert "| parameters | 1.235 M |\n| MACs | 89.01 M |\n| weights | random |\n" in card
    assert "| ONNX against PyTorch | 1.2e-07 of the logits' range, 8 images |" in card
    assert "Images: RGB, 32 x 32 pixels, batch 1 in the ONNX file. Load at 32 x 32.\n" in card
    assert "```python\nimport nas\n```" in card
    assert card.endswith("| choice | value |\n| --- | ---: |\n| `input.side` | 32 |\n| `stem.width` | 16 |\n")


def test_the_packages_that_are_needed_are_named() -> None:
    card = model_card(config(), PROOF, USAGE)
    assert "Needs `pip install 'torch>=2.9' safetensors`; made with torch 2.14.1.\n" in card
    both = config(requires={"torch": "2.9", "timm": "1.0.23"}, made_with={"torch": "2.14.1", "timm": "1.0.31"})
    line = "Needs `pip install 'torch>=2.9' 'timm>=1.0.23' safetensors`; made with torch 2.14.1 and timm 1.0.31.\n"
    assert line in model_card(both, PROOF, USAGE)


def test_trained_weights_have_data_latency_and_its_kind() -> None:
    latency = {
        "pixel6": {"ms": 12.345, "low_ms": 11, "high_ms": 14.567, "kind": "calibrated", "extrapolated": True},
        "local": {"ms": 2, "low_ms": 1.9, "high_ms": 2.1, "kind": "measured"},
    }
    card = model_card(
        config(trained=True, latency=latency, data={"source": "photos"}, sources=["pixel6: by others"]), PROOF, USAGE
    )
    assert "WARNING" not in card
    assert "| weights | trained |" in card
    assert "| latency on `pixel6` | 11 to 14.6 ms (calibrated; no network like it is behind the table) |" in card
    assert "| latency on `local` | 2 ms (1.9 to 2.1, measured) |" in card
    assert "| data | `photos` |\n| latency source | pixel6: by others |" in card


def test_timm_networks_tell_hubs_the_library_and_the_licence() -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    source = {"name": name, "weights": "pretrained", "license": "Apache-2.0"}
    known: dict[str, Any] = {"data": {"source": "photos"}, "objectives": {"accuracy": 0.5}, "test_accuracy": 0.75}
    timm = config(pretrained_cfg={}, subnet={"choices": {"depth": 3}}, source_model=source, **known)
    card = model_card(timm, PROOF, USAGE)
    front, _, rest = card.removeprefix("---\n").partition("---\n")
    facts = yaml.safe_load(front)
    (model,) = facts.pop("model-index")
    assert facts == {
        "base_model": f"timm/{name}",
        "library_name": "timm",
        "license": "apache-2.0",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm"],
    }
    (result,) = model["results"]
    assert (result["dataset"]["name"], result["dataset"]["split"]) == ("photos", "test")
    assert (result["metrics"][0]["type"], result["metrics"][0]["value"]) == ("accuracy", 0.75)
    assert rest.startswith("# A network inside the timm model `vit_tiny_patch16_224`\n")
    assert f"| source model | `{name}`, weights: pretrained |" in rest
    assert rest.endswith("| `depth` | 3 |\n")
    unknown = model_card({**timm, "source_model": {**source, "license": None}}, PROOF, USAGE)
    assert "license:" not in unknown
    assert yaml.safe_load(_front_of({**timm, "source_model": {**source, "license": "our own"}}))["license"] == "other"
    own = yaml.safe_load(_front_of({**timm, "source_model": {**source, "weights": "theirs.pth"}}))
    assert "base_model" not in own
    assert "model-index" not in yaml.safe_load(_front_of(config()))
    assert "| licence of the source weights | not known here; ask whoever gave the weights |" in unknown


def _front_of(known: dict[str, Any]) -> str:
    return model_card(known, PROOF, USAGE).split("---\n")[1]


def test_several_formats_are_compared() -> None:
    formats = {
        "onnx": {"file": "model.onnx", "bytes": 4_000_000, "difference": 1e-7, "accuracy": 0.9, "images": 50,
                 "part": "never trained on"},
        "onnx-int8": {"file": "int8.onnx", "bytes": 1_000_000, "difference": 0.02, "latency": {"ms": 3.456},
                      "delegate": {"nodes": 7, "all_nodes": 9}, "verdict": "slower"},
    }  # fmt: skip
    card = model_card(config(), {**PROOF, "formats": formats}, USAGE)
    assert "| `model.onnx` | onnx | 4.00 MB | 1.0e-07 | 90.00% |  |  |" in card
    assert "| `int8.onnx` | onnx-int8 | 1.00 MB | 2.0e-02 |  | 3.46 ms | 7 of 9 operators |" in card
    assert "Accuracy: on 50 images, never trained on. `onnx-int8` is slower." in card
    assert "logits differ" not in model_card(config(), {**PROOF, "formats": {"onnx": formats["onnx"]}}, USAGE)


def test_images_are_prepared_in_the_order_that_is_told() -> None:
    image = {"load_side": 224, "crop_share": 0.875, "mean": [0.5, 0.25, 0.125], "std": [0.2, 0.2, 0.2]}
    card = model_card(config(image=image, network={"input_side": 160}), PROOF, USAGE)
    assert (
        "Resize the shorter side to 256, crop the middle 224 x 224, subtract (0.5, 0.25, 0.125) and divide by"
        " (0.2, 0.2, 0.2), resize bicubically without anti-aliasing."
    ) in card
