"""As-ViT: published figures, texts, and how heads and kernels are shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import ArchitectureError, SearchSpaceError, find_architecture, get_space
from search_spaces.asvit import ASVIT, AsvitSpace, AsvitTopology, parse_topology, topology_graph
from supernets import Supernet, build_network
from supernets.families.asvit import build_topology

SEED = "8,2,3|4,1,2|4,1,4|4,1,6|32"
SMALL = "8,2,3,3|4,1,2,1|4,1,4,4|4,1,6,2|32,88"
BASE = "8,2,3,3|4,1,2,1|4,1,4,5|4,1,6,2|32,116"
LARGE = "8,2,3,5|4,1,2,2|4,1,4,5|4,1,6,2|32,180"
LARGE_PROXY = "8,2,3,5|4,1,2,2|4,1,4,5|4,1,6,2|32,45"
NARROW = "8,2,3|4,1,2|4,1,4|4,1,6|32,8"
SMALLEST, MIDDLE = "4,8,2|2,4,2|2,2,2|2,1,2|16", "6,4,4|3,2,4|3,1,4|3,1,4|32"
ODD = "7,2,3,2|3,1,2|4,1,4|2,1,6,2|32,9"

# parameters without position embedding, MACs in G; each computed with the reference implementation
REFERENCE = {
    SEED: (2_319_624, 0.4916),
    NARROW: (197_808, 0.0807),
    SMALLEST: (1_200_360, 0.1457),
    MIDDLE: (1_768_680, 0.2788),
    LARGE_PROXY: (8_180_650, 2.545),
    SMALL: (28_775_328, 5.132),
    BASE: (52_258_652, 8.754),
    LARGE: (87_580_820, 22.358),
}
# parameters with position embedding; parameters in M and FLOPs in G as published
PUBLISHED = {
    "small": (SMALL, 29_051_296, 29.0, 5.3),
    "base": (BASE, 52_622_428, 52.6, 8.9),
    "large": (LARGE, 88_145_300, 88.1, 22.6),
}


# -- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", REFERENCE)
def test_costs_are_those_of_the_reference(text: str) -> None:
    params, macs = REFERENCE[text]
    topology = parse_topology(text)
    graph = topology_graph(topology)
    assert graph.params == params
    assert graph.macs / 1e9 == pytest.approx(macs, rel=1e-3)
    with torch.device("meta"):
        network = build_topology(topology)
    assert sum(parameter.numel() for parameter in network.parameters()) == params


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    """The published FLOPs are MACs plus four operations on each element of the attention maps."""
    text, params, published_params, published_flops = PUBLISHED[name]
    space, architecture = find_architecture(f"asvit/{name}")
    assert space.name == "asvit-grown"
    assert find_architecture(f"asvit:{text}") == (space, architecture)
    graph = space.lower(architecture)
    assert graph.params == params
    assert int(params / 1e5) / 10 == published_params
    attention = sum(op.elements_written for op in graph.ops() if op.kind == "softmax")
    assert (graph.macs + 4 * attention) / 1e9 == pytest.approx(published_flops, abs=0.05)
    with torch.device("meta"):
        network = build_network(space, architecture)
    assert sum(parameter.numel() for parameter in network.parameters()) == params


def test_the_seed_space_is_the_published_one() -> None:
    space = get_space("asvit")
    assert space.encodings == 4_556_250
    assert len(space.choices) == 12
    assert isinstance(space, AsvitSpace)
    assert str(space.topology(space.find("seed"))) == SEED
    assert str(space.topology(space.smallest)) == "4,2,2|2,1,2|2,1,2|2,1,2|16"
    assert str(space.topology(space.largest)) == "8,8,6|4,4,6|4,2,6|4,1,6|64"


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*REFERENCE, ODD, "8,2,3,1|4,1,2,2|4,1,4,1|4,1,6,1|32"])
def test_text_round_trip(text: str) -> None:
    topology = parse_topology(text)
    assert parse_topology(str(topology)) == topology
    assert AsvitTopology.from_values(topology.values()) == topology
    assert parse_topology(f" {text.replace('|', ' | ')} ") == topology


def test_text_without_depth_or_width_takes_one_block_and_32_channels() -> None:
    assert parse_topology("8,2,3,1|4,1,2|4,1,4,1|4,1,6|32,32") == parse_topology(SEED)
    assert str(parse_topology("8,2,3,1|4,1,2|4,1,4,1|4,1,6|32,32")) == SEED


@pytest.mark.parametrize("name", ["asvit", "asvit-grown", "asvit-mini"])
def test_architectures_and_topologies_are_the_same(name: str) -> None:
    space = get_space(name)
    assert isinstance(space, AsvitSpace)
    for architecture in space.decode(space.sample(20, np.random.default_rng(0))):
        topology = space.topology(architecture)
        assert space.from_topology(topology) == architecture
        assert find_architecture(f"{name}:{topology}") == (space, architecture)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8,2,3|4,1,2|4,1,4|32", "expected `K,S,E"),
        ("8,2|4,1,2|4,1,4|4,1,6|32", "expected `K,S,E"),
        ("8,2,3|4,1,2|4,1,4|4,1,6|32,32,32", "expected `K,S,E"),
        ("8,2,x|4,1,2|4,1,4|4,1,6|32", "found `x` for a number"),
        ("8,2,3|4,1,2|4,1,4|4,1,-6|32", "found `-6` for a number"),
        ("8,2,3|4,1,2|4,1,4|4,1,٣|32", "for a number"),
        ("8,0,3|4,1,2|4,1,4|4,1,6|32", "found 0, expected numbers of 1 or more"),
        ("8,2,3|4,1,2|4,1,4|4,1,6|20", "found 20 heads, expected a multiple of 8"),
        ("8,2,3|4,1,2|4,1,4|4,1,6|64,4", "found width 4 for 8 heads"),
        ("", "expected `K,S,E"),
    ],
)
def test_texts_that_make_no_network_are_refused(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        parse_topology(text)


def test_networks_that_no_space_offers_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="`width` is 300, expected one of"):
        find_architecture(f"asvit:{SEED},300")
    with pytest.raises(ArchitectureError, match="`width` is 88, in `asvit` 32"):
        AsvitSpace(ASVIT).from_topology(parse_topology(f"{SEED},88"))
    with pytest.raises(SearchSpaceError, match="space `elastic` has no short form"):
        find_architecture(f"elastic:{SEED}")


@pytest.mark.parametrize("side", [160, 192, 224, 448])
@torch.no_grad()
def test_splits_that_divide_the_map_work_at_any_side(side: int) -> None:
    topology = parse_topology("8,8,3|4,4,2|4,2,4|4,1,6|32,8")
    graph = topology_graph(topology, image_side=side)
    assert [op.output_shape for op in graph.ops()][-1] == (1000,)
    assert build_topology(topology, image_side=side)(torch.randn(1, 3, side, side)).shape == (1, 1000)


@pytest.mark.parametrize(("side", "message"), [(176, "stage 1 has a map of 44 x 44"), (208, "stage 1 has a map of 52")])
def test_splits_that_do_not_divide_the_map_are_refused(side: int, message: str) -> None:
    topology = parse_topology("8,8,3|4,1,2|4,1,4|4,1,6|32,8")
    for make in (topology_graph, build_topology):
        with pytest.raises(ArchitectureError, match=f"{message}.*expected a divisor"):
            make(topology, image_side=side)  # type: ignore[operator]


# -- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [NARROW, ODD])
@torch.no_grad()
def test_features_are_the_tokens_in_front_of_the_last_norm(text: str) -> None:
    network = build_topology(parse_topology(text), classes=7).eval()
    head = network.get_submodule("head")
    x_BCHW = torch.randn(2, 3, 224, 224)
    features_BNC = network.forward_features(x_BCHW)  # type: ignore[operator]
    assert features_BNC.shape == (2, 49, 8 * parse_topology(text).width)
    pooled_BC = head.norm(features_BNC).mean(dim=1)  # type: ignore[operator]
    expected = head.classifier(torch.tanh(head.features(pooled_BC)))  # type: ignore[operator]
    assert torch.allclose(network(x_BCHW), expected, atol=1e-6)


@torch.no_grad()
def test_attention_stays_within_its_windows() -> None:
    layer = build_topology(parse_topology("4,2,2|2,1,2|2,1,2|2,1,2|16,8")).get_submodule("stage1.0")
    x_BNC = torch.randn(1, 56 * 56, 8)
    changed = x_BNC.clone()
    changed[0, 0] = torch.randn(8)  # the upper left token, in the upper left window of 28 x 28
    difference = (layer(changed) - layer(x_BNC)).reshape(56, 56, 8).abs().amax(dim=2) > 0
    assert difference[:28, :28].all()
    assert not difference[28:].any()
    assert not difference[:, 28:].any()


@torch.no_grad()
def test_attention_equals_a_loop_over_windows_and_heads() -> None:
    attention = build_topology(parse_topology("4,4,2|2,1,2|2,1,2|2,1,2|32,10")).get_submodule("stage1.0.attention")
    assert (attention.heads, attention.head_width) == (4, 2)  # 2 of 10 channels are left over
    x_BNC = torch.randn(1, 56 * 56, 10)
    found = attention(x_BNC).reshape(56, 56, 10)
    query, key, value = attention.qkv(x_BNC).reshape(56, 56, 3, 4, 2).unbind(2)  # type: ignore[operator]
    window = (slice(14, 28), slice(42, 56))
    mixed = [
        ((query[window][..., h, :].reshape(-1, 2) @ key[window][..., h, :].reshape(-1, 2).T) * 2**-0.5).softmax(-1)
        @ value[window][..., h, :].reshape(-1, 2)
        for h in range(4)
    ]
    expected = attention.project(torch.cat(mixed, dim=1)).reshape(14, 14, 10)  # type: ignore[operator]
    assert torch.allclose(found[window], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("block", "full", "kernel"), [("patch", 8, 4), ("patch", 8, 5), ("patch", 8, 7), ("embed2", 4, 3)]
)
@torch.no_grad()
def test_smaller_kernels_read_the_pixels_of_their_own_padding(block: str, full: int, kernel: int) -> None:
    """A large kernel that is zero outside the part which a small one takes computes what the small one does."""
    space = get_space("asvit")
    supernet = Supernet(space)
    name = "patch.conv.weight" if block == "patch" else "embed2.reduce.weight"
    choice = "stage1.kernel" if block == "patch" else "stage2.kernel"
    small, large = (
        supernet.extract(space.from_values({**dict(space.largest.settings), choice: size})) for size in (kernel, full)
    )
    taps = small.get_parameter(name).reshape(len(small.get_parameter(name)), -1, kernel, kernel)
    before = (full - kernel + 1) // 2
    after = full - kernel - before
    padded = nn.functional.pad(taps, (before, after, before, after))
    large.get_parameter(name).copy_(padded.reshape(large.get_parameter(name).shape))
    for network in (small, large):  # a norm over windows of another size would be another function
        network.get_submodule(block).norm = nn.Identity()
    x = torch.randn(1, 3, 224, 224) if block == "patch" else torch.randn(1, 56 * 56, 32)
    found, expected = (network.get_submodule(block)(x) for network in (small, large))
    assert torch.allclose(found, expected, atol=1e-5)


def test_heads_are_shared_in_groups() -> None:
    """A narrower network has the first channels of each group of heads; more heads divide a group more finely."""
    space = get_space("asvit-mini")
    supernet = Supernet(space)
    values = dict(space.largest.settings)
    shared = supernet.network.get_parameter("stage2.0.attention.qkv.weight")
    shared_parts = shared.reshape(3, 2, 16, 32)  # parts, groups, channels of a group, embedding
    for width, heads in ((16, 8), (16, 32), (12, 8), (10, 32)):
        narrow = supernet.extract(space.from_values({**values, "width": width, "heads": heads}))
        channels = heads // 8 * (2 * width // (heads // 4))
        found = narrow.get_parameter("stage2.0.attention.qkv.weight").reshape(3, 2, channels, 2 * width)
        assert torch.equal(found, shared_parts[:, :, :channels, : 2 * width])
