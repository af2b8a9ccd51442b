"""What fewer bits give and cost: latency beside fp32 in turns, divergence, sensitivities, and mixing by the program.

``python benchmarks/quantisation.py latency`` times ViT-Ti, DeiT-S and a 64-wide transformer with random weights.
``python benchmarks/quantisation.py accuracy --epochs 14`` trains a transformer of 6 blocks, 128 wide, on the glyphs and
quantises it, also with outliers planted into its layer norms. Both print the processor's flags: without VNNI (x86-64)
or dot products (Arm) times are reported and nothing is promised.

Legend of tensor suffixes: B images, K classes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from latency_tables.onnx_quantised import Precision, place, processor_flags, quantise_onnx
from latency_tables.runtimes.onnx_file import exported_model
from latency_tables.runtimes.onnx_runtime import make_session, random_inputs
from nas.networks.onnx import OnnxNetwork
from nas.quantisation.equalise import equalise
from nas.quantisation.program import LayerOptions, Option, assign
from nas.quantisation.sensitivity import divergence, logits_in, sensitivities
from nas.quantisation.watching import inputs_of_layers, weighted_layers
from supernets.data.sources import load_data

NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "deit_small_patch16_224": {},
    "64 wide": {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 2},
}
BITS: tuple[Precision, ...] = ("w8", "w4", "w2")
WIDE = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 45}
OUTLIERS, SHARE = 128.0, 0.05


def main() -> None:
    """Print one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "accuracy"])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--weights", type=Path, help="file of an earlier training, read or written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    say("processor", flags=processor_flags())
    if given.what == "latency":
        for name, options in NETWORKS.items():
            time_network(name, options, given.runs)
    else:
        judge(*trained(given.seed, given.epochs, given.weights))


def say(what: str, **facts: Any) -> None:
    """Print a line."""
    print(json.dumps({"what": what, **facts}), flush=True)


# -- latency -----------------------------------------------------------------------------------------------------------


def time_network(name: str, options: dict[str, Any], runs: int) -> None:
    """Ratios of processor time to fp32, runs of all forms in turns."""
    torch.manual_seed(0)
    network = perturbed(timm.create_model(name if "_" in name else "vit_tiny_patch16_224", **options))
    side = options.get("img_size", 224)
    with tempfile.TemporaryDirectory() as folder:
        files = write(network, side, ("int8", "int8-dynamic", "w4"), torch.randn(8, 3, side, side), Path(folder))
        sessions = {form: make_session(str(path)) for form, path in files.items()}
        inputs = random_inputs(sessions["fp32"])
        taken: dict[str, list[float]] = {form: [] for form in sessions}
        for number in range(runs + 3):
            for form, session in sessions.items():
                before = time.process_time()
                session.run(None, inputs)
                if number >= 3:
                    taken[form].append(1e3 * (time.process_time() - before))
    ms = {form: statistics.median(each) for form, each in taken.items()}
    say("latency", network=name, ms=ms, ratio={form: each / ms["fp32"] for form, each in ms.items()})


def perturbed(network: nn.Module) -> nn.Module:
    """Random weights all over: files merge tensors that are equal."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return network.eval()


def write(
    network: nn.Module, side: int, precisions: tuple[Precision, ...], images: Tensor, folder: Path
) -> dict[str, Path]:
    """The network in fp32 and in each precision."""
    model = exported_model(network, (3, side, side)).SerializeToString()
    files = {"fp32": folder / "fp32.onnx"}
    files["fp32"].write_bytes(model)
    for precision in precisions:
        files[precision] = folder / f"{precision}.onnx"
        singles = (image[None].numpy() for image in images)
        quantise_onnx(onnx.load_from_string(model), partial(place, wanted=precision), singles, files[precision])
    return files


# -- accuracy ----------------------------------------------------------------------------------------------------------


def trained(seed: int, epochs: int, weights: Path | None) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A transformer, training images, test images and their labels."""
    data = load_data("glyphs", 32)
    parts = {part: list(data.batches(part, 3000)) for part in ("train", "test")}  # type: ignore[arg-type]
    (x, y), (test, labels) = ([torch.cat(each) for each in zip(*parts[part], strict=True)] for part in parts)
    torch.manual_seed(seed)
    network = timm.create_model("vit_tiny_patch16_224", **WIDE)
    if weights is not None and weights.exists():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network.eval(), x, test, labels
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = epochs * (len(x) // 100)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        some = torch.randint(len(x), (100,))
        loss = F.cross_entropy(network(x[some]), y[some], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 90 == 0:
            say("training", step=step, steps=steps, loss=float(loss))
    if weights is not None:
        torch.save(network.state_dict(), weights)
    return network.eval(), x, test, labels


@torch.no_grad()
def judge(network: nn.Module, train: Tensor, test: Tensor, labels: Tensor) -> None:
    """Divergence and accuracy of all forms, with and without planted outliers."""
    expected = torch.cat([network(some) for some in torch.split(test, 256)])
    say("fp32", accuracy=float((expected.argmax(1) == labels).float().mean()), images=len(labels))
    with tempfile.TemporaryDirectory() as folder:
        report = partial(judge_files, expected=expected, test=test, labels=labels, folder=Path(folder))
        report("as trained", network, train)
        report("equalised", equalised(network, train), train)
        planted = with_outliers(network)
        report("outliers", planted, train)
        report("outliers, equalised", equalised(planted, train), train)
    even = equalised(network, train)
    for count in (1, 8, 64, 512):
        found = logits_in(even, test, inner(even, train, "int8"), inputs_of_layers(even, train[:count]))
        say("calibration", images=count, kl=divergence(expected, found))
    rank(network, train, test, expected)


def judge_files(
    what: str, network: nn.Module, train: Tensor, *, expected: Tensor, test: Tensor, labels: Tensor, folder: Path
) -> None:
    """Files of a network in ONNX Runtime, and fake quantisation beside them."""
    files = write(network, 32, ("int8", "int8-dynamic", "w4", "w2"), train[:128], folder)
    ranges = inputs_of_layers(network, train[:128])
    for form, path in files.items():
        found = torch.from_numpy(OnnxNetwork(path)(test))
        facts = {"accuracy": float((found.argmax(1) == labels).float().mean()), "kl": divergence(expected, found)}
        if form != "fp32":
            fake = logits_in(network, test, inner(network, train, form), ranges)  # type: ignore[arg-type]
            facts["kl_fake"] = divergence(expected, fake)
        say(what, form=form, bytes=path.stat().st_size, **facts)


def inner(network: nn.Module, images: Tensor, precision: Precision) -> dict[str, Precision]:
    """All layers but the first in a precision."""
    return {layer.name: precision for layer in weighted_layers(network, images[:1]) if not layer.reads_image}


def equalised(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy with equalised layer norms."""
    copied = copy.deepcopy(network)
    equalise(copied, images[:128])
    return copied


@torch.no_grad()
def with_outliers(network: nn.Module) -> nn.Module:
    """The same function, with a few large channels behind every layer norm."""
    copied: Any = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for block in copied.blocks:
        for norm, layer in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            count = max(1, round(SHARE * len(norm.weight)))
            channels = torch.randperm(len(norm.weight), generator=generator)[:count]
            norm.weight[channels] *= OUTLIERS
            norm.bias[channels] *= OUTLIERS
            layer.weight[:, channels] /= OUTLIERS
    return copied


def rank(network: nn.Module, train: Tensor, test: Tensor, expected: Tensor) -> None:
    """Whether the sum of what layers lose ranks assignments, and what the program makes of bytes."""
    layers = [layer for layer in weighted_layers(network, train[:1]) if not layer.reads_image]
    tried: dict[str, tuple[Precision, ...]] = {layer.name: BITS for layer in layers}
    losses = sensitivities(network, train[:64], {}, tried)
    weights = {layer.name: int(np.prod(layer.weight_shape)) for layer in layers}
    sizes = {name: {bits: count * (int(bits[1:]) / 8 + 1 / 8) for bits in BITS} for name, count in weights.items()}
    options = [
        LayerOptions(name, tuple(Option(bits, losses[name][bits], 0.0, sizes[name][bits]) for bits in BITS))
        for name in losses
    ]
    truth: Callable[[dict[str, Precision]], float] = lambda chosen: divergence(  # noqa: E731
        expected, logits_in(network, test, chosen, {})
    )
    generator = np.random.default_rng(0)
    drawn = [{name: BITS[generator.integers(3)] for name in losses} for _ in range(30)]
    sums, true = (
        [sum(losses[name][chosen[name]] for name in losses) for chosen in drawn],
        [truth(each) for each in drawn],
    )
    ratio = float(np.median(np.array(true) / np.array(sums)))
    say("sensitivity", spearman=float(spearmanr(sums, true).statistic), true_by_sum=ratio)
    uniform = sum(sizes[name]["w4"] for name in losses)
    for share in (1.0, 0.8, 0.65):
        found = assign(options, limit_bytes=share * uniform)
        assert found is not None
        others = [truth(chosen) for chosen in random_within(sizes, share * uniform, generator)]
        facts = {"chosen": truth(found.precisions), "random": statistics.median(others)}
        say("mixed by bytes", share=share, uniform=truth(dict.fromkeys(losses, "w4")), **facts)


def random_within(
    sizes: dict[str, dict[Precision, float]], limit: float, generator: np.random.Generator
) -> Iterator[dict[str, Precision]]:
    """Eight random assignments of nearly as many bytes as are allowed."""
    found = 0
    while found < 8:
        chosen: dict[str, Precision] = dict.fromkeys(sizes, "w8")
        names = list(sizes)
        while sum(sizes[name][chosen[name]] for name in names) > limit:
            name = names[generator.integers(len(names))]
            chosen[name] = BITS[min(BITS.index(chosen[name]) + 1, 2)]
        found += 1
        yield chosen


if __name__ == "__main__":
    main()
