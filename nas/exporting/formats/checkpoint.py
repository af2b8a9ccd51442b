"""What the checkpoint of an exported network consists of, for networks of ours and for those inside timm models.

A network inside a timm model whose blocks are all of one size is a plain timm model: its ``config.json`` is timm's, our
facts stand beside timm's, and ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it. Any other network
travels with ``timm_subnet.py``, one file that needs torch and timm alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas.errors import UsageError
from nas.exporting.formats.base import ExportFormat
from search_spaces import Architecture, SearchSpace, get_space
from search_spaces.timm_models import PREFIX, TimmSpace
from supernets import family_of, network_config

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A network as it is shipped.

    Attributes:
        entries: Entries of ``config.json`` that say how to build it.
        state: Its tensors by the names that they are shipped under.
        module_file: The module file beside them; None where timm itself builds the network.
        usage: Python code that loads it, for the model card.
    """

    entries: Mapping[str, Any]
    state: Mapping[str, Tensor]
    module_file: Path | None
    usage: str

    @property
    def is_plain_timm(self) -> bool:
        """Whether timm builds the network from the folder, without any file of ours."""
        return self.module_file is None


class TimmFolder(ExportFormat):
    """``timm``: what every export of a network inside a timm model is."""

    name = "timm"
    any_batch = True

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Refuse networks of other spaces."""
        super().check(space, is_trained)
        if not space.name.startswith(f"{PREFIX}:"):
            raise UsageError(
                f"format `{self.name}`: networks of `{space.name}` are not timm models",
                hint="leave it out; every export holds a checkpoint that torch alone loads",
            )


class CheckpointFormat(ExportFormat):
    """``checkpoint``: weights and what builds the network, which every export holds."""

    name = "checkpoint"
    any_batch = True


def make_checkpoint(
    space: SearchSpace, architecture: Architecture, network: nn.Module, image: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint of one network.

    Args:
        space: The space that it belongs to, or the space of it alone.
        architecture: The network.
        network: Its module as it is deployed, on the CPU.
        image: What is known of its images: ``mean``, ``std``, ``class_names``, ``crop_share``.
    """
    if isinstance(space.base, TimmSpace):
        return _timm_checkpoint(space.base, architecture, network, image)
    family = family_of(space)
    module_file = Path(family.source_file)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    config = family.deployed_config(network_config(space, architecture))
    entries = {"architecture": architecture.to_dict(), "network": config}
    return Checkpoint(entries, state, module_file, _own_usage(module_file.stem, family.class_name))


def build_shipped(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The module that ``config.json`` describes, with the shipped tensors.

    Raises:
        KeyError, TypeError: The description is damaged.
        RuntimeError, ValueError: Tensors and description do not fit.
    """
    import torch

    if "subnet" in config:
        from supernets.networks.timm_subnet import build_subnet

        return build_subnet(config["network"], state)
    with torch.device("meta"):
        network = family_of(get_space(config["space"])).build_network(config["network"])
    network.load_state_dict(state, assign=True)
    return network


def needed_packages(network: Mapping[str, Any]) -> dict[str, str]:
    """The oldest releases that run a network, by package: torch as it is tested, and timm where it builds the network.

    Args:
        network: The entry ``network`` of ``config.json``.
    """
    tested = next(text for text in requires("nas-vit") or () if re.match(r"torch\b", text))
    releases = {"torch": tested.partition(">=")[2].partition(",")[0].strip()}
    return releases | ({"timm": network["timm"]} if "timm" in network else {})


def is_loaded_by_timm(config: Mapping[str, Any]) -> bool:
    """Whether ``config.json`` is one that timm understands."""
    return "pretrained_cfg" in config


def choices_of(config: Mapping[str, Any]) -> Mapping[str, int]:
    """The choices of the network that ``config.json`` describes."""
    choices: Mapping[str, int] = config.get("subnet", config.get("architecture"))["choices"]
    return choices


def _timm_checkpoint(
    space: TimmSpace, architecture: Architecture, network: nn.Module, image: Mapping[str, Any]
) -> Checkpoint:
    from supernets.networks import timm_subnet
    from supernets.timm_models.export import plain_timm_config, subnet_config, timm_state_dict

    side = space.input_shape(dict(architecture.settings))[-1]
    entries: dict[str, Any] = {
        "subnet": architecture.to_dict(),
        "network": {**subnet_config(space, architecture), "input_side": side, "classes": space.classes},
    }
    state = timm_state_dict(space, architecture, network)
    plain = plain_timm_config(space, architecture)
    if plain is None:
        return Checkpoint(entries, state, Path(timm_subnet.__file__), _SUBNET_USAGE)
    timm_entries = {**plain, "pretrained_cfg": _pretrained_config(space, side, image)}
    if image.get("class_names"):
        timm_entries["label_names"] = list(image["class_names"])
    return Checkpoint({**timm_entries, **entries}, state, None, _TIMM_USAGE)


def _pretrained_config(space: TimmSpace, side: int, image: Mapping[str, Any]) -> dict[str, Any]:
    """What timm must know of the weights; crops and colours are those that the network was trained with."""
    import timm

    from supernets.timm_models.chain import is_told_side

    known = timm.get_pretrained_cfg(space.outline.reference.name, allow_unregistered=True)
    facts = {} if known is None else known.to_dict()  # type: ignore[no-untyped-call]
    kept = {name: facts[name] for name in ("first_conv", "classifier", "license") if facts.get(name) is not None}
    colours = {name: list(image[name]) for name in ("mean", "std") if name in image}
    return {
        **kept,
        **colours,
        "input_size": [3, side, side],
        "fixed_input_size": is_told_side(space.outline.reference.name),
        "interpolation": "bicubic",
        "crop_pct": image.get("crop_share", 1.0),
        "crop_mode": "center",
        "num_classes": space.classes,
    }


def _own_usage(module: str, class_name: str) -> str:
    return (
        "import json\n\n"
        "from safetensors.torch import load_file\n\n"
        f"from {module} import {class_name}  # the file beside this one; it needs torch alone\n\n"
        f'model = {class_name}(json.load(open("config.json"))["network"]).eval()\n'
        'model.load_state_dict(load_file("model.safetensors"))\n'
    )


_TIMM_USAGE = (
    'import timm\n\nmodel = timm.create_model("local-dir:this/folder", pretrained=True).eval()  # a plain timm model\n'
)
_SUBNET_USAGE = (
    "import json\n\n"
    "from safetensors.torch import load_file\n\n"
    "from timm_subnet import build_subnet  # the file beside this one; it needs torch and timm alone\n\n"
    'model = build_subnet(json.load(open("config.json"))["network"], load_file("model.safetensors"))\n'
)

TIMM, CHECKPOINT = TimmFolder(), CheckpointFormat()
