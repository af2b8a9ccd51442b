"""Length distortion by one forward-mode product beside the definition, one backward pass per feature channel.

Both sides compute the same nine angles of the same network; the definition as in the reference: six angles at a time
and one backward pass per channel. Prints CPU time of each, their ratio and how well the values agree.

    python benchmarks/length_distortion.py [--network asvit:TOPOLOGY] [--rounds 1]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from functools import partial

import torch
from torch import Tensor, nn

from nas.networks.resolve import resolve_network
from nas.scores.features import draw_network, pooled_features, remove_norms
from nas.scores.length_distortion import ANGLES, circle_length, random_circle
from nas.scores.series_attention import SeriesAttention

ANGLES_AT_ONCE = 6


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="asvit:4,8,2|2,4,2|2,2,2|2,1,2|16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    named = resolve_network(arguments.network)
    assert named.build is not None, "expected a network with a module"
    side = named.input_shape[-1]
    network = draw_network(named.build, 0).eval()
    remove_norms(network)
    circle = random_circle(3 * side * side, 0)
    features = partial(pooled_features, network)
    with torch.no_grad():
        channels = features(torch.zeros(1, *named.input_shape)).shape[1]

    with SeriesAttention():
        circle_length(features, circle, side)  # the first call loads PyTorch's decompositions

    seconds: dict[str, list[float]] = {"backward": [], "forward": []}
    values = {}
    for _ in range(arguments.rounds):
        started = time.process_time()
        values["backward"] = backward_length(network, circle, side)
        seconds["backward"].append(time.process_time() - started)
        started = time.process_time()
        with SeriesAttention():
            values["forward"] = circle_length(features, circle, side)
        seconds["forward"].append(time.process_time() - started)
    backward, forward = (statistics.median(seconds[name]) for name in ("backward", "forward"))
    print(f"{named.name}: {channels} channels, median of {arguments.rounds}, CPU seconds")
    print(f"one backward pass per channel  {backward:8.2f} s   value {values['backward']:.6g}")
    print(f"one forward-mode product       {forward:8.2f} s   value {values['forward']:.6g}")
    print(f"ratio {backward / forward:.1f} x, values differ by {values['forward'] / values['backward'] - 1:+.1e}")


def backward_length(network: nn.Module, circle: Tensor, side: int) -> float:
    """The length by reverse mode."""
    total = 0.0
    for angle_A in torch.linspace(0, 2 * math.pi, ANGLES).split(ANGLES_AT_ONCE):
        theta_A = angle_A.clone().requires_grad_()
        images = theta_A.cos()[:, None] * circle[0] + theta_A.sin()[:, None] * circle[1]
        feature_AF = pooled_features(network, images.reshape(-1, 3, side, side))
        columns = [
            torch.autograd.grad(column_A.sum(), theta_A, retain_graph=True)[0] for column_A in feature_AF.unbind(1)
        ]
        total += float(torch.stack(columns).norm(dim=0).sum())
    return total


if __name__ == "__main__":
    main()
