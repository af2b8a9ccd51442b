"""One trained network over several devices: each looks at the image with a network of its own, one fuses what they see.

Every device gets classes that are confused with each other, as many as it is fast, and of the networks that a search
found the one that tells these classes best of those that fit. What a network lost is made up for on images of its
classes above all. Then all are trained together, with the whole network as the teacher.

After Liu et al., "ED-ViT", 2024, arXiv 2410.11650. Deviations: sub-networks come from the front of a search; sizes of
groups follow the speeds of devices, which decides who gets which.

Legend of suffixes: B batch, C colours, H and W rows and columns, N images, D features, K classes, M networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_tables.runtimes.onnx_file import INPUT_NAME, OPSET, OUTPUT_NAME, quiet_exporters
from nas.errors import NasError, UsageError
from nas.evaluation.accuracy import accuracy_of, check_one_label, judge
from nas.evaluation.compensation import SEQUENTIAL, Compensation
from nas.evaluation.evaluators import BATCH_SIZE, calibration_batches
from nas.events import Progress, StageProgress, StageStarted, ignore
from nas.exporting.export import ProofError
from nas.exporting.members import PROOF_IMAGES
from nas.networks.onnx import OnnxNetwork, export_onnx
from nas.objectives.units import LATENCY, SHARE
from nas.records.files import replacing_folder, write_json
from nas.runs.folder import RunFolder
from nas.runs.front import load_front
from nas.runs.places import images_of
from nas.runs.settings import WITHOUT_LABELS, Given, verb
from nas.splitting.costs import FrontCosts
from nas.splitting.devices import Link, Member, latency_ms, parse_devices, parse_link, shared_link_ms
from nas.splitting.partition import Floats, partition, sizes_by_speed
from nas.splitting.settings import SplitSettings
from nas.training.fine_tuning import pretrained_rate
from nas.training.heeding import is_heeded
from search_spaces import Architecture
from supernets.batch_norm import reestimate_batch_norm
from supernets.checkpoint import load_supernet
from supernets.data.image_data import ImageData
from supernets.fusion import FusedNetworks, train_fused, without_classifier
from supernets.probing import fit_classifier
from supernets.timm_models.compensation import Compensator

PLAN, FEATURES, FUSION = "plan.json", "features.onnx", "fusion.onnx"
RATE_SHARE = 0.25
"""Peak of the learning rate of the networks, as a share of that for pretrained weights."""
TRIED, MOST_LOOKED_AT = 3, 5_000
"""Networks of the front that are judged on the classes of a device, and training images for that."""
TOLERANCE = 1e-3


@dataclass(frozen=True)
class SplitResult:
    """A network that was split.

    Attributes:
        folder: Where the files lie.
        plan: What ``plan.json`` holds.
    """

    folder: Path
    plan: Mapping[str, Any]


@verb(SplitSettings)
def split(given: Given) -> SplitResult:
    """Share the model of a search between several devices, and write a folder for each.

    Returns:
        Where the files are, and what they cost and are worth.

    Raises:
        UsageError: Devices, link or limit cannot be read, there are more devices than classes, or the run's networks
            are not trained with labels.
        UnknownNameError, TableMissingError: There is no such device, or it has no table.
        NothingFitsError: No network of the front keeps to the limit and to a device's memory.
        ProofError: The written files disagree with what was trained; nothing is left behind.
        RunError, CheckpointError, DataError, SupernetError, NasError: The run, its weights or its images cannot be
            used, or nothing can be written.
    """
    settings = SplitSettings(**given)
    members, link = parse_devices(settings.devices), parse_link(settings.link)
    splitting = _Splitting(settings, members, link)
    folder = Path(settings.output or Path(settings.run) / "split")
    if folder.exists() and not (folder / PLAN).exists():
        raise NasError(f"`{folder}` exists and holds no plan", hint="choose another `--output`")
    with replacing_folder(folder) as draft:
        plan = splitting(draft)
        write_json(draft / PLAN, plan)
    return SplitResult(folder, plan)


@dataclass(frozen=True)
class _Chosen:
    """The network of one device.

    Attributes:
        number: Its place on the front.
        network: The network, without a classifier.
        own_accuracy: Accuracy in telling its classes from each other and from the rest, on the search part.
    """

    number: int
    network: nn.Module
    own_accuracy: float


class _Splitting:
    """One call of `split`."""

    def __init__(self, settings: SplitSettings, members: Sequence[Member], link: Link) -> None:
        self.settings, self.members, self.link = settings, members, link
        self.progress: Progress = settings.progress or ignore
        is_share = settings.limit.strip().endswith("%")
        limit = (SHARE if is_share else LATENCY).parse(settings.limit)
        run = Path(settings.run)
        folder = RunFolder(run)
        if folder.is_training:
            raise UsageError(f"`{run}` holds no search, expected one with a front", hint="name the search's folder")
        front = load_front(run)
        checkpoint = folder.find_weights()
        if checkpoint is None or folder.settings.get("labels") == WITHOUT_LABELS:
            what = "random weights" if checkpoint is None else "no labels"
            raise UsageError(
                f"`{run}` was searched with {what}, and a split learns from labels which classes belong together",
                hint="search with `--model` and `--data`",
            )
        self.supernet, metadata = load_supernet(checkpoint)
        self.images: ImageData = images_of(checkpoint, metadata, settings.data)
        check_one_label(self.images, "`nas split`")
        if len(members) > self.images.classes:
            raise UsageError(
                f"{len(members)} devices and {self.images.classes} classes, expected a class for every device",
                hint="name fewer devices",
            )
        self.space, self.seed = self.supernet.space, front.seed
        self.asked = Compensation.of(folder.settings)
        self.costs = FrontCosts(front, self.supernet, members, link)
        self.limit_ms = self.costs.limit_ms(limit) if is_share else limit

    def __call__(self, folder: Path) -> dict[str, Any]:
        """Split, write into ``folder``, and judge; what ``plan.json`` is to hold."""
        fitting = [self.costs.fitting(number, self.limit_ms) for number in range(len(self.members))]
        self.progress(StageStarted("classes"))
        whole = self.supernet.extract(self.space.largest).eval()
        reestimate_batch_norm(whole, calibration_batches(self.images, self.seed))
        whole_latencies = [costs.latency(-1) for costs in self.costs.devices]
        sizes = sizes_by_speed([latency.ms for latency in whole_latencies], self.images.classes)
        confusion_KK, accuracy = _confusion(whole, self.images)
        teacher = whole if is_heeded(accuracy, None, self.images, self.progress) else None
        groups = partition(confusion_KK, sizes, self.seed)
        self.progress(StageStarted("networks"))
        chosen = [self._choose(*each) for each in zip(self.members, groups, fitting, strict=True)]
        split = self._fused([each.network for each in chosen], [each.number for each in chosen])
        self.progress(StageStarted("training"))
        accuracies = self._train(split, teacher)
        single = self._single(teacher)
        self.progress(StageStarted("export"))
        names = [f"{number}-{member.target}" for number, member in enumerate(self.members, 1)]
        network = self._write(split, folder, names)
        judged = judge(network, self.images.batches("test", BATCH_SIZE), self.images.class_names)
        entries = [self._entry(*each, split) for each in zip(range(len(names)), names, groups, chosen, strict=True)]
        return {
            "schema": 1,
            "limit_ms": self.limit_ms,
            "devices": entries,
            "link": {"bytes_per_second": 1e3 * self.link.bytes_per_ms, "delay_ms": self.link.delay_ms},
            "fusion": {"file": FUSION, "ms": self.costs.fusion(split.widths).ms, "target": self.members[0].target},
            **self._times(entries, split),
            "image": {"mean": list(self.images.mean), "std": list(self.images.std)},
            "class_names": list(self.images.class_names),
            "accuracy": {
                "test_images": sum(judged.images),
                "split": judged.accuracy,
                "single": single["test_accuracy"],
                "whole": accuracy_of(whole, self.images, "test", "cpu"),
                "search": dict(accuracies),
            },
            "single": single,
            "whole": {
                "macs": self.space.lower(self.space.largest).macs,
                "ms": [latency.claims()["ms"] for latency in whole_latencies],
            },
        }

    # -- networks ------------------------------------------------------------------------------------------------

    def _choose(self, member: Member, group: Sequence[int], fitting: Sequence[int]) -> _Chosen:
        """Of the most accurate networks that fit the one that tells the device's classes best."""
        make = self._maker(group)
        found = []
        tried = fitting[:TRIED]
        for place, number in enumerate(tried):
            self.progress(StageProgress(f"networks for {member.target}", place, len(tried)))
            network = make(self.costs.architectures[number])
            found.append(_Chosen(number, network, self._own_accuracy(network, self._side(number), group)))
        return max(found, key=lambda each: each.own_accuracy)

    def _maker(self, group: Sequence[int]) -> Any:
        """Makes networks without classifiers, put right on images of some classes and as many of the others."""
        count = 512 if self.asked is None else self.asked.images
        size = min(4 * count, self.images.splits["train"])
        x_BCHW, labels_B = next(iter(self.images.train_batches(size, self.seed, epoch=0)))
        is_own_B = torch.isin(labels_B, torch.tensor(group))
        own, others = is_own_B.nonzero()[:, 0], (~is_own_B).nonzero()[:, 0]
        others = others[: max(count // 2, count - len(own))]
        images_BCHW = x_BCHW[torch.cat([own[: count - len(others)], others])]
        make = self.supernet.extract
        if self.asked is not None:
            make = Compensator(self.supernet, images_BCHW, SEQUENTIAL)
        calibration = calibration_batches(self.images, self.seed)

        def made(architecture: Architecture) -> nn.Module:
            network = make(architecture).eval()
            reestimate_batch_norm(network, calibration)
            return without_classifier(network, self.space)

        return made

    def _own_accuracy(self, network: nn.Module, side: int, group: Sequence[int]) -> float:
        """Accuracy of a classifier that is fitted for some classes and the rest."""
        own_K = torch.full((self.images.classes,), len(group))
        own_K[list(group)] = torch.arange(len(group))
        parts = []
        for part in ("train", "search"):
            batches = self.images.batches(part, BATCH_SIZE, MOST_LOOKED_AT)
            with torch.no_grad():
                rows = [(network(self.supernet.family.prepare(x, side)), labels_B) for x, labels_B in batches]
            parts.append((torch.cat([row[0] for row in rows]), own_K[torch.cat([row[1] for row in rows])]))
        (known_ND, labels_N), (judged_ND, judged_N) = parts
        return fit_classifier(known_ND, labels_N, len(group) + 1, self.seed).accuracy(judged_ND, judged_N)

    def _side(self, number: int) -> int:
        return self.space.input_shape(dict(self.costs.architectures[number].settings))[-1]

    def _fused(self, networks: Sequence[nn.Module], numbers: Sequence[int]) -> FusedNetworks:
        return FusedNetworks(self.space, networks, [self._side(number) for number in numbers], self.images.classes)

    def _train(self, network: FusedNetworks, teacher: nn.Module | None) -> Mapping[str, float]:
        rate = RATE_SHARE * pretrained_rate(self.space)

        def told(done: int, steps: int) -> None:
            self.progress(StageProgress("training together", done, steps))

        return train_fused(
            network, self.images, teacher, epochs=self.settings.epochs, rate=rate, seed=self.seed, progress=told
        )

    def _single(self, teacher: nn.Module | None) -> dict[str, Any]:
        """The most accurate network of the front that keeps to the limit on one device alone, trained as the split."""
        device, number = self.costs.alone(self.limit_ms)
        make = self._maker(range(self.images.classes))
        network = self._fused([make(self.costs.architectures[number])], [number])
        self._train(network, teacher)
        return {
            "target": self.members[device].target,
            "architecture": self.costs.architectures[number].to_dict(),
            "macs": self.space.lower(self.costs.architectures[number]).macs,
            **self.costs.devices[device].latency(number).claims(),
            "test_accuracy": accuracy_of(network, self.images, "test", "cpu"),
        }

    # -- files and figures ---------------------------------------------------------------------------------------

    def _write(self, network: FusedNetworks, folder: Path, names: Sequence[str]) -> Any:
        """Write all parts as ONNX files; the whole of them in ONNX Runtime, images ``(B, 3, H, W)`` to logits."""
        for name, branch, side in zip(names, network.branches, network.sides, strict=True):
            (folder / name).mkdir()
            export_onnx(branch.eval(), side, folder / name / FEATURES)
        with quiet_exporters():
            torch.onnx.export(
                network.fusion.eval(), (torch.zeros(1, sum(network.widths)),), str(folder / FUSION), dynamo=False,
                opset_version=OPSET, input_names=[INPUT_NAME], output_names=[OUTPUT_NAME],
            )  # fmt: skip
        branches, fusion = [OnnxNetwork(folder / name / FEATURES) for name in names], OnnxNetwork(folder / FUSION)
        prepare = self.supernet.family.prepare

        def run(x_BCHW: Tensor) -> Any:
            seen = [branch(prepare(x_BCHW, side)) for branch, side in zip(branches, network.sides, strict=True)]
            return fusion(torch.from_numpy(np.concatenate(seen, axis=1)))

        x_BCHW, _ = next(iter(self.images.batches("search", PROOF_IMAGES)))
        with torch.no_grad():
            expected_BK = network(x_BCHW).numpy()
        difference = float(np.abs(run(x_BCHW) - expected_BK).max() / max(np.ptp(expected_BK), 1e-12))
        if not difference <= TOLERANCE:
            raise ProofError(
                f"the files of the split give logits that differ by {difference:.2g} of their range from the network's,"
                f" expected at most {TOLERANCE:g}; nothing was written"
            )
        return run

    def _entry(
        self, device: int, name: str, group: Sequence[int], chosen: _Chosen, network: FusedNetworks
    ) -> dict[str, Any]:
        number, costs = chosen.number, self.costs.devices[device]
        graph = self.space.lower(self.costs.architectures[number])
        return {
            "target": costs.member.target,
            "source": costs.source,
            "memory": costs.member.memory,
            "folder": name,
            "file": f"{name}/{FEATURES}",
            "input_side": network.sides[device],
            "classes": [self.images.class_names[k] for k in group],
            "architecture": self.costs.architectures[number].to_dict(),
            "own_accuracy": chosen.own_accuracy,
            "params": graph.params,
            "macs": graph.macs,
            "bytes": float(costs.bytes_M[number]),
            **costs.latency(number).claims(),
            "features": network.widths[device],
            "send_ms": self.link.send_ms(network.widths[device]),
        }

    def _times(self, entries: Sequence[Mapping[str, Any]], network: FusedNetworks) -> dict[str, float | None]:
        """Numbers where the tables have evidence for all networks, and upper ends in any case."""
        fusion, send = self.costs.fusion(network.widths), [entry["send_ms"] for entry in entries]
        high = [entry["high_ms"] for entry in entries]
        compute = [entry["ms"] for entry in entries]
        is_known = None not in compute
        return {
            "latency_ms": latency_ms(compute, send, fusion.ms) if is_known else None,
            "high_ms": latency_ms(high, send, fusion.high_ms),
            "shared_link_ms": shared_link_ms(compute, send, fusion.ms) if is_known else None,
            "shared_link_high_ms": shared_link_ms(high, send, fusion.high_ms),
        }


@torch.no_grad()
def _confusion(network: nn.Module, images: ImageData) -> tuple[Floats, float]:
    """The mean probability of every class on the images of each one, and the accuracy, on the search part."""
    sums_KK, right = torch.zeros(images.classes, images.classes, dtype=torch.float64), 0
    for x_BCHW, labels_B in images.batches("search", BATCH_SIZE):
        logits_BK = network(x_BCHW)
        right += int((logits_BK.argmax(dim=1) == labels_B).sum())
        sums_KK.index_add_(0, labels_B, logits_BK.softmax(dim=1).double())
    found: Floats = (sums_KK / sums_KK.sum(dim=1, keepdim=True).clamp_min(1e-12)).numpy()
    return found, right / images.splits["search"]
