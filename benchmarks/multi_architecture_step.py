"""What a step of multi-architectural sampling costs: masked, sliced, in separate passes, and as extracted subnets.

Forward, cross-entropy and backward in training mode, taking turns. *Masked* and *sliced* are the two executions of
`supernets.grouped`, in which each of the step's subnets sees its own share of the batch; in *separate passes* each sees
the whole batch, as other sampling policies train; *extracted* are the stand-alone subnets, each on its share, which is
what the step would cost without any sharing of weights. Architectures are drawn as training draws them once all choices
are enabled, and as at its start, where all of them are the largest one.

    python benchmarks/multi_architecture_step.py [--space resnas-mini] [--subnets 2 8] [--steps 5] [--batch 128]
    python benchmarks/multi_architecture_step.py --space resnas-tiny --batch 32 --steps 2 --repeats 3
    python benchmarks/multi_architecture_step.py --space resnas-tiny --batch 128 --device cuda --subnets 2 8
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import SearchSpace, get_space
from search_spaces.resnas import ResnasSpace
from supernets import Supernet
from supernets.grouped import Execution, default_execution, run_groups
from supernets.sampling import Assignment
from supernets.sampling.multi_architecture import MultiArchitecturePolicy
from supernets.shares import Output

SIDES = ("masked", "sliced", "separate passes", "extracted")


def main() -> None:
    """Run the benchmark and print a table for each number of subnets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="resnas-mini", help="of the ViT-ResNAS family")
    parser.add_argument("--subnets", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--steps", type=int, default=5, help="steps with other architectures")
    parser.add_argument("--repeats", type=int, default=9, help="of each step and side")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image-side", type=int, default=None, help="in pixels; the space's own unless given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    space = get_space(arguments.space)
    if not isinstance(space, ResnasSpace):
        parser.error(f"space `{space.name}` has no masked execution, expected one of the ViT-ResNAS family")
    space = space.variant(image_side=arguments.image_side, patch_classifier=True)
    step = Step(space, arguments.batch, torch.device(arguments.device))

    kind = "one CPU thread" if arguments.threads == 1 else f"{arguments.threads} CPU threads"
    where = kind if step.device.type == "cpu" else torch.cuda.get_device_name(step.device)
    print(f"{space.name}, images of {space.image_side} pixels, batch {arguments.batch}, {where}: forward and backward")
    for subnets in arguments.subnets:
        policy = MultiArchitecturePolicy(images_per_group=arguments.batch // subnets)
        sampler = policy.begin(space, seed=0, batch_size=arguments.batch)
        drawn = [sampler.assign(number, 1.0) for number in range(arguments.steps)]
        report(f"{subnets} subnets, all choices enabled", step, drawn, arguments.repeats)
        report(f"{subnets} subnets, start of training", step, [sampler.assign(0, 0.0)], arguments.repeats)
    print(f"\ndefault execution here: {default_execution(step.device)}")


def report(title: str, step: Step, drawn: Sequence[Sequence[Assignment]], repeats: int) -> None:
    """Measure the steps on every side and print a table."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    memory: dict[str, float | None] = {}
    for number, assignments in enumerate(drawn):
        networks = [step.supernet.extract(assignment.architecture) for assignment in assignments]
        sides = step.sides(assignments, networks)
        if number == 0:
            memory = {name: step.peak_megabytes(run, networks) for name, run in sides.items()}
        for name, median in step.medians(sides, repeats).items():
            seconds[name].append(median)
    print(f"\n{title}; {len(drawn)} steps, median of {repeats} each")
    print(f"  {'':16} {'ms per step':>12} {'/ extracted':>12} {'5 % to 95 %':>18} {'peak memory':>14}")
    for name in SIDES:
        ratios = np.array(seconds[name]) / np.array(seconds["extracted"])
        low, high = np.percentile(ratios, [5, 95])
        peak = memory[name]
        print(
            f"  {name:16} {statistics.median(seconds[name]) * 1e3:12.1f} {np.median(ratios):10.3f} x"
            f" {f'{low:.3f} to {high:.3f}':>18} {'not measured' if peak is None else f'{peak:.1f} MB':>14}"
        )


class Step:
    """A training step on random images, on every side.

    Args:
        space: Of the supernet.
        batch: Images of a step.
        device: Where it runs.
    """

    def __init__(self, space: SearchSpace, batch: int, device: torch.device) -> None:
        side, generator = space.image_side, torch.Generator().manual_seed(0)
        self.supernet, self.device = Supernet(space).to(device).train(), device
        images_BCHW = torch.randn(batch, 3, side, side, generator=generator)
        self.images_BCHW = images_BCHW.to(device, memory_format=torch.channels_last)
        self.labels_B = torch.randint(space.classes, (batch,), generator=generator).to(device)

    def sides(self, assignments: Sequence[Assignment], networks: Sequence[nn.Module]) -> dict[str, Callable[[], None]]:
        """The step on every side, by its name; ``networks`` are the extracted subnets."""

        def groups(execution: Execution) -> None:
            self.supernet.zero_grad()
            output = run_groups(self.supernet, assignments, self.images_BCHW, execution)
            torch.autograd.backward(loss(output, self.labels_B))

        def separate() -> None:
            self.supernet.zero_grad()
            for assignment in assignments:
                with self.supernet.borrow(assignment.architecture) as subnet:
                    torch.autograd.backward(loss(subnet(self.images_BCHW), self.labels_B))

        def extracted() -> None:
            for group, network in enumerate(networks):
                network.zero_grad()
                share = slice(group, None, len(networks))
                torch.autograd.backward(loss(network(self.images_BCHW[share]), self.labels_B[share]))

        return {
            "masked": lambda: groups("masked"),
            "sliced": lambda: groups("sliced"),
            "separate passes": separate,
            "extracted": extracted,
        }

    def medians(self, sides: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
        """Median seconds of each side, taking turns; the order is reversed every other round."""
        times: dict[str, list[float]] = {name: [] for name in sides}
        for run in sides.values():
            run()
        gc.disable()
        for repeat in range(repeats):
            for name, run in list(sides.items())[:: 1 if repeat % 2 else -1]:
                start = self._clock()
                run()
                times[name].append(self._clock() - start)
        gc.enable()
        return {name: statistics.median(values) for name, values in times.items()}

    def peak_megabytes(self, run: Callable[[], None], networks: Sequence[nn.Module]) -> float | None:
        """Memory that a step takes beyond weights and images, gradients included; None where nobody tells."""
        run()
        for network in (self.supernet, *networks):
            network.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            run()
            return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6
        return peak_resident_megabytes(run)

    def _clock(self) -> float:
        """Seconds: of this thread alone where there is one, so that neighbours on the machine matter less."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def loss(output: Output, labels_B: Tensor) -> Tensor:
    """Cross-entropy of the image, plus that of its patches where they are classified."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels_B)
    patches = output.patches_BPK.shape[1]
    of_patches = F.cross_entropy(output.patches_BPK.flatten(0, 1), labels_B.repeat_interleave(patches))
    return F.cross_entropy(output.logits_BK, labels_B) + of_patches


def peak_resident_megabytes(run: Callable[[], None]) -> float | None:
    """By how much the process grows; Linux only."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident_kilobytes("VmRSS")
        run()
        return (resident_kilobytes("VmHWM") - before) * 1024 / 1e6
    except OSError:
        return None


def resident_kilobytes(field: str) -> int:
    """A line of what Linux tells about this process's memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
