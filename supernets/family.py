"""What a supernet must know about a family of networks: its modules and the axes of their tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, BlockSpec, SearchSpace, SearchSpaceError, get_space
from supernets.errors import SupernetError


class NetworkFamily(ABC):
    """Modules and axes of one family of networks; specs are of the family's own classes.

    A new family gives what is abstract here; the other methods say what is special about some families.
    """

    source_file: str
    """Path of the module file that travels beside exported weights."""

    class_name: str
    """The network's class in that file."""

    has_patch_classifier = False
    """Whether `training_form` can give the networks a classifier of patches."""

    @abstractmethod
    def build_block(self, spec: Any) -> nn.Module:
        """The ordinary module of one block."""

    @abstractmethod
    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network; it has ``block_names`` and ``input_side``."""

    @abstractmethod
    def axes(self, spec: Any) -> Mapping[str, str]:
        """The axis description of every parameter and persistent buffer of a block (see `supernets.axes`)."""

    @abstractmethod
    def sizes(self, spec: Any) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""

    @abstractmethod
    def prepare(self, x_BCHW: Any, input_side: int) -> Any:
        """Images to the side that the network computes on."""

    def begin(self, network: nn.Module) -> None:  # noqa: B027 most need nothing
        """Change the initial weights of a space's shared network in place, where ordinary ones would not do."""

    def map_side(self, head: Any) -> int | None:
        """Side of the map that goes into a network's last block; None where no map does."""
        return None

    def is_spared(self, spec: Any, name: str) -> bool:
        """Whether the family's paper trains a parameter of a block without weight decay.

        Biases and other one-dimensional tensors have none in any case.
        """
        return False

    def layers(self, space: SearchSpace, network: nn.Module) -> Mapping[str, int]:
        """Number of the layer that each parameter of a space's shared network is in, by name; 0 is next to the images.

        Layer-wise decay of the learning rate goes by these numbers; here every block is a layer.

        Args:
            space: The space.
            network: Module of the space's shared blocks.
        """
        return {
            f"{block}.{name}": number
            for number, (block, _) in enumerate(space.shared_blocks())
            for name, _ in network.get_submodule(block).named_parameters()
        }

    def is_training_only(self, name: str) -> bool:
        """Whether a shared tensor is of no use but to train on, as a classifier of patches is."""
        return False

    def training_form(
        self, space: SearchSpace, image_side: int | None, drop_path: float, patch_classifier: bool
    ) -> SearchSpace:
        """The space as it is trained, where that is not the space itself; see the function `training_form`.

        Raises:
            SearchSpaceError: The family has no such form.
        """
        raise SearchSpaceError(
            f"space `{space.name}` has neither stochastic depth nor a patch classifier nor another image side"
        )

    def laid_out(self, space: SearchSpace, layout: str) -> SearchSpace:
        """The space with the same networks, whose supernet lays its tensors out as somebody else does.

        Args:
            space: The space.
            layout: What a checkpoint calls the layout.

        Raises:
            SearchSpaceError: The family knows no such layout.
        """
        raise SearchSpaceError(f"space `{space.name}` has no layout `{layout}` of shared tensors")

    def fit_weights(self, weights: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
        """The weights of a network for its form that computes on other images or is trained otherwise.

        Args:
            weights: The ``state_dict`` of the same architecture.
            network: The module that is to take them.

        Returns:
            A complete ``state_dict`` for ``network``.

        Raises:
            SupernetError: The weights are those of another network.
        """
        return weights

    def deployed_config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The description of a network as it is deployed, from that of one as it is trained, see `deploy`."""
        return config

    def deploy(self, network: nn.Module) -> nn.Module:
        """The network as it is deployed, which computes the same in evaluation mode.

        Op graphs are of this form. It is the network itself but where layers are folded into others.
        """
        return network


_families: dict[type[SearchSpace], NetworkFamily] = {}


def register_family(space_type: type[SearchSpace], family: NetworkFamily) -> None:
    """Say which family builds the networks of a kind of space."""
    _families[space_type] = family


def family_of(space: SearchSpace) -> NetworkFamily:
    """The family that builds the networks of ``space``.

    Raises:
        SupernetError: None is registered.
    """
    for space_type in type(space.base).__mro__:
        if space_type in _families:
            return _families[space_type]
    raise SupernetError(
        f"space `{space.name}` has no network family",
        hint="register one with `supernets.register_family`",
    )


def training_form(
    space: SearchSpace, *, image_side: int | None = None, drop_path: float = 0.0, patch_classifier: bool = False
) -> SearchSpace:
    """The space with the same architectures, as it is trained; the space itself where nothing differs.

    Args:
        space: The space of a supernet, or of one network alone.
        image_side: Side of the image in pixels; the space's own where None.
        drop_path: Stochastic depth of the last layer. It grows from 0 over the layers of the network alone, or over
            those of the largest one, whose rates a subnet's layers have, too.
        patch_classifier: Whether networks in training mode return `supernets.token_logits.TokenLogits`.

    Raises:
        SearchSpaceError: The family has no such form.
        ArchitectureError: The image's side is no multiple of what the networks reduce it by.
    """
    if image_side in (None, space.image_side) and not drop_path and not patch_classifier:
        return space
    return family_of(space).training_form(space, image_side, drop_path, patch_classifier)


def network_config(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """The JSON-ready description from which the family's network class builds the architecture."""
    input_side = space.input_shape(dict(architecture.settings))[-1]
    return blocks_config(input_side, space.classes, space.blocks(architecture))


def blocks_config(input_side: int, classes: int, blocks: Iterable[tuple[str, BlockSpec]]) -> dict[str, Any]:
    """The JSON-ready description of a network with these blocks."""
    return {
        "input_side": input_side,
        "classes": classes,
        "blocks": [
            {"name": name, "kind": type(spec).__name__, **asdict(spec)}  # type: ignore[call-overload]
            for name, spec in blocks
        ],
    }


def classifier_tensors(space: SearchSpace) -> list[str]:
    """Names of the tensors of a space of one network whose shapes follow the number of classes."""
    assert space.architecture is not None, "a space of one"
    with torch.device("meta"):
        shapes = [
            {name: tensor.shape for name, tensor in build_network(each, space.architecture).state_dict().items()}
            for each in (get_space(space.name, space.classes), get_space(space.name, space.classes + 1))
        ]
    return [name for name, shape in shapes[0].items() if shapes[1][name] != shape]


def build_network(space: SearchSpace, architecture: Architecture) -> nn.Module:
    """A freshly initialised ordinary module of ``architecture``, on the current default device."""
    return family_of(space).build_network(network_config(space, architecture))
