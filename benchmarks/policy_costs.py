"""What the passes of a supernet's training cost, and how many steps of a policy a budget of processor time pays for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from search_spaces import Architecture, SearchSpace, population_cost
from supernets import Supernet
from supernets.data.image_data import ImageData
from supernets.sampling import Assignment, get_policy
from supernets.sampling.complexity_aware import ComplexityAwareSampler
from supernets.sampling.levels import levels_of
from supernets.supernet import BorrowedSubnet

REPEATS = 5
WARM_UP = 3


@dataclass(frozen=True)
class PassCosts:
    """Seconds of processor time, on one thread.

    Attributes:
        network: Of a forward and backward pass, whatever the network.
        image: Per image of such a pass, whatever the network.
        mac: Per image and multiply-accumulate.
        forward_share: Of a forward pass alone, as a share of both.
        step: Of the images and the optimiser of a step.
    """

    network: float
    image: float
    mac: float
    forward_share: float
    step: float

    def __str__(self) -> str:
        return (
            f"a forward and backward pass costs {1e3 * self.network:.1f} ms, {1e3 * self.image:.2f} ms per image and"
            f" {1e9 * self.mac:.2f} ms per image and million MACs; {100 * self.forward_share:.0f} % of that a forward"
            f" pass alone; a step {1e3 * self.step:.1f} ms beside its passes"
        )

    def seconds(self, images: float, macs: int, passes: int = 1) -> float:
        """Of forward and backward passes of one network over ``images`` in all."""
        return passes * self.network + images * (self.image + macs * self.mac)


def measure_costs(space: SearchSpace, data: ImageData, batch_size: int) -> PassCosts:
    """Time passes of a network of each level, of a whole and of half a batch, and what else there is to a step."""
    supernet = Supernet(space).train()
    levels = levels_of(space)
    networks = [levels.draw(index, 1, np.random.default_rng(0))[0] for index in range(len(levels))]
    macs_n = population_cost(space, space.encode(networks)).macs
    batches = data.train_batches(batch_size, 0, 0)
    images_BCHW, labels_B = next(batches)
    images_BCHW = images_BCHW.to(memory_format=torch.channels_last)
    rows, seconds, shares = [], [], []
    for network, macs in zip(networks, macs_n.tolist(), strict=True):
        for images in (batch_size, batch_size // 2):
            both, forward = _time_passes(supernet, network, images_BCHW[:images], labels_B[:images])
            rows.append([1.0, images, images * macs])
            seconds.append(both)
            shares.append(forward / both)
    design = np.array(rows)
    scale = design.max(axis=0)
    fitted = np.maximum(np.linalg.lstsq(design / scale, np.array(seconds), rcond=None)[0] / scale, 0.0)
    step = _fastest(lambda: next(batches), WARM_UP) + _time_optimizer(supernet)
    per_pass, per_image, per_mac = fitted.tolist()
    return PassCosts(per_pass, per_image, per_mac, forward_share=float(np.median(shares)), step=step)


def steps_within(
    budget: float, costs: PassCosts, policy: str, space: SearchSpace, batch_size: int, steps_per_epoch: int, seed: int
) -> int:
    """The number of steps of a policy whose passes take ``budget`` seconds.

    Scores are made up: they decide which networks of a level come back, but hardly what they cost.
    """
    sampler = get_policy(policy).begin(space, seed, batch_size)
    luck = np.random.default_rng(seed)
    memory: dict[Architecture, int] = {}

    def macs_of(network: Architecture) -> int:
        if network not in memory:
            memory[network] = int(population_cost(space, space.encode([network])).macs[0])
        return memory[network]

    def seconds_of(assignment: Assignment) -> float:
        images = batch_size if assignment.share is None else batch_size / assignment.share.count
        return costs.seconds(images, macs_of(assignment.architecture))

    spent, step = 0.0, 0
    while spent < budget:
        if step % steps_per_epoch == 0 and isinstance(sampler, ComplexityAwareSampler):
            sampler.before_epoch(step // steps_per_epoch, 0.0, None, None, None)
        assignments = sampler.assign(step, spent / budget)
        spent += costs.step + sum(map(seconds_of, assignments))
        if sampler.learns:
            for network in [assignment.architecture for assignment in assignments]:
                sampler.observe(network, -float(luck.random()))
            for network in sampler.stale():
                spent += costs.forward_share * costs.seconds(batch_size, macs_of(network))
                sampler.observe(network, -float(luck.random()))
        step += 1
    return step


def _time_passes(
    supernet: Supernet, network: Architecture, images_BCHW: torch.Tensor, labels_B: torch.Tensor
) -> tuple[float, float]:
    """Seconds of a forward and backward pass, and of a forward pass without gradients."""

    def both() -> None:
        with supernet.borrow(network) as subnet:
            _loss(subnet, images_BCHW, labels_B).backward()  # type: ignore[no-untyped-call]

    def forward() -> None:
        with torch.no_grad(), supernet.borrow(network) as subnet:
            _loss(subnet, images_BCHW, labels_B)

    return _fastest(both, REPEATS), _fastest(forward, REPEATS)


def _loss(subnet: BorrowedSubnet, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    from supernets.training.losses import class_logits

    return F.cross_entropy(class_logits(subnet(images_BCHW)), labels_B)


def _time_optimizer(supernet: Supernet) -> float:
    from supernets.training.optimizer import make_optimizer
    from supernets.training.settings import TrainingSettings

    optimizer = make_optimizer(supernet, TrainingSettings(learning_rate=1e-9))

    def move() -> None:
        torch.nn.utils.clip_grad_norm_(supernet.parameters(), 1.0)
        optimizer.step()

    return _fastest(move, REPEATS)


def _fastest(action: Callable[[], object], repeats: int) -> float:
    """Processor time of the fastest of some repetitions, which other work on the machine disturbs least."""
    times = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        action()
        times.append(time.thread_time() - start)
    return min(times[1:])
