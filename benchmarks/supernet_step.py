"""What borrowing costs: a supernet's training step on a subnet beside the same step of the extracted subnet.

Forward, cross-entropy and backward, in training mode, alternating the two sides. Three ways of borrowing are compared:
detached leaves (`Supernet.borrow`, what the trainer uses), gradients through the narrowing (`Supernet.__call__`), and,
as the upper end, masks over the largest network would cost at least its own step.

    python benchmarks/supernet_step.py [--space elastic-mini] [--architectures 20] [--repeats 15] [--batch 64]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from search_spaces import get_space
from supernets import Supernet


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="elastic-mini")
    parser.add_argument("--architectures", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    space = get_space(arguments.space)
    supernet = Supernet(space).train()
    side = space.image_side
    x_BCHW, labels_B = torch.randn(arguments.batch, 3, side, side), torch.randint(space.classes, (arguments.batch,))

    def through_narrowing(architecture: object) -> None:
        supernet.zero_grad()
        F.cross_entropy(supernet(x_BCHW, architecture), labels_B).backward()  # type: ignore[arg-type]

    def borrowed(architecture: object) -> None:
        supernet.zero_grad()
        with supernet.borrow(architecture) as subnet:  # type: ignore[arg-type]
            F.cross_entropy(subnet(x_BCHW), labels_B).backward()

    ratios: dict[str, list[float]] = {"borrowed leaves": [], "through the narrowing": [], "largest network": []}
    architectures = space.decode(space.sample(arguments.architectures, np.random.default_rng(0)))
    for architecture in architectures:
        extracted = supernet.extract(architecture).train()

        def alone(network: torch.nn.Module = extracted) -> None:
            network.zero_grad()
            F.cross_entropy(network(x_BCHW), labels_B).backward()

        def largest() -> None:
            alone(supernet.network)

        sides: dict[str, Callable[[], None]] = {
            "extracted": alone,
            "borrowed leaves": lambda architecture=architecture: borrowed(architecture),
            "through the narrowing": lambda architecture=architecture: through_narrowing(architecture),
            "largest network": largest,
        }
        medians = alternate(sides, arguments.repeats)
        for name, values in ratios.items():
            values.append(medians[name] / medians["extracted"])
        print(
            f"{medians['extracted'] * 1e3:8.1f} ms extracted   "
            + "   ".join(f"{n} {v[-1]:.3f} x" for n, v in ratios.items())
        )

    print(f"\n{space.name}, batch {arguments.batch}, {arguments.threads} thread(s), forward and backward,")
    print(f"relative to the extracted subnet's own step; {len(architectures)} random architectures:")
    for name, values in ratios.items():
        low, high = np.percentile(values, [5, 95])
        print(f"  {name:24} median {statistics.median(values):.3f} x   (5 % to 95 %: {low:.3f} to {high:.3f})")


def alternate(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU time in seconds of each side, taking turns; the order is reversed every other round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    gc.disable()
    for repeat in range(repeats):
        order = list(sides.items()) if repeat % 2 else list(sides.items())[::-1]
        for name, side in order:
            start = time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()
            side()
            stop = time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()
            times[name].append(stop - start)
    gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
