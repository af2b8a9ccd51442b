"""What model hubs read of an exported network: the block of YAML that its README begins with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nas.exporting.formats.checkpoint import is_loaded_by_timm
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION
from nas.runs.settings import WITHOUT_LABELS
from search_spaces.timm_models import HUB
from supernets.timm_models.loading import PRETRAINED

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""What a licence is called on the hub; any other text is the name of another licence."""


def front_matter(config: Mapping[str, Any]) -> str:
    """The block, with the lines around it.

    Args:
        config: The content of ``config.json``.
    """
    from huggingface_hub import ModelCardData

    task = "image-feature-extraction" if config.get("labels") == WITHOUT_LABELS else "image-classification"
    found = ModelCardData(
        base_model=_base_model(config),
        eval_results=_results(config, task),
        library_name="timm" if is_loaded_by_timm(config) else None,
        model_name=config["network"].get("model") or config["space"],
        pipeline_tag=task,
        tags=[task, "timm"] if is_loaded_by_timm(config) else [task],
        **_licence(config),
    )
    return f"---\n{found.to_yaml()}\n---"


def _base_model(config: Mapping[str, Any]) -> str | None:
    """Where the trained weights that the network came out of lie on the hub; None where they are from elsewhere."""
    import timm

    source = config.get("source_model") or {}
    name = str(source.get("name", ""))
    if name.startswith(HUB):
        return name.partition(":")[2].partition("?")[0]
    known = timm.get_pretrained_cfg(name.partition("?")[0], allow_unregistered=True) if name else None
    if known is None or source.get("weights") != PRETRAINED:
        return None
    return known.hf_hub_id or None


def _licence(config: Mapping[str, Any]) -> dict[str, Any]:
    text = (config.get("source_model") or {}).get("license")
    if not text:
        return {}
    known = text.lower()
    return {"license": known} if LICENCE.fullmatch(known) else {"license": "other", "license_name": text}


def _results(config: Mapping[str, Any], task: str) -> list[Any] | None:
    """Accuracy on the test part, or else on the part that the search judged networks by."""
    from huggingface_hub import EvalResult

    data = config.get("data", {}).get("source")
    figure = AVERAGE_PRECISION if config.get("activation") == "sigmoid" else ACCURACY
    accuracy = {"test": config.get(f"test_{figure}"), "search": config.get("objectives", {}).get(figure)}
    part = next((part for part, value in accuracy.items() if value is not None), None)
    if data is None or part is None:
        return None
    return [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^\w-]+", "-", data).strip("-").lower() or "images",
            dataset_name=data,
            dataset_split=part,
            metric_type=figure,
            metric_name=f"{figure.replace('_', ' ')} on the {part} part",
            metric_value=accuracy[part],
        )
    ]
