"""Shared weights of a whole search space, and subnets that borrow views of them.

The shared tensors are those of the space's largest network, an ordinary module; where a slot holds alternatives, those
of all of them (`SearchSpace.shared_blocks`). A subnet's blocks are ordinary modules too, built once per size on the
meta device and run on narrowed views of the shared tensors. So the largest subnet is that network, the active subnet is
the extracted one, and a step costs what the subnet costs. A tensor that no network of a step has gets no gradient.

Borrowing happens for every network of every step. Shared tensors are therefore found by the dictionaries that hold
them, and blocks take in views by theirs, which takes a fraction of the time of `torch.func.functional_call`.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, BlockSpec, SearchSpace
from supernets.axes import Narrowing
from supernets.errors import SupernetError
from supernets.family import NetworkFamily, blocks_config, family_of, network_config
from supernets.narrowing import make_narrowing

_Holder = tuple[dict[str, Any], str]
Mode = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class BlockPlan:
    """How one block of a subnet borrows from the block of the largest network that stands in its place.

    Attributes:
        module: The block on the meta device, shared by every subnet that has a block of this size.
        parameters: Narrowing of each parameter by name.
        buffers: Narrowing of each persistent buffer by name.
        constants: Buffers that belong to the size and are not shared, for example position indices.
        holders: By name of a parameter or buffer, the dictionary of the module that holds it, and its key there.
    """

    module: nn.Module
    parameters: dict[str, Narrowing]
    buffers: dict[str, Narrowing]
    constants: dict[str, Tensor]
    holders: dict[str, _Holder] = field(compare=False)

    def run(self, tensors: Mapping[str, Tensor], x: Tensor, training: bool) -> Tensor:
        """Run the block on ``tensors``, one for each parameter and buffer, in training or evaluation mode."""
        if self.module.training != training:
            self.module.train(training)
        places = [self.holders[name] for name in tensors]
        before = [holder[key] for holder, key in places]
        try:
            for (holder, key), tensor in zip(places, tensors.values(), strict=True):
                holder[key] = tensor
            output: Tensor = self.module(x)
        finally:
            for (holder, key), tensor in zip(places, before, strict=True):
                holder[key] = tensor
        return output


@dataclass(frozen=True)
class _Block:
    plan: BlockPlan
    tensors: dict[str, Tensor]


class BorrowedSubnet:
    """A subnet that runs on borrowed tensors; call it with images ``(B, 3, H, W)`` for logits ``(B, classes)``."""

    def __init__(
        self, family: NetworkFamily, blocks: list[_Block], input_side: int, training: bool, mode: Mode
    ) -> None:
        self._family, self._mode = family, mode
        self._blocks = blocks
        self._input_side = input_side
        self._training = training

    @property
    def head(self) -> nn.Module:
        """Its last block, which has the subnet's tensors while it runs."""
        return self._blocks[-1].plan.module

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Run the subnet in the mode (training or evaluation) that the supernet had when it was borrowed."""
        x: Tensor = self._family.prepare(x_BCHW, self._input_side)
        with self._mode():
            for block in self._blocks:
                x = block.plan.run(block.tensors, x, self._training)
        return x


class Supernet(nn.Module):
    """The shared tensors of a search space as one module.

    Args:
        space: The search space, made for the right number of classes.
        seed: Seed of the initial weights.

    Attributes:
        mode: What subnets run inside of, for example one that rounds numbers as integers would.
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        super().__init__()
        self.mode: Mode = nullcontext
        self.space = space
        self.family = family_of(space)
        self._shared_blocks = dict(space.shared_blocks())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            input_side = space.input_shape(dict(space.largest.settings))[-1]
            self.network = self.family.build_network(
                blocks_config(input_side, space.classes, self._shared_blocks.items())
            )
            self.family.begin(self.network)
        self._holders = {name: _holders(self.network.get_submodule(name)) for name in self._shared_blocks}

    @property
    def device(self) -> torch.device:
        """Where the shared tensors live."""
        return next(self.network.parameters()).device

    def forward(self, x_BCHW: Tensor, architecture: Architecture) -> Tensor:
        """Run the subnet of ``architecture``; gradients flow through the narrowing to the shared tensors.

        Args:
            x_BCHW: Images of any side.
            architecture: A valid architecture of the space.

        Returns:
            Logits ``(B, classes)``.
        """
        blocks = [
            _Block(
                plan, {name: narrowing.narrow(shared) for name, shared, narrowing in self.shared_tensors(block, plan)}
            )
            for block, plan in self.plans(architecture)
        ]
        return self._subnet(architecture, blocks)(x_BCHW)

    @contextmanager
    def borrow(self, architecture: Architecture, patch_stride: int = 1) -> Iterator[BorrowedSubnet]:
        """The subnet of ``architecture`` on detached leaves, the cheap way to train.

        Gradients that ``backward`` leaves in them are added to the shared tensors' ``grad`` when the context ends
        without an error. Running statistics are views and change in place.

        Args:
            architecture: A valid architecture of the space.
            patch_stride: Factor by which patches are further apart than usual, see `SearchSpace.coarse_blocks`.
        """
        leaves: list[tuple[Tensor, Tensor, Narrowing]] = []
        blocks: list[_Block] = []
        for block, plan in self.plans(architecture, patch_stride):
            tensors = {}
            for name, shared, narrowing in self.shared_tensors(block, plan):
                tensors[name] = narrowing.narrow(shared.detach())
                if shared.requires_grad:
                    leaves.append((shared, tensors[name].requires_grad_(), narrowing))
            blocks.append(_Block(plan, tensors))
        yield self._subnet(architecture, blocks)
        for shared, leaf, narrowing in leaves:
            if leaf.grad is None:
                continue
            if shared.grad is None:
                shared.grad = torch.zeros_like(shared)
            narrowing.accumulate(shared.grad, leaf.grad)

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> nn.Module:
        """The ordinary stand-alone module of ``architecture``, owning copies of its part of the shared tensors."""
        with torch.device("meta"):
            network = self.family.build_network(network_config(self.space, architecture))
        state = {
            f"{block}.{name}": narrowing.narrow(shared).clone()
            for block, plan in self.plans(architecture)
            for name, shared, narrowing in self.shared_tensors(block, plan, constants=False)
        }
        network.load_state_dict(state, assign=True)
        for parameter in network.parameters():
            parameter.requires_grad_()
        for name, buffer in list(network.named_buffers()):
            if name not in state:
                owner, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(owner), leaf, buffer.to(self.device))
        return network.train(self.training)

    def _subnet(self, architecture: Architecture, blocks: list[_Block]) -> BorrowedSubnet:
        input_side = self.space.input_shape(dict(architecture.settings))[-1]
        return BorrowedSubnet(self.family, blocks, input_side, self.training, self.mode)

    def plans(self, architecture: Architecture, patch_stride: int = 1) -> Iterator[tuple[str, BlockPlan]]:
        """The name and plan of each block of ``architecture``, in order; equal blocks have the same plan.

        Raises:
            SupernetError: The architecture is of another space, or not the one network that these weights are of.
        """
        if architecture.space != self.space.name:
            raise SupernetError(f"architecture of space `{architecture.space}`, expected one of `{self.space.name}`")
        architecture = self.space.updated(architecture)
        if self.space.architecture not in (None, architecture):
            raise SupernetError(
                f"these are the weights of one network of `{self.space.name}`, found another architecture",
                hint=f"train a supernet with `nas train --space {shlex.quote(self.space.name)}`",
            )
        for name, spec in self.space.coarse_blocks(architecture, patch_stride):
            yield name, _plan_block(self.family, self._shared_blocks[name], spec)

    def shared_tensors(
        self, block: str, plan: BlockPlan, constants: bool = True
    ) -> Iterator[tuple[str, Tensor, Narrowing]]:
        """Name, shared tensor and narrowing of all that a block borrows, and with ``constants`` its own constants."""
        holders = self._holders[block]
        for name, narrowing in itertools.chain(plan.parameters.items(), plan.buffers.items()):
            holder, key = holders[name]
            yield name, holder[key], narrowing
        if constants:
            for name, constant in plan.constants.items():
                yield name, _moved(constant, self.device), _whole(tuple(constant.shape))


@lru_cache(maxsize=8192)
def _plan_block(family: NetworkFamily, full: BlockSpec, spec: BlockSpec) -> BlockPlan:
    with torch.device("meta"):
        module, largest = family.build_block(spec), family.build_block(full)
    axes, full_sizes, sizes = family.axes(spec), family.sizes(full), family.sizes(spec)
    shapes = {name: tuple(tensor.shape) for name, tensor in largest.state_dict(keep_vars=True).items()}
    persistent = module.state_dict(keep_vars=True)
    plans = {name: make_narrowing(axes[name], shapes[name], full_sizes, sizes) for name in persistent}
    for name, tensor in persistent.items():
        if plans[name].shape != tuple(tensor.shape):
            raise SupernetError(
                f"block {spec}: axes `{axes[name]}` narrow `{name}` to {plans[name].shape}, the module has"
                f" {tuple(tensor.shape)}"
            )
    parameters = {name for name, _ in module.named_parameters()}
    return BlockPlan(
        module,
        parameters={name: plan for name, plan in plans.items() if name in parameters},
        buffers={name: plan for name, plan in plans.items() if name not in parameters},
        constants={name: buffer for name, buffer in module.named_buffers() if name not in persistent},
        holders=_holders(module),
    )


@lru_cache(maxsize=8192)
def _moved(constant: Tensor, device: torch.device) -> Tensor:
    return constant.to(device)


@lru_cache
def _whole(shape: tuple[int, ...]) -> Narrowing:
    return make_narrowing(" ".join("." * len(shape)), shape, {}, {})


def _holders(block: nn.Module) -> dict[str, _Holder]:
    """Where the parameters and buffers of a block stand; moving it to a device leaves them there."""
    found: dict[str, _Holder] = {}
    for path, module in block.named_modules():
        prefix = f"{path}." if path else ""
        for holder in (module._parameters, module._buffers):
            found.update({prefix + key: (holder, key) for key in holder})
    return found
