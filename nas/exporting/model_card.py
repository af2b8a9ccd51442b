"""The README that travels with an exported network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas.exporting.formats.checkpoint import choices_of
from nas.exporting.formats.names import ONNX
from nas.exporting.front_matter import front_matter
from nas.report.words import figure_of, worth_text
from nas.runs.settings import WITHOUT_LABELS

UNTRAINED = """> [!WARNING]
> **These weights are random.** No training data was given, so this network has the right shape and cost and cannot
> tell anything apart. Train it, or search with `--data` or `--supernet`.
"""


def model_card(config: Mapping[str, Any], proof: Mapping[str, Any], usage: str) -> str:
    """The text of the model card.

    Args:
        config: The content of ``config.json``.
        proof: The content of ``proof.json``.
        usage: Python code that loads the network from the folder.
    """
    side = config["network"]["input_side"]
    parts = [
        front_matter(config),
        _title(config),
        "" if config["trained"] else UNTRAINED,
        _table(config, proof),
        _formats(proof.get("formats", {})),
        "## Use\n",
        f"Images: RGB, {side} x {side} pixels, batch {_batch(proof)} in the ONNX file. {_preparation(config)}\n",
        _packages(config),
        f"```python\n{usage}```\n",
        'With nas installed: `nas.load("this/folder")`. In ONNX Runtime: input `image`, output `logits`.\n',
        "## Architecture\n",
        "| choice | value |\n| --- | ---: |",
        *(f"| `{name}` | {value} |" for name, value in choices_of(config).items()),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _title(config: Mapping[str, Any]) -> str:
    if "subnet" in config:
        return f"# A network inside the timm model `{config['network']['model']}`"
    return f"# A network of the search space `{config['space']}`"


def _table(config: Mapping[str, Any], proof: Mapping[str, Any]) -> str:
    rows = [
        ("parameters", f"{config['params'] / 1e6:.3f} M"),
        ("MACs", f"{config['macs'] / 1e6:.2f} M"),
        ("weights", "trained" if config["trained"] else "random"),
    ]
    if config.get("activation") == "sigmoid":
        rows.append(("outputs", "a logit for each label; its sigmoid is the probability that the image has that label"))
    if config.get("labels") == WITHOUT_LABELS:
        rows.append(("outputs", "the features of the whole model, as their main components; no classes"))
    for target, latency in config.get("latency", {}).items():
        interval, kind = f"{latency['low_ms']:.3g} to {latency['high_ms']:.3g}", latency["kind"]
        known = f"{latency['ms']:.3g} ms ({interval}, {kind})"
        unknown = f"{interval} ms ({kind}; no network like it is behind the table)"
        rows.append((f"latency on `{target}`", unknown if latency.get("extrapolated") else known))
    rows += [("data", f"`{config['data']['source']}`")] if "data" in config else []
    rows += _source_rows(config.get("source_model"))
    rows += [("latency source", source) for source in config.get("sources", [])]
    rows.append(
        ("ONNX against PyTorch", f"{proof['onnx_difference']:.1e} of the logits' range, {proof['images']} images")
    )
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""])


def _source_rows(source: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Where the weights began, and under which licence those were given."""
    if source is None:
        return []
    licence = source.get("license") or "not known here; ask whoever gave the weights"
    return [
        ("source model", f"`{source['name']}`, weights: {source['weights']}"),
        ("licence of the source weights", licence),
    ]


def _formats(formats: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of all files that run; accuracy and latency stand there where they were measured."""
    if len(formats) < 2:
        return ""
    rows = [
        "| file | format | size | logits differ by | accuracy | latency, measured | delegated |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, entry in formats.items():
        cells = [f"{entry['bytes'] / 1e6:.2f} MB", f"{entry['difference']:.1e}", *_measured(entry), _delegated(entry)]
        rows.append(f"| `{entry['file']}` | {name} | {' | '.join(cells)} |")
    notes = [f"`{name}` is {entry['verdict']}." for name, entry in formats.items() if "verdict" in entry]
    judged = next((entry for entry in formats.values() if "part" in entry), None)
    part = ""
    if judged is not None:
        part = f" {figure_of(judged)}: on {judged['images']} images, {judged['part']}."
    text = f"Differences are shares of the range of the logits.{part} {' '.join(notes)}".strip()
    return "\n".join([*rows, "", text, ""])


def _measured(entry: Mapping[str, Any]) -> tuple[str, str]:
    latency = entry.get("latency")
    return worth_text(entry), "" if latency is None else f"{latency['ms']:.3g} ms"


def _delegated(entry: Mapping[str, Any]) -> str:
    delegate = entry.get("delegate")
    return "" if delegate is None else f"{delegate['nodes']} of {delegate['all_nodes']} operators"


def _packages(config: Mapping[str, Any]) -> str:
    """What must be installed, and what the network was made with."""
    needed = " ".join(f"'{name}>={release}'" for name, release in config["requires"].items())
    made = " and ".join(f"{name} {release}" for name, release in config["made_with"].items())
    return f"Needs `pip install {needed} safetensors`; made with {made}.\n"


def _batch(proof: Mapping[str, Any]) -> str:
    return "of any size" if "batches" in proof.get("formats", {}).get(ONNX, {}) else "1"


def _preparation(config: Mapping[str, Any]) -> str:
    image = config["image"]
    crop = image.get("crop_share", 1.0)
    steps = [f"Load at {image['load_side']} x {image['load_side']}"]
    if crop < 1:
        whole, middle = round(image["load_side"] / crop), f"{image['load_side']} x {image['load_side']}"
        steps = [f"Resize the shorter side to {whole}", f"crop the middle {middle}"]
    if "mean" in image and "std" in image:
        steps.append(f"subtract {_numbers(image['mean'])} and divide by {_numbers(image['std'])}")
    if image["load_side"] != config["network"]["input_side"]:
        steps.append("resize bicubically without anti-aliasing")
    return ", ".join(steps) + "."


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
