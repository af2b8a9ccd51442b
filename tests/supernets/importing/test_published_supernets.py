"""Published supernets: ours against their authors' rules, restated; and files that are not what they should be."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces import Architecture, get_space
from supernets import CheckpointError, Supernet
from supernets.importing.registry import read_supernet
from tests.support.published_supernets import (
    Tensors,
    autoformer_logits,
    autoformer_tensors,
    elasticvit_logits,
    elasticvit_tensors,
)

SIZES = {
    "autoformer-mini": (256, 3, 4, 4, 10),
    "autoformer-tiny": (256, 14, 4, 14, 1000),
    "autoformer-small": (448, 14, 7, 14, 1000),
    "autoformer-base": (640, 16, 10, 14, 1000),
    "prenas-tiny": (256, 14, 4, 14, 1000),
    "prenas-small": (448, 14, 7, 14, 1000),
    "prenas-base": (640, 14, 10, 14, 1000),
}
"""Width, blocks, heads, side of the grid and classes of the published supernets."""
NUMBERS = {
    "autoformer-tiny": (11_669_224, 232),
    "autoformer-small": (34_790_440, 232),
    "autoformer-base": (80_160_360, 264),
}
"""Numbers and tensors of the published files, counted with the reference implementation."""
QUICK = ("autoformer-mini", "autoformer-tiny", "prenas-tiny")


def saved(file: Path, tensors: Tensors, **arguments: object) -> Path:
    """A file as the authors' training writes it."""
    content = {
        "model": tensors,
        "optimizer": {"state": {}},
        "epoch": 499,
        "args": argparse.Namespace(cfg="a.yaml", **arguments),
    }
    torch.save(content, file)
    return file


def file_of(name: str, folder: Path) -> tuple[Path, Tensors]:
    tensors = autoformer_tensors(*SIZES[name])
    arguments = {"candfile": "interval_cands/tiny.json"} if name.startswith("prenas") else {}
    return saved(folder / "supernet.pth", tensors, **arguments), tensors


def drawn(supernet: Supernet, count: int) -> list[Architecture]:
    return supernet.space.decode(supernet.space.sample(count, np.random.default_rng(0)))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "count"),
    [*((name, 2) for name in QUICK), *(pytest.param(name, 10, marks=pytest.mark.slow) for name in SIZES)],
)
def test_networks_compute_what_the_reference_does(name: str, count: int, tmp_path: Path) -> None:
    file, tensors = file_of(name, tmp_path)
    if name in NUMBERS:
        assert (sum(tensor.numel() for tensor in tensors.values()), len(tensors)) == NUMBERS[name]
    imported = read_supernet(file)
    space, rule = imported.supernet.space, name.partition("-")[0]
    assert space.name == name
    assert not imported.notes
    x_BCHW = torch.randn(1, 3, space.image_side, space.image_side, generator=torch.Generator().manual_seed(2))
    naive = []
    for architecture in drawn(imported.supernet, count):
        values = dict(architecture.settings)
        found = imported.supernet(x_BCHW, architecture)
        assert difference(found, autoformer_logits(tensors, x_BCHW, values, rule)) < 1e-5
        naive.append(
            difference(found, autoformer_logits(tensors, x_BCHW, values, "prenas" if rule == "autoformer" else "naive"))
        )
    assert max(naive) > 0.01


@torch.no_grad()
def test_the_naive_rule_of_biases_would_be_seen(tmp_path: Path) -> None:
    file, tensors = file_of("autoformer-mini", tmp_path)
    supernet = read_supernet(file).supernet
    narrow = supernet.space.from_values({**dict(supernet.space.largest.settings), "blocks.1.heads": 3})
    x_BCHW = torch.randn(1, 3, 64, 64)
    assert (
        difference(supernet(x_BCHW, narrow), autoformer_logits(tensors, x_BCHW, dict(narrow.settings), "naive")) > 0.01
    )


def elastic_file(folder: Path) -> tuple[Path, Tensors]:
    tensors = elasticvit_tensors()
    assert (
        sum(t.numel() for name, t in tensors.items() if "running" not in name and "tracked" not in name) == 40_488_174
    )
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": {}, "model_ema": wrapped, "bank": [[]], "epoch": 1}, folder / "checkpoint.pth.tar")
    return folder / "checkpoint.pth.tar", tensors


@pytest.mark.parametrize("count", [1, pytest.param(9, marks=pytest.mark.slow)])
def test_networks_of_elasticvit_and_their_gradients_are_the_references(count: int, tmp_path: Path) -> None:
    file, tensors = elastic_file(tmp_path)
    imported = read_supernet(file)
    supernet = imported.supernet
    assert (supernet.space.name, imported.layout) == ("elastic", "released")
    x_BCHW = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    for name in ("feature_exactor.2.layers.0.qkv.weight", "feature_exactor.5.layers.0.proj.weight"):
        tensors[name].requires_grad_()
    for architecture in [supernet.space.find("T1"), *drawn(supernet, count)]:
        expected = elasticvit_logits(tensors, x_BCHW, dict(architecture.settings))
        with torch.no_grad():
            assert difference(supernet(x_BCHW, architecture), expected) < 1e-5
        expected.square().sum().backward()
        with supernet.borrow(architecture) as subnet:
            subnet(x_BCHW).square().sum().backward()
    for ours, theirs in {"T1.0.attention.qkv": "2.layers.0.qkv", "T4.0.attention.project": "5.layers.0.proj"}.items():
        found = supernet.network.get_parameter(f"{ours}.weight").grad
        wanted = tensors[f"feature_exactor.{theirs}.weight"].grad
        assert found is not None
        assert wanted is not None
        assert (found[..., 0, 0] - wanted).abs().max() < 1e-5 * wanted.abs().max()


@torch.no_grad()
def test_one_network_of_elasticvit_is_an_ordinary_network(tmp_path: Path) -> None:
    file, tensors = elastic_file(tmp_path)
    supernet = read_supernet(file).supernet
    architecture = supernet.space.find("T1")
    plain = Supernet(get_space("elastic"))
    x_BCHW = torch.randn(1, 3, 224, 224)
    network = supernet.extract(architecture)
    assert difference(network(x_BCHW), elasticvit_logits(tensors, x_BCHW, dict(architecture.settings))) < 1e-5
    assert network.state_dict().keys() == plain.extract(architecture).state_dict().keys()


def test_wrapped_and_half_precision_files_are_read(tmp_path: Path) -> None:
    tensors = {
        f"module.{name}": tensor.half() for name, tensor in autoformer_tensors(*SIZES["autoformer-mini"]).items()
    }
    imported = read_supernet(saved(tmp_path / "supernet.pth", tensors))
    assert imported.supernet.space.name == "autoformer-mini"
    assert all(tensor.dtype == torch.float32 for tensor in imported.supernet.state_dict().values())


def without_arguments(tensors: Tensors, quiet: slice | None) -> Tensors:
    """Tensors whose keys' biases, wherever they lie, were never trained."""
    for name, bias in tensors.items():
        if name.endswith("qkv.bias") and quiet is not None:
            bias[quiet] = 0
    return tensors


@pytest.mark.parametrize(
    ("quiet", "expected", "is_told"),
    [
        (slice(256, 384), "autoformer-tiny", False),
        (slice(1, None, 3), "prenas-tiny", False),
        (None, "autoformer-tiny", True),
    ],
)
def test_without_arguments_the_biases_of_keys_tell_whose_it_is(
    quiet: slice | None, expected: str, is_told: bool, tmp_path: Path
) -> None:
    file = tmp_path / "supernet.pth"
    torch.save({"model": without_arguments(autoformer_tensors(*SIZES["autoformer-tiny"]), quiet)}, file)
    imported = read_supernet(file)
    assert imported.supernet.space.name == expected
    assert bool(imported.notes) is is_told
    assert read_supernet(file, "prenas-tiny").supernet.space.name == "prenas-tiny"


FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda t: t.pop("blocks.1.fc1.bias"), "lacks `blocks.1.fc1.bias`"),
    "scaled": (lambda t: t.update({"blocks.0.mlp_scaling.weight": torch.ones(2)}), "mlp_scaling"),
    "not finite": (lambda t: t["norm.bias"].fill_(float("nan")), "`norm.bias` holds numbers that are not finite"),
    "other size": (lambda t: t.update(pos_embed=torch.zeros(1, 50, 256)), "50 tokens; `autoformer-base` has"),
    "other shape": (
        lambda t: t.update({"blocks.0.fc1.weight": torch.zeros(900, 256)}),
        "found (900, 256), expected (1024, 256)",
    ),
    "another kind": (lambda t: [t.pop(name) for name in list(t) if "patch" in name], "expected a published supernet"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_files_are_refused_in_a_sentence(fault: str, tmp_path: Path) -> None:
    tensors = autoformer_tensors(*SIZES["autoformer-mini"])
    spoil, message = FAULTS[fault]
    spoil(tensors)
    with pytest.raises(CheckpointError) as caught:
        read_supernet(saved(tmp_path / "supernet.pth", tensors))
    assert message in str(caught.value)


class Malicious:
    """What unpickles by running code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('run')",)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"model": Malicious()}, tmp_path / "supernet.pth")
    with pytest.raises(CheckpointError, match="found no tensors"):
        read_supernet(tmp_path / "supernet.pth")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file, _ = file_of("autoformer-mini", tmp_path)
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_supernet(file)
