"""What networks learn where there are no labels: the features of a whole network, and its map of patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search_spaces import Architecture, SingleSpace, get_space
from supernets import Supernet
from supernets.data.sources import load_data
from supernets.training.distributed import ProcessGroup
from supernets.training.feature_distillation import PATCHES, PREFIX, WHOLE, FeatureLoss, FeatureTeacher, see
from supernets.training.losses import Seen
from supernets.training.settings import TrainingSettings
from supernets.training.step import TrainStep
from supernets.training.trainer import train_supernet

MODEL = "timm:vit_tiny_patch16_224?depth=2&embed_dim=48&img_size=32&num_heads=3&patch_size=4"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole() -> Supernet:
    """A vision transformer without training; patches of 4 x 4 pixels, so that tokens can be merged."""
    return Supernet(get_space(MODEL, 12), seed=1).eval()


def narrower(whole: Supernet, **changes: int) -> Architecture:
    space = whole.space
    return space.from_values({**dict(space.largest.settings), **changes})


def look(supernet: Supernet, architecture: Architecture, x_BCHW: torch.Tensor) -> Seen:
    with supernet.borrow(architecture) as subnet, torch.no_grad():
        return see(lambda: subnet(x_BCHW), subnet.head, supernet.space, architecture)


@torch.no_grad()
def test_the_loss_is_what_is_written() -> None:
    """Two images of four patches, seen in two channels of three."""
    torch.manual_seed(0)
    loss = FeatureLoss((3, 3), CPU)
    found, wanted = Seen(torch.randn(2, 2), torch.randn(2, 2, 2, 2)), Seen(torch.randn(2, 3), torch.randn(2, 3, 2, 2))
    assert found.patches_BEHW is not None
    assert wanted.patches_BEHW is not None

    def distance(map_33: torch.Tensor, s_2: torch.Tensor, t_3: torch.Tensor) -> torch.Tensor:
        mapped_3 = map_33[:, :2] @ s_2
        return 1 - mapped_3 @ t_3 / (mapped_3.norm() * t_3.norm())

    def by_hand(whole_33: torch.Tensor, patches_33: torch.Tensor) -> float:
        pairs = [(found.whole_BE[b], wanted.whole_BE[b]) for b in (0, 1)]
        maps = (found.patches_BEHW, wanted.patches_BEHW)
        places = [(maps[0][b, :, h, w], maps[1][b, :, h, w]) for b in (0, 1) for h in (0, 1) for w in (0, 1)]
        of_whole = sum(distance(whole_33, *pair) for pair in pairs) / len(pairs)
        return float(of_whole / 2 + sum(distance(patches_33, *place) for place in places) / len(places) / 2)

    assert float(loss(found, wanted)) == pytest.approx(by_hand(torch.eye(3), torch.eye(3)), abs=1e-6)
    maps = {f"{PREFIX}{WHOLE}": torch.randn(3, 3), f"{PREFIX}{PATCHES}": torch.randn(3, 3)}
    loss.load(maps)
    assert float(loss(found, wanted)) == pytest.approx(by_hand(*maps.values()), abs=1e-6)
    alone = float(loss(Seen(found.whole_BE, None), wanted))
    assert alone == pytest.approx(float(loss._distance(WHOLE, found.whole_BE, wanted.whole_BE)))


@torch.no_grad()
def test_networks_see_maps_of_their_own_side_and_none_where_tokens_are_merged(whole: Supernet) -> None:
    x_BCHW, space = torch.randn(3, 3, 32, 32), whole.space
    teacher = FeatureTeacher(whole)
    assert teacher.features == (48, 48)
    wanted, loss = teacher(x_BCHW), FeatureLoss(teacher.features, CPU)
    assert wanted.patches_BEHW is not None
    normed_BNC = whole.network.get_submodule("head.norm")(tokens_of(whole, x_BCHW))
    assert torch.allclose(wanted.whole_BE, normed_BNC[:, 0], atol=1e-6)
    assert torch.allclose(wanted.patches_BEHW[:, :, 1, 2], normed_BNC[:, 1 + 8 + 2], atol=1e-6)
    assert float(loss(look(whole, space.largest, x_BCHW), wanted)) == pytest.approx(0, abs=1e-6)
    small = look(whole, narrower(whole, **{"input.side": 24, "embed": 32}), x_BCHW)
    assert small.patches_BEHW is not None
    assert small.patches_BEHW.shape == (3, 32, 6, 6)
    assert 0 < float(loss(small, wanted)) < 2
    merged = max(value for choice in space.choices if choice.name == "tokens.r" for value in choice.values)
    assert look(whole, narrower(whole, **{"tokens.r": merged}), x_BCHW).patches_BEHW is None


def tokens_of(whole: Supernet, x_BCHW: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        for name in list(dict(whole.space.blocks(whole.space.largest)))[:-1]:
            x_BCHW = whole.network.get_submodule(name)(x_BCHW)
    return x_BCHW


def test_a_network_learns_what_the_whole_one_sees_and_its_maps_are_kept_beside_it(tmp_path: Path) -> None:
    whole = Supernet(get_space(MODEL.replace("patch_size=4", "patch_size=8"), 12), seed=1)
    architecture = narrower(whole, embed=32)
    alone = Supernet(SingleSpace(whole.space.base, architecture))
    alone.network.load_state_dict(whole.extract(architecture).state_dict())
    data, teacher = load_data("digits", 32), FeatureTeacher(whole)
    settings = TrainingSettings(epochs=1, batch_size=64, learning_rate=1e-3, policy="uniform")
    before = alone.network.get_parameter("head.head.weight").detach().clone()
    x_BCHW, _ = next(iter(data.batches("search", 64)))
    loss = FeatureLoss(teacher.features, CPU)
    start = loss(look(alone, architecture, x_BCHW), teacher(x_BCHW)).item()
    train_supernet(alone, data, settings, tmp_path, teacher=teacher)
    assert loss(look(alone, architecture, x_BCHW), teacher(x_BCHW)).item() < 0.95 * start
    assert torch.equal(alone.network.get_parameter("head.head.weight"), before), "the last layer is solved later"
    assert not any("feature_maps" in name for name in alone.state_dict())
    step, again = (TrainStep(alone, settings, ProcessGroup(device=CPU), tmp_path, teacher=teacher) for _ in range(2))
    with torch.no_grad():
        step.trained[f"{PREFIX}{WHOLE}"].add_(1)
    again.restore(step.moments(), {}, {})
    assert torch.equal(again.trained[f"{PREFIX}{WHOLE}"], step.trained[f"{PREFIX}{WHOLE}"])
