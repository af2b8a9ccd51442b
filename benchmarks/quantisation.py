"""What fewer bits give and cost: latency beside fp32 in turns, divergence, sensitivities, and mixing by the program.

``python benchmarks/quantisation.py latency`` times ViT-Ti, DeiT-S and a 64-wide transformer with random weights.
``python benchmarks/quantisation.py files bytes`` trains a transformer of 6 blocks, 128 wide, on the glyphs once, as
`nas.train` does, keeps the run in a folder of records, and makes some of the checks on it:

- ``files``: files in all precisions, also with outliers planted into its layer norms, beside fake quantisation, and
  int8 with products of attention and outputs in integers, as releases before wrote it
- ``calibration``: by how many images ranges were found on, several draws of each number
- ``bytes``: what sums of sensitivities say of assignments, and the program's choice beside uniform and random ones
- ``time``: the same by measured latency, with and without outliers in three layer norms; wants a quiet machine
- ``rounding``: stages in 2 bits
- ``training``: `nas.finish` in 2 bits, stages and two epochs
- ``relu``: ReLU for GELU, with its time

All print the processor's flags: without VNNI (x86-64) or dot products (Arm) times are reported and nothing is promised.

Legend of tensor suffixes: B images, K classes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from latency_tables.measure import measure_networks
from latency_tables.onnx_quantised import Precision, name_layers, place, processor_flags, quantise_onnx
from latency_tables.repeats import QUICK
from latency_tables.runtimes.onnx_file import exported_model
from latency_tables.runtimes.onnx_runtime import make_session, random_inputs
from nas.exporting.members import export_run
from nas.networks.onnx import OnnxNetwork
from nas.quantisation.adaptive_rounding import adaptive_rounding
from nas.quantisation.bias_correction import bias_correction
from nas.quantisation.clip import clip
from nas.quantisation.equalise import equalise
from nas.quantisation.fake import FakeQuantisation
from nas.quantisation.program import LayerOptions, Option, assign
from nas.quantisation.relu_mlp import relu_mlp
from nas.quantisation.sensitivity import divergence, logits_in, sensitivities
from nas.quantisation.times import layer_times
from nas.quantisation.watching import inputs_of_layers, weighted_layers
from supernets.data.sources import load_data

NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "deit_small_patch16_224": {},
    "64 wide": {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 2},
}
BITS: tuple[Precision, ...] = ("w8", "w4", "w2")
PLAIN = {"img_size": 32, "patch_size": 8}
OUTLIERS, SHARE = 128.0, 0.05
SAID: list[tuple[str, dict[str, Any]]] = []


def main() -> None:
    """Print what is found as it is found, and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["latency", *CHECKS])
    parser.add_argument("--records", type=Path, default=Path("records"), help="folder that keeps the trained network")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--images", type=int, default=2790, help="test images that are judged on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    say("processor", flags=" ".join(processor_flags()))
    if "latency" in given.what:
        for name, options in NETWORKS.items():
            time_network(name, options, given.runs)
    if set(given.what) & set(CHECKS):
        sizes = {"embed_dim": given.width, "depth": given.depth, "num_heads": max(1, given.width // 32)}
        subject = trained(sizes, given.epochs, given.seed, given.records)
        subject = replace(subject, test=subject.test[: given.images], labels=subject.labels[: given.images])
        subject.say("fp32", subject.network)
        for what in given.what:
            CHECKS.get(what, lambda _: None)(subject)
    print("\n| what | " + " | ".join(columns := ["accuracy", "kl", "others"]) + " |\n|" + " --- |" * 4)
    for what, facts in SAID:
        others = ", ".join(f"{name} {shown(value)}" for name, value in facts.items() if name not in columns)
        print(f"| {what} | {shown(facts.get('accuracy', ''))} | {shown(facts.get('kl', ''))} | {others} |")


def say(what: str, **facts: Any) -> None:
    """Print a line, and keep it for the table."""
    SAID.append((what, facts))
    print(json.dumps({"what": what, **facts}), flush=True)


def shown(value: Any) -> str:
    """A figure for the table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- latency -----------------------------------------------------------------------------------------------------------


def time_network(name: str, options: dict[str, Any], runs: int) -> None:
    """Ratios of processor time to fp32, runs of all forms in turns."""
    torch.manual_seed(0)
    network = perturbed(timm.create_model(name if "_" in name else "vit_tiny_patch16_224", **options))
    side = options.get("img_size", 224)
    with tempfile.TemporaryDirectory() as folder:
        files = write(network, side, ("int8", "int8-dynamic", "w4"), torch.randn(8, 3, side, side), Path(folder))
        time_files(files, runs, network=name)


def time_files(files: dict[str, Path], runs: int, **facts: Any) -> None:
    """Ratios of processor time to the first file, runs of all files in turns."""
    sessions = {form: make_session(str(path)) for form, path in files.items()}
    inputs = random_inputs(next(iter(sessions.values())))
    taken: dict[str, list[float]] = {form: [] for form in sessions}
    for number in range(runs + 3):
        for form, session in sessions.items():
            before = time.process_time()
            session.run(None, inputs)
            if number >= 3:
                taken[form].append(1e3 * (time.process_time() - before))
    ms = {form: statistics.median(each) for form, each in taken.items()}
    first = next(iter(ms.values()))
    say("latency", **facts, ms=first, ratio={form: round(each / first, 3) for form, each in ms.items()})


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
    named = exported_model(network, (3, side, side))
    name_layers(named)
    model = named.SerializeToString()
    files = {"fp32": folder / "fp32.onnx"}
    files["fp32"].write_bytes(model)
    for precision in precisions:
        files[precision] = folder / f"{precision}.onnx"
        singles = (image[None].numpy() for image in images)
        quantise_onnx(onnx.load_from_string(model), partial(place, wanted=precision), singles, files[precision])
    return files


# -- accuracy ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A trained network with images in random order: for training, and with labels for the test; and its run."""

    network: nn.Module
    train: Tensor
    test: Tensor
    labels: Tensor
    run: Path

    @cached_property
    def expected(self) -> Tensor:
        """Logits in fp32."""
        return self.logits(self.network)

    @torch.no_grad()
    def logits(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of something on the test images."""
        return torch.cat([network(some) for some in torch.split(self.test, 256)])

    def say(self, what: str, network: Callable[[Tensor], Tensor], **others: Any) -> float:
        """Say what something is worth beside the network in fp32, and give its divergence."""
        found = self.logits(network)
        accuracy, kl = float((found.argmax(1) == self.labels).float().mean()), divergence(self.expected, found)
        say(what, accuracy=accuracy, kl=kl, **others)
        return kl


def trained(sizes: dict[str, int], epochs: int, seed: int, records: Path) -> Subject:
    """The network, trained where the records do not have it."""
    run = records / f"glyphs-vit-{'-'.join(map(str, sizes.values()))}-{epochs}-{seed}"
    arguments = "&".join(f"{name}={value}" for name, value in sorted({**PLAIN, **sizes}.items()))
    if not (run / "training.json").exists():
        asked: dict[str, Any] = {"epochs": epochs, "seed": seed, "options": {"learning_rate": 1e-3}}
        asked |= {"arch": f"timm:vit_tiny_patch16_224?{arguments}/largest", "data": "glyphs"}
        nas.train(**({"resume": True} if run.exists() else asked), output=run)
    folder = export_run(run, formats=["timm"]).folder
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    data, generator = load_data("glyphs", 32), torch.Generator().manual_seed(0)
    parts = []
    for part in ("train", "test"):  # which stand class by class
        images, labels = (torch.cat(each) for each in zip(*data.batches(part, 3000), strict=True))  # type: ignore[arg-type]
        order = torch.randperm(len(images), generator=generator)
        parts.append((images[order], labels[order]))
    return Subject(network.eval(), parts[0][0], *parts[1], run)


def distilled(subject: Subject, network: nn.Module, steps: int = 180) -> None:
    """Train a network for two epochs to say what the one in fp32 says."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.5e-4, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        some = torch.randint(len(subject.train), (100,))
        with torch.no_grad():
            said = subject.network(subject.train[some]).softmax(dim=1)
        optimizer.zero_grad()
        F.cross_entropy(network(subject.train[some]), said).backward()
        optimizer.step()
        rates.step()


# -- checks ------------------------------------------------------------------------------------------------------------


def check_files(subject: Subject) -> None:
    """Divergence and accuracy of all files, with and without planted outliers."""
    planted = with_outliers(subject.network, range(2 * len(subject.network.blocks)))  # type: ignore[arg-type]
    for what, network in (
        ("as trained", subject.network),
        ("equalised", equalised(subject.network, subject.train)),
        ("outliers", planted),
        ("outliers, equalised", equalised(planted, subject.train)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            forms: tuple[Precision, ...] = ("int8", "int8-dynamic", "w4", "w2")
            files = write(network, 32, forms, subject.train[:128], Path(folder))
            ranges = inputs_of_layers(network, subject.train[:128])
            for form in forms:
                fake = logits_in(network, subject.test, inner(network, form), ranges)
                facts = {"kl_fake": divergence(subject.expected, fake), "bytes": files[form].stat().st_size}
                subject.say(f"{what}: {form}", in_the_runtime(files[form]), **facts)
            if what == "as trained":
                subject.say("int8 as before", in_the_runtime(as_before(files["fp32"], subject.train[:128])))


class Reader(CalibrationDataReader):
    """Images one by one."""

    def __init__(self, images: Tensor, name: str) -> None:
        self.given = ({name: image[None].numpy()} for image in images)

    def get_next(self) -> dict[str, Any] | None:
        """The next one."""
        return next(self.given, None)


def as_before(fp32: Path, images: Tensor) -> Path:
    """The file with quantisers around inputs and outputs of every product, those of attention included."""
    prepared, path = fp32.with_name("prepared.onnx"), fp32.with_name("before.onnx")
    quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
    reader = Reader(images, onnx.load(str(prepared)).graph.input[0].name)
    kinds = ["Conv", "Gemm", "MatMul"]
    quantize_static(str(prepared), str(path), reader, op_types_to_quantize=kinds, per_channel=True)
    return path


def in_the_runtime(path: Path) -> Callable[[Tensor], Tensor]:
    """A file in ONNX Runtime."""
    network = OnnxNetwork(path)
    return lambda x: torch.from_numpy(network(x))


def check_calibration(subject: Subject) -> None:
    """Ranges from few and from many images."""
    even, generator = equalised(subject.network, subject.train), torch.Generator().manual_seed(1)
    for count in (1, 8, 64, 512):
        found = []
        for _ in range(5):
            images = subject.train[torch.randperm(len(subject.train), generator=generator)[:count]]
            mode = FakeQuantisation(even, inner(even, "int8"), inputs_of_layers(even, images))
            found.append(divergence(subject.expected, subject.logits(partial(mode.run, even))))
        say(f"calibrated on {count}", kl=statistics.median(found), least=min(found), most=max(found))


def check_bytes(subject: Subject) -> None:
    """Whether the sum of what layers lose ranks assignments, and what the program makes of bytes."""
    network, train = subject.network, subject.train
    layers = [layer for layer in weighted_layers(network, train[:1]) if not layer.reads_image]
    losses = sensitivities(network, train[:64], {}, {layer.name: BITS for layer in layers})
    weights = {layer.name: int(np.prod(layer.weight_shape)) for layer in layers}
    sizes = {name: {bits: count * (int(bits[1:]) / 8 + 1 / 8) for bits in BITS} for name, count in weights.items()}
    options = [
        LayerOptions(name, tuple(Option(bits, losses[name][bits], 0.0, sizes[name][bits]) for bits in BITS))
        for name in losses
    ]

    def truth(chosen: Mapping[str, Precision]) -> float:
        return divergence(subject.expected, logits_in(network, subject.test, chosen, {}))

    generator = np.random.default_rng(0)
    drawn: list[dict[str, Precision]] = [{name: BITS[generator.integers(3)] for name in losses} for _ in range(30)]
    sums = [sum(losses[name][each[name]] for name in losses) for each in drawn]
    true = [truth(each) for each in drawn]
    ratio = float(np.median(np.array(true) / np.array(sums)))
    say("sensitivity", spearman=float(spearmanr(sums, true).statistic), true_by_sum=ratio)
    uniform = {bits: truth(dict.fromkeys(losses, bits)) for bits in ("w4", "w2")}
    whole = sum(sizes[name]["w4"] for name in losses)
    for share in (1.0, 0.8, 0.65):
        found = assign(options, limit_bytes=share * whole)
        assert found is not None
        others = [truth(chosen) for chosen in random_within(sizes, share * whole, generator)]
        say(f"{share} of the bytes", kl=truth(found.precisions), random=statistics.median(others), **uniform)


def check_time(subject: Subject) -> None:
    """The program's choice of layers in int8 beside four random ones, all within a time, as measured."""
    for what, pairs in (("by time", ()), ("by time, outliers", (1, 4, 6))):
        network = with_outliers(subject.network, pairs)
        layers = [layer for layer in weighted_layers(network, subject.train[:1]) if not layer.reads_image]
        names = [layer.name for layer in layers]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = write(network, 32, ("int8",), subject.train[:128], folder)
            times = layer_times(files, names, folder / "profiles")  # type: ignore[arg-type]
            ranges = inputs_of_layers(network, subject.train[:128])
            losses = sensitivities(network, subject.train[:64], ranges, dict.fromkeys(names, ("fp32", "int8")))
            options = [
                LayerOptions(
                    layer.name,
                    tuple(Option(p, losses[layer.name][p], times.layers[layer.name][p], 0.0) for p in ("fp32", "int8")),  # type: ignore[arg-type]
                    layer.source,
                    times.quantisers.get(layer.name, 0.0),
                )
                for layer in layers
            ]
            rest = times.whole["fp32"] - sum(layer.options[0].ms for layer in options)
            limit = (times.whole["fp32"] + times.whole["int8"]) / 2
            found = assign(options, limit_ms=limit - rest)
            if found is None:  # sums of profiled layers say that integers save less than the whole did
                say(f"{what}: nothing within the time", limit_ms=limit, whole=dict(times.whole))
                continue
            tried = {"int8": inner(network, "int8"), "chosen": found.precisions}
            generator = np.random.default_rng(0)
            while len(tried) < 6:
                drawn: list[Precision] = list(generator.choice(["fp32", "int8"], len(names)))
                fixed = [replace(o, options=(o.options[p == "int8"],)) for o, p in zip(options, drawn, strict=True)]
                if assign(fixed, limit_ms=limit - rest) is not None:
                    tried[f"random {len(tried) - 1}"] = dict(zip(names, drawn, strict=True))
            for each, precisions in tried.items():
                files[each] = folder / f"{each}.onnx"
                singles = (image[None].numpy() for image in subject.train[:128])
                place_them = partial(place, wanted=precisions)
                quantise_onnx(onnx.load(str(files["fp32"])), place_them, singles, files[each])
            measured = measure_networks(list(files.values()), QUICK).measurements
            for (each, path), measurement in zip(files.items(), measured, strict=True):
                left = [
                    place
                    for place, layer in enumerate(outlier_layers(network))
                    if tried.get(each, {}).get(layer) != "int8"
                ]
                subject.say(
                    f"{what}: {each}",
                    in_the_runtime(path),
                    ms=measurement.ms,
                    planted_in_fp32=len(set(left) & set(pairs)),
                )


def check_rounding(subject: Subject) -> None:
    """Stages and training in 2 bits, the classifier in fp32 as in the source."""
    network = copy.deepcopy(subject.network)
    chosen = {name: bits for name, bits in inner(network, "w2").items() if name != "head"}
    mode = FakeQuantisation(network, chosen, {})
    run, images = partial(mode.run, network), subject.train[:512]
    subject.say("w2, nearest", run)
    start = copy.deepcopy(network.state_dict())
    clip(network, images[:128], chosen)
    subject.say("w2, clipped", run)
    bias_correction(network, subject.network, images[:128], mode)
    subject.say("w2, clipped, biases corrected", run)
    adaptive_rounding(network, subject.network, images, mode)
    subject.say("w2, clipped, biases corrected, rounded adaptively", run)
    network.load_state_dict(start)
    adaptive_rounding(network, subject.network, images, mode)
    subject.say("w2, rounded adaptively", run)


def check_training(subject: Subject) -> None:
    """Two epochs in 2 bits by `nas.finish`, accuracies on its search part; the file's divergence on the test part."""
    found = nas.finish(subject.run, quantise="w2", tolerance=0.0, epochs=2, output=subject.run / "w2", force=True)
    fp32, nearest, trained = (found.accuracy[name] or 0.0 for name in ("fp32", "inherited", "averaged"))
    facts = {**found.accuracy, "steps": found.steps, "seconds": found.seconds}
    facts["recovered"] = (trained - nearest) / max(fp32 - nearest, 1e-12)
    subject.say(
        "w2, finished", in_the_runtime(subject.run / "w2" / found.verified["export"] / "model.w2.onnx"), **facts
    )


def check_relu(subject: Subject) -> None:
    """ReLU for GELU as it is, fitted and distilled; and the time of both."""
    fitted, plain = copy.deepcopy(subject.network), copy.deepcopy(subject.network)
    relu_mlp(plain, subject.train, iterations=0)
    subject.say("ReLU as it is", plain)
    relu_mlp(fitted, subject.train)
    subject.say("ReLU, fitted", fitted)
    with tempfile.TemporaryDirectory() as folder:
        for name, network in (("GELU", subject.network), ("ReLU", fitted)):
            (Path(folder) / name).mkdir()
            write(network, 32, ("int8",), subject.train[:128], Path(folder) / name)
        time_files({f"{path.parent.name} {path.stem}": path for path in sorted(Path(folder).glob("*/*.onnx"))}, 200)
    distilled(subject, fitted)
    subject.say("ReLU, fitted, trained for 2 epochs", fitted)


def inner(network: nn.Module, precision: Precision) -> dict[str, Precision]:
    """All layers but the first in a precision."""
    layers = weighted_layers(network, torch.zeros(1, 3, 32, 32))
    return {layer.name: precision for layer in layers if not layer.reads_image}


def equalised(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy with equalised layer norms."""
    copied = copy.deepcopy(network)
    equalise(copied, images[:128])
    return copied


def outlier_layers(network: nn.Module) -> list[str]:
    """The layers behind layer norms."""
    return [f"blocks.{number}.{name}" for number in range(len(network.blocks)) for name in ("attn.qkv", "mlp.fc1")]  # type: ignore[arg-type]


@torch.no_grad()
def with_outliers(network: nn.Module, pairs: Iterable[int]) -> nn.Module:
    """The same function, with a few large channels behind some layer norms."""
    copied = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for pair in pairs:
        layer: Any = copied.get_submodule(outlier_layers(network)[pair])
        norm: Any = copied.get_submodule(f"blocks.{pair // 2}.norm{1 + pair % 2}")
        count = max(1, round(SHARE * len(norm.weight)))
        channels = torch.randperm(len(norm.weight), generator=generator)[:count]
        norm.weight[channels] *= OUTLIERS
        norm.bias[channels] *= OUTLIERS
        layer.weight[:, channels] /= OUTLIERS
    return copied


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


CHECKS: dict[str, Callable[[Subject], None]] = {
    "files": check_files,
    "calibration": check_calibration,
    "bytes": check_bytes,
    "time": check_time,
    "rounding": check_rounding,
    "training": check_training,
    "relu": check_relu,
}


if __name__ == "__main__":
    main()
