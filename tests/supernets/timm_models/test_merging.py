"""Merged tokens: the merging is the published one, networks keep what is promised of all networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.exporting.export import ExportRequest, export_subnet
from search_spaces import Architecture, ArchitectureError, SingleSpace, get_space
from search_spaces.timm_models import PATCH, SIDE, TOKENS, TimmSpace
from supernets import Supernet
from supernets.early_exits import ExitChain
from supernets.networks.timm_subnet import merge_tokens, with_sizes
from supernets.timm_models.compensation import PREFIX, Compensator
from supernets.timm_models.export import plain_timm_config, subnet_config
from supernets.timm_models.merging import most_merged, places_of
from tests.support.timm_networks import check_borrowed_gradients, check_counts_of, check_rebuilt, images, made

MODELS = {
    "class token": "vit_tiny_patch16_224?img_size=64&depth=3&embed_dim=48&num_heads=3",
    "registers, layer scale": "vit_small_patch14_reg4_dinov2?img_size=56&depth=2&embed_dim=48&num_heads=3",
    "attention pooling": "vit_base_patch16_siglip_224?img_size=64&depth=2&embed_dim=48&num_heads=3",
}


def merging(space: TimmSpace, number: int = 0, **values: int) -> Architecture:
    """The largest network but for some values, and for merging as much as the choice's value of a number says."""
    choice = space.choices[space.columns[TOKENS]]
    return space.from_values({**dict(space.largest.settings), TOKENS: choice.values[number], **values})


def space_of(supernet: Supernet) -> TimmSpace:
    assert isinstance(supernet.space, TimmSpace)
    return supernet.space


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    return made(request.param)


@pytest.fixture(scope="module")
def plain() -> Supernet:
    return made(MODELS["class token"])


def test_the_most_similar_are_merged_into_means() -> None:
    x_BNC = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))
    size_BN = torch.tensor([[1.0, 1, 2, 1, 3, 1, 1, 4, 1, 1]]).expand(2, -1)
    x_BNE = torch.cat([x_BNC, size_BN[..., None]], dim=-1)
    found_BNE = merge_tokens(x_BNE, 3, prefix=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(merge_tokens(x_BNE, 3, prefix=1), found_BNE)
    for image in range(2):
        patches, sizes = x_BNC[image, 1:], size_BN[image, 1:].tolist()
        likeness = torch.nn.functional.cosine_similarity(patches[::2, None], patches[None, 1::2], dim=-1)
        best, onto = likeness.max(dim=1)
        merged = best.argsort(descending=True)[:3].tolist()
        groups = [[2 * number] for number in range(5) if number not in merged]
        groups += [[2 * to + 1, *(2 * number for number in merged if onto[number] == to)] for to in range(4)]
        weights = [torch.tensor([sizes[place] for place in group]) for group in groups]
        means = [
            (patches[group] * weight[:, None]).sum(0) / weight.sum()
            for group, weight in zip(groups, weights, strict=True)
        ]
        expected = torch.stack([x_BNC[image, 0], *means])
        assert torch.allclose(found_BNE[image, :, :-1], expected, atol=1e-6)
        assert found_BNE[image, :, -1].tolist() == [1.0, *(float(weight.sum()) for weight in weights)]
    assert with_sizes(x_BNC).shape == (2, 10, 7)


def test_networks_keep_what_is_promised(supernet: Supernet) -> None:
    space = space_of(supernet)
    architecture = merging(space)
    assert not check_rebuilt(supernet, architecture)  # no plain timm model
    assert plain_timm_config(space, architecture) is None
    assert check_counts_of(supernet, architecture)[1] < space.lower(space.largest).macs


def test_gradients_and_left_out_blocks(plain: Supernet) -> None:
    space = space_of(plain)
    shallow = merging(space, 1, depth=2, embed=32)
    check_borrowed_gradients(plain, shallow)
    check_rebuilt(plain, shallow)
    config = subnet_config(space, shallow)
    assert config["merging"] == {"before": [1, 1], "merged": 3, "prefix": 1}
    assert "merging" not in subnet_config(space, space.smallest) or space.smallest[TOKENS]


def test_there_are_tokens_enough() -> None:
    space = get_space("timm:vit_small_patch14_dinov2?img_size=98", 10)
    assert isinstance(space, TimmSpace)
    assert places_of(12) == (2, 4, 6, 8)
    assert space.choices[space.columns[TOKENS]].values == (9, 6, 3, 0)
    assert space.largest[TOKENS] == 0
    genotypes = space.sample(300, np.random.default_rng(0))
    drawn = zip(*(space.values(genotypes, name).tolist() for name in (SIDE, PATCH, TOKENS)), strict=True)
    for side, patch, merged in set(drawn):
        assert not merged or (patch == 14 and merged <= most_merged((side // 14) ** 2, 4))
    for values in ({SIDE: 56}, {SIDE: 84, PATCH: 28}):
        with pytest.raises(ArchitectureError):
            merging(space, 0, **values)
    architectures = space.decode(genotypes[:20])
    assert [space.parse(Architecture.from_json(each.to_json()).to_dict()) for each in architectures] == architectures


def test_networks_of_the_version_before_are_known(plain: Supernet) -> None:
    space = space_of(plain)
    settings = tuple((name, value) for name, value in space.largest.settings if name != TOKENS)
    older = Architecture(space.name, 3, settings)
    assert space.parse(older.to_dict()) == space.largest
    assert space.decode(space.encode([older])) == [space.largest]
    assert list(space.blocks(older)) == list(space.blocks(space.largest))
    alone = Supernet(SingleSpace(space.base, space.parse(older.to_dict())))
    assert list(alone.plans(older)), "a run of the version before names its finished network so"
    with pytest.raises(ArchitectureError, match="version 2, expected"):
        space.parse({**older.to_dict(), "version": 2})


@torch.no_grad()
def test_layers_are_solved_without_merging(plain: Supernet) -> None:
    space, x_BCHW = space_of(plain), images(plain, 64)
    sizes = {"blocks.1.hidden": 48}
    solved, unmerged = (Compensator(plain, x_BCHW, PREFIX)(merging(space, number, **sizes)) for number in (0, -1))
    assert all(torch.equal(tensor, unmerged.state_dict()[name]) for name, tensor in solved.state_dict().items())
    assert not torch.allclose(solved(x_BCHW[:2]), unmerged(x_BCHW[:2]))


def test_exits_stand_in_front_of_merging(plain: Supernet) -> None:
    deep = made("vit_tiny_patch16_224?img_size=64&depth=6&embed_dim=48&num_heads=3")
    chain = ExitChain(deep, merging(space_of(deep)))
    assert [chain.blocks[number][0] for number in chain.maps] == ["blocks.0"]
    whole = ExitChain(deep, deep.space.largest)
    assert [whole.blocks[number][0] for number in whole.maps] == [f"blocks.{number}" for number in range(6)]


@pytest.mark.slow
def test_exports_load_by_one_file(plain: Supernet, tmp_path: Path) -> None:
    architecture, x_BCHW = merging(space_of(plain)), images(plain, 8)
    request = ExportRequest(plain.space, architecture, plain, images_BCHW=x_BCHW, dynamic_batch=True)
    export = export_subnet(request, tmp_path / "network")
    assert export.proof["formats"]["onnx"]["images_that_differ"] <= 1
    assert (export.folder / "timm_subnet.py").exists()
    with torch.no_grad():
        assert torch.allclose(nas.load(export.folder)(x_BCHW), plain(x_BCHW, architecture), atol=1e-5)
