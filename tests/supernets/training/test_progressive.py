"""Progressive tokenisation: what it costs, that it trains the same weights, and that it can be stopped anywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import nas
from latency_tables.counting import counted_macs
from nas.cli.main import app
from nas.errors import NasError, RunError
from search_spaces import SearchSpaceError, SingleSpace, find_architecture, get_space
from search_spaces.asvit_progressive import coarse_dilation
from supernets import Supernet, SupernetError
from supernets.checkpoint import load_supernet, read_checkpoint
from supernets.data.image_data import ImageData
from supernets.errors import CheckpointError
from supernets.training.events import Callbacks, TrainingProgress
from supernets.training.progressive import PROGRESSIVE, mean_of_rest, phase_at, phase_costs
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

MINI = get_space("asvit-mini", 2)
SETTINGS = TrainingSettings(
    epochs=4, batch_size=8, policy="uniform", progressive=True, checkpoint_every_seconds=1000, log_every_steps=1
)
STEPS = 12


# -- cost ------------------------------------------------------------------------------------------------------------


def test_costs_against_the_published_figure() -> None:
    """The figure reads 13.2 and 28.5 % of the full FLOPs; of Large's MACs it is 13.3 and 27.8 %.

    Its average over 300 epochs is 64.5 % of full.
    """
    space, large = find_architecture("asvit/large")
    costs = phase_costs(space, large, PROGRESSIVE)
    assert [cost.patch_stride for cost in costs] == [4, 2, 1]
    assert [cost.share for cost in costs] == pytest.approx([0.132, 0.285, 1.0], abs=0.008)
    assert [round(cost.share, 4) for cost in costs] == [0.1329, 0.2781, 1.0]
    assert [round(300 * cost.end) for cost in costs] == [80, 132, 300]
    average = sum((cost.end - cost.start) * cost.share for cost in costs)
    assert average == pytest.approx(0.645, abs=0.003)


def test_maps_strides_and_splits() -> None:
    space, large = find_architecture("asvit/large")
    expected = {4: ([14, 7, 7, 4], 16), 2: ([28, 14, 7, 7], 8), 1: ([56, 28, 14, 7], 4)}
    for patch_stride, (sides, stride) in expected.items():
        blocks = dict(space.coarse_blocks(large, patch_stride))
        assert [blocks[f"stage{stage}.0"].side for stage in (1, 2, 3, 4)] == sides  # type: ignore[attr-defined]
        assert blocks["patch"].stride == stride  # type: ignore[attr-defined]
        assert blocks["head"].side == sides[-1]  # type: ignore[attr-defined]
    assert list(space.coarse_blocks(large, 1)) == list(space.blocks(large))
    finely_split = get_space("asvit").from_text("8,8,3|4,4,2|4,2,4|4,1,6|32")
    blocks = dict(get_space("asvit").coarse_blocks(finely_split, 4))
    assert [blocks[f"stage{stage}.0"].splits for stage in (1, 2, 3, 4)] == [2, 1, 1, 1]  # type: ignore[attr-defined]


def test_dilations() -> None:
    assert [coarse_dilation(4, patch_stride) for patch_stride in (4, 2, 1)] == [5, 2, 1]  # as in the figure
    assert [coarse_dilation(8, patch_stride) for patch_stride in (4, 2, 1)] == [4, 2, 1]
    for kernel in range(1, 9):
        assert coarse_dilation(kernel, 1) == 1
        for patch_stride in (2, 4):
            assert coarse_dilation(kernel, patch_stride) * (kernel - 1) + 1 <= kernel * patch_stride


@pytest.mark.parametrize("patch_stride", [1, 2, 4])
@torch.no_grad()
def test_blocks_run_at_the_sizes_that_they_are_lowered_to(patch_stride: int) -> None:
    supernet = Supernet(MINI).eval()
    x_BCHW = torch.randn(2, 3, 32, 32)
    for architecture in MINI.decode(MINI.sample(10, np.random.default_rng(0))):
        with supernet.borrow(architecture, patch_stride) as subnet:
            assert subnet(x_BCHW).shape == (2, 2)
            assert counted_macs(subnet, x_BCHW) == 2 * MINI.lower(architecture, patch_stride).macs


def test_every_position_learns_on_coarse_patches() -> None:
    supernet = Supernet(MINI)
    with supernet.borrow(MINI.smallest, 4) as subnet:
        subnet(torch.randn(2, 3, 32, 32)).square().sum().backward()
    gradient = supernet.network.get_parameter("patch.position_embedding").grad
    assert gradient is not None
    assert (gradient[..., :8].abs().sum(dim=2) > 0).all()


def test_a_space_without_patches_refuses() -> None:
    with pytest.raises(SearchSpaceError, match="`elastic-mini` has no patch embedding"):
        phase_costs(get_space("elastic-mini"), get_space("elastic-mini").smallest, PROGRESSIVE)


# -- training --------------------------------------------------------------------------------------------------------


def test_phases_of_a_training() -> None:
    assert [phase_at(PROGRESSIVE, progress) for progress in (0.0, 0.26, 0.27, 0.43, 0.45, 1.0)] == [0, 0, 1, 1, 2, 2]
    values = [1.0, 2.0, 10.0]
    assert mean_of_rest(PROGRESSIVE, values, 0.0) == pytest.approx((80 * 1 + 52 * 2 + 168 * 10) / 300)
    assert mean_of_rest(PROGRESSIVE, values, 106 / 300) == pytest.approx((26 * 2 + 168 * 10) / 194)
    assert mean_of_rest(PROGRESSIVE, values, 0.5) == pytest.approx(10.0)
    assert mean_of_rest(PROGRESSIVE, values, 1.0) == 10.0


@pytest.fixture(scope="module")
def weights(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a training that nobody stops ends with."""
    folder = tmp_path_factory.mktemp("whole")
    train_supernet(Supernet(MINI), data, SETTINGS, folder)
    return dict(read_checkpoint(folder / "supernet.safetensors").weights)


@pytest.mark.parametrize("stop", [2, 4, 8])
def test_a_stopped_training_ends_with_the_same_bits(
    data: ImageData, weights: dict[str, torch.Tensor], tmp_path: Path, stop: int
) -> None:
    """Stopped within the first, the second and the last phase."""

    def interrupt(progress: TrainingProgress) -> None:
        if progress.step == stop:
            raise RuntimeError("crash")

    frequent = dataclasses.replace(SETTINGS, checkpoint_every_seconds=0)
    with pytest.raises(RuntimeError, match="crash"):
        train_supernet(Supernet(MINI), data, frequent, tmp_path, callbacks=Callbacks(progress=interrupt))
    train_supernet(Supernet(MINI), data, frequent, tmp_path, resume=True)
    stopped = read_checkpoint(tmp_path / "supernet.safetensors")
    assert stopped.metadata["step"] == STEPS
    assert all(torch.equal(tensor, stopped.weights[name]) for name, tensor in weights.items())


def test_a_time_budget_is_planned_over_all_phases(data: ImageData, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, budget_seconds=2.0)
    seen: list[TrainingProgress] = []
    result = train_supernet(Supernet(MINI), data, settings, tmp_path, callbacks=Callbacks(progress=seen.append))
    checkpoint = read_checkpoint(result.checkpoint)
    weights = checkpoint.metadata["training"]["phase_weights"]
    assert len(weights) == 3
    assert min(weights) > 0
    assert result.steps == seen[-1].step == seen[-1].total_steps
    assert seen[-1].eta_seconds == 0


# -- one network -----------------------------------------------------------------------------------------------------


def test_one_network_is_trained_resumed_and_exported(images: Path, tmp_path: Path) -> None:
    run, text = tmp_path / "run", "3,2,2|2,1,2|3,1,2|2,1,2|8,8"
    result = nas.train(arch=f"asvit-mini:{text}", data=str(images), progressive=True, epochs=2, output=run)
    assert set(result.accuracy) == {"network"}
    assert [phase.patch_stride for phase in result.phases] == [4, 2, 1]
    again = nas.train(output=run, resume=True)
    assert (again.accuracy, again.steps) == (result.accuracy, result.steps)
    with pytest.raises(RunError, match="`arch` was"):
        nas.train(arch="asvit-mini/largest", output=run, resume=True)

    exported = CliRunner().invoke(app, ["export", str(run)])
    assert exported.exit_code == 0, exported.output
    network = nas.load(run / "exports" / "network")
    supernet, _ = load_supernet(result.checkpoint)
    architecture = MINI.from_text(text)
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x_BCHW), supernet(x_BCHW, architecture))
    picked = CliRunner().invoke(app, ["export", str(run), "--pick", "best"])
    assert picked.exit_code == 2
    assert "training of one network" in picked.output


def test_weights_of_one_network_are_no_supernet(data: ImageData, tmp_path: Path) -> None:
    space = SingleSpace(MINI, MINI.smallest)
    supernet = Supernet(space)
    assert sum(p.numel() for p in supernet.parameters()) == MINI.lower(MINI.smallest).params
    result = train_supernet(supernet, data, dataclasses.replace(SETTINGS, epochs=1), tmp_path)
    loaded, _ = load_supernet(result.checkpoint)
    with pytest.raises(SupernetError, match="weights of one network of `asvit-mini`"):
        loaded.extract(MINI.largest)
    for other in (Supernet(MINI), Supernet(SingleSpace(MINI, MINI.middle))):
        with pytest.raises(CheckpointError, match="found weights of the network"):
            train_supernet(other, data, dataclasses.replace(SETTINGS, epochs=1), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "asvit/small", "space": "elastic"}, "is of space `asvit-grown`, found space `elastic`"),
        ({"arch": "resnet18"}, "which no adapter knows"),
        ({"arch": "elastic-mini/middle", "epochs": 1, "budget_seconds": 1.0}, "expected one of them"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(NasError, match=message):
        nas.train(**arguments, output=tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_name_is_looked_up_in_the_space_that_is_given() -> None:
    from nas.training.request import find_network

    assert find_network("small", "asvit") == find_architecture("asvit/small")[1]
    assert find_network("asvit/small", "asvit").space == "asvit-grown"
    assert find_network("8,2,3|4,1,2|4,1,4|4,1,6|32", "asvit") == get_space("asvit").find("seed")
