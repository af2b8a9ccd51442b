"""What borrowing costs: a supernet's training step on subnets beside the same step of the extracted subnets.

Forward, loss and backward in training mode, taking turns in alternating order; medians of the ratios to the extracted
networks' own step, with the middle half of the repetitions. Two comparisons:

- single networks, drawn by the space: detached leaves (`Supernet.borrow`, what the trainer uses), and gradients through
  the narrowing (`Supernet.__call__`);
- steps of a policy that trains several networks one after the other, as `conflict-aware`: the three networks of a
  level on labels, then its smallest one on their mean outputs; one step of each complexity level. Aim: at most 1.10.

Both stand beside masks over the full supernet. What masks cost at least is the largest network once for each network of
the step, since a masked channel is computed like any other; that lower bound is measured, without the masks themselves,
the bookkeeping of which would come on top. It gives the comparison away a little in favour of masks, and the aim of at
most 0.6 of it is reached the more clearly.

    python benchmarks/supernet_step.py [--space elastic-mini] [--policy conflict-aware] [--repeats 30] [--batch 64]
    python benchmarks/supernet_step.py --space elastic --image-side 64 --batch 8 --repeats 5
    python benchmarks/supernet_step.py --space elastic --device cuda --precision bf16 --batch 96
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace, get_space
from supernets import Supernet
from supernets.sampling import Assignment, get_policy
from supernets.sampling.complexity_aware import walk
from supernets.sampling.levels import levels_of
from supernets.training.losses import ImageTargets, class_logits, supervised_loss, target_loss

Network = Callable[[Tensor], Tensor]


def main() -> None:
    """Run the benchmark and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="elastic-mini")
    parser.add_argument("--policy", default="conflict-aware")
    parser.add_argument("--architectures", type=int, default=8, help="single networks")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-side", type=int, help="of the images, before networks resize them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    space = get_space(arguments.space)
    bench = Bench(space, arguments.device, arguments.precision, arguments.batch, arguments.image_side)
    where = f"{bench.device_name}, {arguments.threads} thread(s)"
    print(f"{space.name}, batch {arguments.batch}, {arguments.precision}, {where}")
    print("step of the extracted networks, and other steps as multiples of it: median [middle half of repetitions]\n")
    drawn = space.decode(space.sample(arguments.architectures, np.random.default_rng(0)))
    singles = {str(number): (Assignment(network, "labels"),) for number, network in enumerate(drawn)}
    compare(bench, "network", singles, arguments.repeats)
    steps = policy_steps(space, arguments.policy, arguments.batch)
    compare(bench, f"{arguments.policy} step", steps, arguments.repeats)


class Bench:
    """A supernet, a batch of images, and the ways to do a step on them.

    Args:
        space: The search space.
        device: Where it runs.
        precision: Of products.
        batch: Images.
        image_side: Of the images; None takes the space's.
    """

    def __init__(self, space: SearchSpace, device: str, precision: str, batch: int, image_side: int | None) -> None:
        side = image_side or space.image_side
        self.device = torch.device(device)
        self.precision = precision
        self.supernet = Supernet(space).to(self.device).train()
        images_BCHW = torch.randn(batch, 3, side, side, device=self.device)
        self.images_BCHW = images_BCHW.to(memory_format=torch.channels_last)
        self.targets = ImageTargets(torch.randint(space.classes, (batch,), device=self.device))

    @property
    def device_name(self) -> str:
        """For people."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    def sides(self, step: Sequence[Assignment]) -> dict[str, Callable[[], None]]:
        """The ways to do the step of some assignments, the extracted networks' own first."""
        architectures = list(dict.fromkeys(assignment.architecture for assignment in step))
        extracted = {architecture: self.supernet.extract(architecture).train() for architecture in architectures}
        full = self.supernet.network

        def clear(modules: Sequence[nn.Module]) -> None:
            for module in modules:
                module.zero_grad()

        def alone() -> None:
            clear(list(extracted.values()))
            self._train(step, lambda architecture: Kept(extracted[architecture]))

        def borrowed() -> None:
            clear([self.supernet])
            self._train(step, self.supernet.borrow)

        def through() -> None:
            clear([self.supernet])
            self._train(step, lambda architecture: Kept(lambda x_BCHW: self.supernet(x_BCHW, architecture)))

        def masked() -> None:
            clear([full])
            self._train(step, lambda architecture: Kept(full))

        return {"extracted": alone, "borrowed": borrowed, "through narrowing": through, "full (masks)": masked}

    @property
    def is_single_threaded(self) -> bool:
        """Whether all work is done by the thread that asks for it."""
        return self.device.type == "cpu" and torch.get_num_threads() == 1

    def synchronise(self) -> None:
        """Wait for what was started."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _train(
        self, step: Sequence[Assignment], network: Callable[[Architecture], AbstractContextManager[Network]]
    ) -> None:
        """Forward and backward passes of a step, as the trainer does them."""
        earlier: list[Tensor] = []
        for assignment in step:
            with network(assignment.architecture) as subnet:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    output = subnet(self.images_BCHW)
                loss = target_loss(assignment.target, output, self.targets, earlier, 0.1, supervised_loss)
                (loss / len(step)).backward()  # type: ignore[no-untyped-call]
            earlier.append(class_logits(output).detach())


@dataclass
class Kept:
    """A network that needs no borrowing."""

    network: Network

    def __enter__(self) -> Network:
        return self.network

    def __exit__(self, *error: object) -> None:
        return None


def policy_steps(space: SearchSpace, policy: str, batch: int) -> dict[str, tuple[Assignment, ...]]:
    """A step of a policy at each complexity level; eight steps of one that knows no levels."""
    sampler = get_policy(policy).begin(space, 0, batch)
    levels = levels_of(space)
    if not policy.endswith("-aware"):
        return {f"step {number}": sampler.assign(number, 1.0) for number in range(8)}
    first_steps = {walk(0, step, len(levels)): step for step in reversed(range(2000))}
    return {
        f"{levels[number].lowest / 1e6:.1f} M MACs": sampler.assign(step, 0.0)
        for number, step in sorted(first_steps.items())
    }


def compare(bench: Bench, what: str, steps: Mapping[str, Sequence[Assignment]], repeats: int) -> None:
    """Print how each way to do each step compares with the extracted networks' own, and what that comes to."""
    sums: dict[str, list[np.ndarray]] = {}
    for number, (name, step) in enumerate(steps.items()):
        times = alternate(bench.sides(step), repeats, bench.synchronise, bench.is_single_threaded)
        if number == 0:
            print(f"{what:22}{'extracted':>12}" + "".join(f"{side:>26}" for side in list(times)[1:]))
        print_row(name, times)
        for side, values in times.items():
            sums.setdefault(side, []).append(values)
    total = {side: np.sum(values, axis=0) for side, values in sums.items()}
    print_row("all", total)
    ratio = np.median(total["borrowed"] / total["full (masks)"])
    print(f"borrowed, as a share of the full supernet once per network: {ratio:.2f}\n")


def print_row(name: str, times: Mapping[str, np.ndarray]) -> None:
    """Print the ratios of one step."""
    first, *others = times
    cells = []
    for side in others:
        ratios = times[side] / times[first]
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        cells.append(f"{median:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{name:22}{1e3 * np.median(times[first]):>9.1f} ms" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def alternate(
    sides: Mapping[str, Callable[[], None]], repeats: int, synchronise: Callable[[], None], is_single_threaded: bool
) -> dict[str, np.ndarray]:
    """Seconds of each side in each repetition, taking turns; the order is reversed every other time.

    On one thread of a CPU it is processor time, which other work on the machine disturbs less.
    """
    clock = time.thread_time if is_single_threaded else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    gc.disable()
    for repeat in range(repeats):
        order = list(sides.items()) if repeat % 2 else list(sides.items())[::-1]
        for name, side in order:
            synchronise()
            start = clock()
            side()
            synchronise()
            times[name].append(clock() - start)
    gc.enable()
    return {name: np.array(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
