"""Shared weights of a whole search space, and subnets that borrow views of them.

The shared tensors are those of the space's largest network, an ordinary module. A subnet's blocks are ordinary
modules too, built once per size on the meta device and run with `torch.func.functional_call` on narrowed views of the
shared tensors. So the largest subnet is that network, the active subnet is the extracted one, and a step costs what
the subnet costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search_spaces import Architecture, BlockSpec, SearchSpace, SingleSpace
from supernets.axes import Narrowing, make_narrowing
from supernets.errors import SupernetError
from supernets.family import NetworkFamily, family_of, network_config


@dataclass(frozen=True)
class BlockPlan:
    """How one block of a subnet borrows from the block of the largest network that stands in its place.

    Attributes:
        module: The block on the meta device, shared by every subnet that has a block of this size.
        parameters: Narrowing of each parameter by name.
        buffers: Narrowing of each persistent buffer by name.
        constants: Buffers that belong to the size and are not shared, for example position indices.
    """

    module: nn.Module
    parameters: dict[str, Narrowing]
    buffers: dict[str, Narrowing]
    constants: dict[str, Tensor]


@dataclass(frozen=True)
class _Block:
    plan: BlockPlan
    tensors: dict[str, Tensor]


class BorrowedSubnet:
    """A subnet that runs on borrowed tensors; call it with images ``(B, 3, H, W)`` for logits ``(B, classes)``."""

    def __init__(self, family: NetworkFamily, blocks: list[_Block], input_side: int, training: bool) -> None:
        self._family = family
        self._blocks = blocks
        self._input_side = input_side
        self._training = training

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Run the subnet in the mode (training or evaluation) that the supernet had when it was borrowed."""
        x: Tensor = self._family.prepare(x_BCHW, self._input_side)
        for block in self._blocks:
            module = block.plan.module
            if module.training != self._training:
                module.train(self._training)
            x = functional_call(module, block.tensors, (x,), tie_weights=False)
        return x


class Supernet(nn.Module):
    """The shared tensors of a search space as one module.

    Args:
        space: The search space, made for the right number of classes.
        seed: Of the initial weights.
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.family = family_of(space)
        self._largest_blocks = dict(space.blocks(space.largest))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self.family.build_network(network_config(space, space.largest))

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
            _Block(plan, {name: narrowing.narrow(shared) for name, shared, narrowing in self._shared(block, plan)})
            for block, plan in self._plans(architecture)
        ]
        return self._subnet(architecture, blocks)(x_BCHW)

    @contextmanager
    def borrow(self, architecture: Architecture, coarseness: int = 1) -> Iterator[BorrowedSubnet]:
        """The subnet of ``architecture`` on detached leaves, the cheap way to train.

        Gradients that ``backward`` leaves in them are added to the shared tensors' ``grad`` when the context ends
        without an error. Running statistics are views and change in place.

        Args:
            architecture: A valid architecture of the space.
            coarseness: How much further apart than usual patches are, see `SearchSpace.coarse_blocks`.
        """
        leaves: list[tuple[Tensor, Tensor, Narrowing]] = []
        blocks: list[_Block] = []
        for block, plan in self._plans(architecture, coarseness):
            tensors = {}
            for name, shared, narrowing in self._shared(block, plan):
                tensors[name] = narrowing.narrow(shared.detach())
                if isinstance(shared, nn.Parameter) and shared.requires_grad:
                    tensors[name].requires_grad_()
                    leaves.append((shared, tensors[name], narrowing))
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
            for block, plan in self._plans(architecture)
            for name, shared, narrowing in self._shared(block, plan, constants=False)
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
        return BorrowedSubnet(self.family, blocks, input_side, self.training)

    def _plans(self, architecture: Architecture, coarseness: int = 1) -> Iterator[tuple[str, BlockPlan]]:
        if architecture.space != self.space.name:
            raise SupernetError(f"architecture of space `{architecture.space}`, expected one of `{self.space.name}`")
        if isinstance(self.space, SingleSpace) and architecture != self.space.architecture:
            raise SupernetError(
                f"these are the weights of one network of `{self.space.name}`, found another architecture",
                hint=f"train a supernet with `nas train --space {self.space.name}`",
            )
        for name, spec in self.space.coarse_blocks(architecture, coarseness):
            yield name, _plan_block(self.family, self._largest_blocks[name], spec)

    def _shared(self, block: str, plan: BlockPlan, constants: bool = True) -> Iterator[tuple[str, Tensor, Narrowing]]:
        shared_block = self.network.get_submodule(block)
        for name, narrowing in plan.parameters.items():
            yield name, shared_block.get_parameter(name), narrowing
        for name, narrowing in plan.buffers.items():
            yield name, shared_block.get_buffer(name), narrowing
        if constants:
            for name, constant in plan.constants.items():
                whole = make_narrowing(" ".join("." * constant.ndim), tuple(constant.shape), {}, {})
                yield name, constant.to(self.device), whole


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
    )
