"""Which device gets which classes and which network, what that takes, and what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.cli.display import latency_text
from nas.cli.split import _together
from nas.errors import UsageError
from nas.runs.front import SearchFront
from nas.splitting import split
from nas.splitting.costs import FrontCosts, NothingFitsError
from nas.splitting.devices import Link, Member, latency_ms, parse_devices, parse_link, shared_link_ms
from nas.splitting.partition import partition, sizes_by_speed
from nas.training.session import training_settings
from search_spaces import SingleSpace, get_space
from supernets import Supernet
from supernets.data.sources import load_data
from supernets.features import run_watched
from supernets.fusion import FusedNetworks, train_fused, without_classifier
from supernets.timm_models.export import to_timm_names
from supernets.training.trainer import train_supernet
from tests.support.timm_networks import TINY, images, made


def test_every_class_is_in_one_group_with_what_it_is_confused_with() -> None:
    confusion_KK = np.full((7, 7), 0.01)
    for group in ([0, 3, 5], [1, 2, 4, 6]):
        confusion_KK[np.ix_(group, group)] = 0.2
    groups = partition(confusion_KK, [4, 3], seed=0)
    assert sorted(groups) == [[0, 3, 5], [1, 2, 4, 6]]
    assert [len(group) for group in groups] == [4, 3]
    never = partition(np.eye(5), [2, 2, 1], seed=0)
    assert sorted(k for group in never for k in group) == list(range(5))
    assert [len(group) for group in never] == [2, 2, 1]


def test_faster_devices_get_more_classes() -> None:
    assert sizes_by_speed([10.0, 10.0], 10) == [5, 5]
    assert sizes_by_speed([10.0, 30.0], 10) == [7, 3]
    assert sizes_by_speed([1.0, 1000.0], 10) == [9, 1]
    assert sizes_by_speed([1.0, 2.0, 3.0], 3) == [1, 1, 1]


def test_latency_is_that_of_the_slowest_device_and_of_a_link() -> None:
    link = parse_link("1MB/s, 2ms")
    assert link == Link(1000.0, 2.0)
    assert link.send_ms(384) == pytest.approx(2 + 4 * 384 / 1000)
    compute, send = [10.0, 11.0, 3.0], [4.0, 2.0, 1.0]
    assert latency_ms(compute, send, 0.5) == 14.5
    assert shared_link_ms(compute, send, 0.5) == 16.5  # the third at 4, the first from 10 to 14, the second until 16
    assert shared_link_ms([1.0, 9.0], [2.0, 2.0], 0.5) == latency_ms([1.0, 9.0], [2.0, 2.0], 0.5)
    assert parse_link("500kB/s").delay_ms == 0


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (parse_devices, "pixel6:1GB", "names 1 device, expected two or more"),
        (parse_devices, "pixel6:,pixel4", "expected names and memories such as"),
        (parse_devices, "pixel6,,pixel4", "expected names and memories such as"),
        (parse_devices, "pixel6:1,pixel4", "has no unit, expected a size"),
        (parse_link, "1MB", "expected `1MB/s` or `1MB/s,2ms`"),
        (parse_link, "1MB/s,2", "has no unit, expected a latency"),
    ],
)
def test_what_cannot_be_read_is_refused(read: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_training": True}, "holds no search, expected one with a front"),
        ({"find_weights": lambda: None}, "was searched with random weights, and a split learns from labels"),
        ({"settings": {"labels": "none"}}, "was searched with no labels, and a split learns from labels"),
        ({"classes": 1}, "2 devices and 1 classes, expected a class for every device"),
    ],
)
def test_runs_that_cannot_be_split_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written, and before costs are asked for."""
    run = {"is_training": False, "find_weights": lambda: tmp_path / "weights", "settings": {}, "classes": 10, **changes}
    images = SimpleNamespace(classes=run.pop("classes"), has_several_labels=False)
    for name, found in (
        ("RunFolder", SimpleNamespace(**run)),
        ("load_front", None),
        ("load_supernet", (None, {})),
        ("images_of", images),
    ):
        monkeypatch.setattr(split, name, lambda *_, found=found: found)
    with pytest.raises(UsageError, match=message):
        nas.split(tmp_path, "pixel6:1GB,pixel4:1GB", "1MB/s")
    assert not (tmp_path / "split").exists()


@pytest.fixture(scope="module")
def costs() -> FrontCosts:
    """The smallest and the largest network of a small model on two phones."""
    supernet = made(TINY)
    space = supernet.space
    members = [
        SimpleNamespace(architecture=each, value=lambda _, accuracy=accuracy: accuracy)
        for each, accuracy in ((space.smallest, 0.5), (space.largest, 0.9))
    ]
    front = cast("SearchFront", SimpleNamespace(front=members, objective="accuracy"))
    return FrontCosts(front, supernet, [Member("pixel6", 1e9), Member("pixel4", 1e9)], Link(1000.0, 2.0))


def test_what_fits_keeps_to_limit_and_memory(costs: FrontCosts) -> None:
    assert costs.fitting(0, 1e3) == [1, 0]
    beside = costs.link.send_ms(max(costs.widths)) + costs.fusion([48, 48]).high_ms
    small, large, whole = costs.devices[0].high_ms_M
    assert large == whole
    assert costs.limit_ms(0.5) == 0.5 * min(device.high_ms_M[-1] for device in costs.devices)
    between = (small + large) / 2 + beside
    assert costs.fitting(0, between) == [0]
    assert costs.alone(1e3)[1] == 1
    with pytest.raises(NothingFitsError, match="is done on `pixel6` within 1 ms: the fastest that has room") as found:
        costs.fitting(0, 1.0)
    assert found.value.exit_code == 3
    assert "raise `--limit` to" in str(found.value.hint)


def test_what_has_no_room_is_refused(costs: FrontCosts, monkeypatch: pytest.MonkeyPatch) -> None:
    device = costs.devices[1]
    least = device.bytes_M.min()
    tight = replace(device, member=Member("pixel4", least - 1))
    monkeypatch.setattr(costs, "devices", [costs.devices[0], tight])
    with pytest.raises(NothingFitsError, match="has room on `pixel4`: the smallest takes"):
        costs.fitting(1, 1e3)


def test_networks_without_evidence_in_a_measured_table_are_left_out(
    costs: FrontCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = replace(costs.devices[0].latencies, kind="measured", extrapolated=np.array([True, False, True]))
    monkeypatch.setattr(costs, "devices", [replace(costs.devices[0], latencies=measured), costs.devices[1]])
    assert costs.fitting(0, 1e9) == [1]
    assert latency_text(costs.devices[0].latency(0).claims()) == "no evidence"
    unknown = replace(measured, extrapolated=np.array([True, True, True]))
    monkeypatch.setattr(costs, "devices", [replace(costs.devices[0], latencies=unknown), costs.devices[1]])
    with pytest.raises(NothingFitsError, match="the table of `pixel6` has no evidence") as found:
        costs.fitting(0, 1e9)
    assert "nas latency build" in str(found.value.hint)


@pytest.mark.parametrize(("known", "text"), [(True, "together 7 ms (up to 12, limit 20)"), (False, "up to 12 ms")])
def test_there_is_no_number_without_evidence(known: bool, text: str) -> None:
    plan: dict[str, Any] = {"latency_ms": 7.0 if known else None, "shared_link_ms": 9.0 if known else None}
    plan |= {"high_ms": 12.0, "limit_ms": 20.0, "shared_link_high_ms": 16.0, "fusion": {"ms": 0.1}}
    found = _together(plan)
    assert text in found
    assert ("a range without a number" in found) is (not known)


def test_a_network_without_evidence_has_a_range_alone(costs: FrontCosts) -> None:
    latency = costs.devices[0].latency(0)  # a plain transformer on `pixel6`
    assert latency.extrapolated
    assert latency.claims()["ms"] is None
    assert 0 < latency.low_ms < latency.high_ms == costs.devices[0].high_ms_M[0]


def test_networks_without_classifiers_give_what_theirs_read() -> None:
    supernet = made(TINY)
    network, x_BCHW = supernet.extract(supernet.space.largest).eval(), images(supernet)
    with torch.no_grad():
        expected_BD, _ = run_watched(network, supernet.space, x_BCHW)
        assert torch.equal(without_classifier(network, supernet.space)(x_BCHW), expected_BD)


class _Shades:
    """Two classes of images, dark and bright; only what a training asks for."""

    classes, splits = 2, {"train": 64, "search": 32}

    def _drawn(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels_B = torch.arange(count) % 2
        x_BCHW = 0.3 * torch.randn(count, 3, 64, 64, generator=generator)
        return x_BCHW + labels_B[:, None, None, None], labels_B

    def batches(self, part: str, size: int, most: int | None = None) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        return [self._drawn(self.splits[part], len(part))]

    def train_batches(self, size: int, seed: int, epoch: int) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        return [self._drawn(size, 100 * seed + epoch)]

    def steps_per_epoch(self, size: int) -> int:
        return 1


def test_a_fusion_learns_and_joint_training_is_kept_where_better() -> None:
    supernet = made(TINY)
    branches = [
        without_classifier(supernet.extract(each).eval(), supernet.space)
        for each in (supernet.space.smallest, supernet.space.largest)
    ]
    sides = [supernet.space.input_shape(dict(each.settings))[-1] for each in (supernet.space.smallest,)] + [64]
    network = FusedNetworks(supernet.space, branches, sides, classes=2)
    found = train_fused(
        network, cast("Any", _Shades()), None, epochs=1, rate=1e-4, seed=0, progress=lambda done, steps: None
    )
    assert found["fused"] >= 0.9
    x_BCHW, labels_B = _Shades().batches("search", 32)[0]
    with torch.no_grad():
        accuracy = float((network(x_BCHW).argmax(dim=1) == labels_B).float().mean())
    assert accuracy == max(found.values())
    assert network.fusion.hidden.out_features == sum(network.widths) // 2


@pytest.mark.slow
def test_a_trained_model_is_split_over_two_devices(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4}
    model = "vit_tiny_patch16_224?" + "&".join(f"{name}={size}" for name, size in sizes.items())
    space = get_space(f"timm:{model}", 10)
    whole = Supernet(SingleSpace(space, space.largest), seed=0)
    settings = replace(training_settings(40, None, 0), learning_rate=1e-3, policy="uniform")
    train_supernet(whole, load_data("digits", 32), settings, tmp_path / "whole")
    save_file(to_timm_names(whole.network.state_dict()), tmp_path / "model.safetensors")
    run = nas.search(
        model=model, weights=tmp_path / "model.safetensors", data="digits", budget_seconds=0, evaluations=60,
        limit_share=0.5, focus=0, target="pixel6", output=tmp_path / "run",
    ).run  # fmt: skip
    with pytest.raises(UsageError, match="11 devices and 10 classes, expected a class for every device"):
        nas.split(run, ",".join(["pixel6"] * 11), "1MB/s")
    found = nas.split(run, "pixel6:1GB,pixel6:1GB", "100MB/s", limit="90%")
    plan = json.loads((found.folder / "plan.json").read_text(encoding="utf-8"))
    devices = plan["devices"]
    assert sorted(name for device in devices for name in device["classes"]) == sorted(plan["class_names"])
    assert all(device["bytes"] <= device["memory"] for device in devices)
    assert all(device["macs"] <= 0.5 * plan["whole"]["macs"] for device in devices)
    assert all(device["extrapolated"] for device in devices)  # `pixel6` has seen no transformer
    assert all(device["ms"] is None for device in devices)
    assert plan["latency_ms"] is None
    slowest = max(device["high_ms"] + device["send_ms"] for device in devices)
    assert slowest < plan["high_ms"] <= plan["shared_link_high_ms"]
    assert plan["accuracy"]["split"] >= plan["accuracy"]["whole"] - 0.02
    assert 0 < plan["accuracy"]["single"] <= 1
