"""The README that travels with an exported network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNTRAINED = """> [!WARNING]
> **These weights are random.** No training data was given, so this network has the right shape and cost and cannot
> tell anything apart. Train it, or search with `--data` or `--supernet`.
"""


def model_card(config: Mapping[str, Any], proof: Mapping[str, Any], module_name: str, class_name: str) -> str:
    """The text of the model card.

    Args:
        config: The content of ``config.json``.
        proof: The content of ``proof.json``.
        module_name: Name of the module file beside it, without its suffix.
        class_name: The network's class in that file.
    """
    side = config["network"]["input_side"]
    parts = [
        f"# A network of the search space `{config['space']}`",
        "" if config["trained"] else UNTRAINED,
        _table(config, proof),
        "## Use\n",
        f"Images: RGB, {side} x {side} pixels, batch 1 in the ONNX file. {_preparation(config)}\n",
        "```python\n"
        "import json\n\n"
        "from safetensors.torch import load_file\n\n"
        f"from {module_name} import {class_name}  # the file beside this one; it needs torch alone\n\n"
        f'model = {class_name}(json.load(open("config.json"))["network"]).eval()\n'
        'model.load_state_dict(load_file("model.safetensors"))\n'
        "```\n",
        'With nas installed: `nas.load("this/folder")`. In ONNX Runtime: input `image`, output `logits`.\n',
        "## Architecture\n",
        "| choice | value |\n| --- | ---: |",
        *(f"| `{name}` | {value} |" for name, value in config["architecture"]["choices"].items()),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(config: Mapping[str, Any], proof: Mapping[str, Any]) -> str:
    rows = [
        ("parameters", f"{config['params'] / 1e6:.3f} M"),
        ("MACs", f"{config['macs'] / 1e6:.2f} M"),
        ("weights", "trained" if config["trained"] else "random"),
    ]
    for target, latency in config.get("latency", {}).items():
        note = ", extrapolated" if latency.get("extrapolated") else ""
        interval = f"{latency['low_ms']:.3g} to {latency['high_ms']:.3g}"
        rows.append((f"latency on `{target}`", f"{latency['ms']:.3g} ms ({interval}, {latency['kind']}{note})"))
    rows += [("data", f"`{config['data']['source']}`")] if "data" in config else []
    rows += [("latency source", source) for source in config.get("sources", [])]
    rows.append(
        ("ONNX against PyTorch", f"{proof['onnx_difference']:.1e} of the logits' range, {proof['images']} images")
    )
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""])


def _preparation(config: Mapping[str, Any]) -> str:
    image = config["image"]
    steps = [f"Load at {image['load_side']} x {image['load_side']}"]
    if "mean" in image and "std" in image:
        steps.append(f"subtract {_numbers(image['mean'])} and divide by {_numbers(image['std'])}")
    if image["load_side"] != config["network"]["input_side"]:
        steps.append("resize bicubically without anti-aliasing")
    return ", ".join(steps) + "."


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
