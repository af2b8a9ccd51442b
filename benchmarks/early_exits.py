"""What early exits save, and what a network that is simply cut short does at the same mean latency.

A vision transformer of eight blocks is trained on digits and finished with up to two exits. Printed are the latency of
the exits as a share of the worst case, predicted and in ONNX Runtime (the test part once through the segments, beside
every image through all of them, in turns), accuracies and agreement on the test part; and beside it the accuracy of the
most accurate network that ends at one exit for all images and costs no more on average.

    python benchmarks/early_exits.py RUN [--risk 0.03] [--seed 0]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import nas
from latency_tables.predictor import LatencyPredictor
from latency_tables.targets import load_target
from nas.exporting.early_exits import EarlyExits
from nas.finishing.exits import EPOCHS, SegmentCosts
from supernets.checkpoint import load_supernet
from supernets.data.sources import load_data
from supernets.early_exits import ExitChain, train_exits

MODEL = "timm:vit_tiny_patch16_224?depth=8&embed_dim=64&img_size=32&num_heads=4&patch_size=8"
DATA, SIDE, TARGET = "digits", 32, "pixel6"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that is written")
    parser.add_argument("--risk", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    finished = nas.finish(
        arch=MODEL, data=DATA, epochs=arguments.epochs, exits=2, exit_risk=arguments.risk, target=TARGET,
        seed=arguments.seed, output=arguments.run, force=True,
    )  # fmt: skip
    facts, images = finished.verified["exits"], load_data(DATA, SIDE)
    predicted = facts["expected_ms"] / facts["worst_ms"]
    print(f"mean latency {predicted:.3f} of the worst as predicted, {_measured(finished.run, images):.3f} measured")
    print({name: value for name, value in facts.items() if name.startswith("test_") or name in ("places", "threshold")})

    supernet, _ = load_supernet(finished.checkpoint)
    chain = ExitChain(supernet, finished.architecture)
    exits = train_exits(chain, images, min(EPOCHS, arguments.epochs), arguments.seed, lambda *_: None)
    costs = SegmentCosts(chain, exits, LatencyPredictor(load_target(TARGET)))
    right = dict.fromkeys(exits, 0)
    with torch.no_grad():
        for x_BCHW, labels_B in images.batches("test", 64):
            flows: dict[int, torch.Tensor] = {}
            chain.run(x_BCHW, flows.__setitem__)
            for place, found in exits.items():
                right[place] += int((found(flows[place[0]]).argmax(dim=1) == labels_B).sum())
    short = {place: float(costs([place]).ms_E[0]) for place in exits}
    best = max((place for place in exits if short[place] <= facts["expected_ms"]), key=lambda place: right[place])
    print(f"cut short at {best}: {short[best]:.3f} ms, accuracy {right[best] / images.splits['test']:.4f}")


def _measured(run: Path, images: object) -> float:
    """Time of the segments as they are taken, as a share of that of all of them."""
    early, whole = EarlyExits(run / "exits"), EarlyExits(run / "exits", threshold=1.0)
    seconds = [0.0, 0.0]
    for x_BCHW, _ in images.batches("test", 64):  # type: ignore[attr-defined]
        for image_CHW in x_BCHW.numpy():
            for number, network in enumerate((early, whole)):
                started = time.perf_counter()
                network(image_CHW[None])
                seconds[number] += time.perf_counter() - started
    return seconds[0] / seconds[1]


if __name__ == "__main__":
    main()
