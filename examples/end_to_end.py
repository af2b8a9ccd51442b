"""From images and a latency to a checkpoint that ships, in one sitting.

    python examples/end_to_end.py                    # about six minutes on two cores
    python examples/end_to_end.py --epochs 2 --evaluations 12     # a quick look, with poor accuracy

Trains a supernet of small vision transformers on scikit-learn's scanned digits, searches it for the best trade-off
between accuracy and latency on the target, exports the front's knee, and runs the ONNX file the way a device would:
with ONNX Runtime and NumPy alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import nas


def main() -> None:
    """Train, search, export, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training images")
    parser.add_argument("--evaluations", type=int, default=60, help="networks to evaluate")
    parser.add_argument("--target", default="pixel6", help="`pixel6`, or `local` to measure this machine first")
    parser.add_argument("--output", type=Path, default=Path("runs/example"))
    arguments = parser.parse_args()

    # 1. Shared weights for every network of the space, trained once.
    training = nas.train("elastic-mini", "digits", epochs=arguments.epochs, output=arguments.output / "supernet")
    print("accuracy of three subnets on the search part:", training.accuracy)

    # 2. The best trade-offs between accuracy and predicted latency.
    result = nas.search(
        "elastic-mini",
        arguments.target,
        supernet=training.run,
        evaluations=arguments.evaluations,
        output=arguments.output / "search",
    )
    for member in result.front:
        latency = member.latency[arguments.target]
        print(
            f"  {latency.ms:6.3f} ms [{latency.low_ms:.3f}, {latency.high_ms:.3f}]"
            f"  {member.objectives['accuracy']:.2%}  {member.macs / 1e6:6.2f} M MACs"
        )

    # 3. One of them as files that need none of this: safetensors, a module file, ONNX, and the proof that they agree.
    folder = result.export(pick="knee")
    print("exported to", folder)
    print("report:", result.report())

    # 4. What a device does.
    print("test accuracy of the ONNX file:", f"{onnx_test_accuracy(folder):.2%}")


def onnx_test_accuracy(folder: Path) -> float:
    """Accuracy of an exported folder on the images that neither training nor search has seen."""
    import onnxruntime
    import torch

    from supernets.data.sources import load_data

    config = json.loads((folder / "config.json").read_text())
    images = load_data(config["data"]["source"], config["image"]["load_side"])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    side = config["network"]["input_side"]
    correct = []
    for x_BCHW, labels_B in images.batches("test", 64):
        resized = torch.nn.functional.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)
        for image, label in zip(resized.numpy(), labels_B.tolist(), strict=True):
            logits = session.run(["logits"], {"image": image[None]})[0]
            correct.append(int(logits.argmax()) == label)
    return float(np.mean(correct))


if __name__ == "__main__":
    main()
