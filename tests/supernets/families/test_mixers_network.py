"""The networks whose token mixers are chosen, against timm's and against each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import pytest
import timm
import torch
from torch import Tensor, nn

from search_spaces import get_space
from search_spaces.mixers_blocks import FeedForward, Mixer
from supernets import Supernet, build_network
from supernets.networks import mixers

EPS = 1e-6


def perturbed(module: nn.Module, deviation: float = 0.05) -> nn.Module:
    """In evaluation mode, with no tensor at its initial value, and statistics of a network that was trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = deviation * torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor * noise.exp() if name.endswith("running_var") else tensor + noise)
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = EPS  # timm's PVTv2 mixes two
    return module.eval()


def build(spec: Mixer | FeedForward) -> nn.Module:
    return perturbed(mixers.BLOCKS[type(spec).__name__](**asdict(spec)), 0.05)


def tokens(side: int, width: int) -> Tensor:
    return torch.randn(2, side * side, width, generator=torch.Generator().manual_seed(1))


def renamed(state: Mapping[str, Tensor], pairs: Mapping[str, str]) -> dict[str, Tensor]:
    return {
        f"{ours}.{tensor}": state[f"{theirs}.{tensor}"]
        for ours, theirs in pairs.items()
        for tensor in ("weight", "bias")
        if f"{theirs}.{tensor}" in state
    }


def from_pvt(state: Mapping[str, Tensor], depths: tuple[int, ...]) -> dict[str, Tensor]:
    pairs = {"stem.overlap": "patch_embed.proj", "stem.norm": "patch_embed.norm"}
    pairs |= {"head.norm": "stages.3.norm", "head.classifier": "head"}
    fused = {}
    for stage, depth in enumerate(depths):
        ours, theirs = f"S{stage + 1}", f"stages.{stage}"
        if stage:
            pairs |= {f"{ours}.entry.norm": f"stages.{stage - 1}.norm"}
            pairs |= {f"{ours}.entry.conv3": f"{theirs}.downsample.proj"}
            pairs |= {f"{ours}.entry.out_norm": f"{theirs}.downsample.norm"}
        for layer in range(depth):
            mixer, ffn, block = f"{ours}.mixer.{layer}", f"{ours}.ffn.{layer}", f"{theirs}.blocks.{layer}"
            pairs |= {f"{mixer}.norm1": f"{block}.norm1", f"{mixer}.project": f"{block}.attn.proj"}
            pairs |= {f"{mixer}.reduce": f"{block}.attn.sr", f"{mixer}.reduce_norm": f"{block}.attn.norm"}
            pairs |= {f"{ffn}.norm2": f"{block}.norm2", f"{ffn}.expand": f"{block}.mlp.fc1"}
            pairs |= {f"{ffn}.depthwise": f"{block}.mlp.dwconv", f"{ffn}.project": f"{block}.mlp.fc2"}
            for tensor in ("weight", "bias"):
                key, value = state[f"{block}.attn.kv.{tensor}"].chunk(2)
                fused[f"{mixer}.vkq.{tensor}"] = torch.cat([value, key, state[f"{block}.attn.q.{tensor}"]])
    return renamed(state, pairs) | fused


def from_swin(state: Mapping[str, Tensor], depths: tuple[int, ...]) -> dict[str, Tensor]:
    pairs = {"stem.patch": "patch_embed.proj", "stem.norm": "patch_embed.norm"}
    pairs |= {"head.norm": "norm", "head.classifier": "head.fc"}
    own = {}
    for stage, depth in enumerate(depths):
        ours, theirs = f"S{stage + 1}", f"layers.{stage}"
        pairs |= {f"{ours}.entry.merge_norm": f"{theirs}.downsample.norm"}
        pairs |= {f"{ours}.entry.merge": f"{theirs}.downsample.reduction"}
        for layer in range(depth):
            mixer, ffn, block = f"{ours}.mixer.{layer}", f"{ours}.ffn.{layer}", f"{theirs}.blocks.{layer}"
            pairs |= {f"{mixer}.norm1": f"{block}.norm1", f"{mixer}.project": f"{block}.attn.proj"}
            pairs |= {f"{ffn}.norm2": f"{block}.norm2", f"{ffn}.expand": f"{block}.mlp.fc1"}
            pairs |= {f"{ffn}.project": f"{block}.mlp.fc2"}
            table = state[f"{block}.attn.relative_position_bias_table"]
            own[f"{mixer}.position_bias"] = table.unflatten(0, (13, 13))
            for tensor in ("weight", "bias"):
                own[f"{mixer}.vkq.{tensor}"] = torch.cat(state[f"{block}.attn.qkv.{tensor}"].chunk(3)[::-1])
    return renamed(state, pairs) | own


Converter = Callable[[Mapping[str, Tensor], tuple[int, ...]], dict[str, Tensor]]


@pytest.mark.parametrize(
    ("name", "timm_name", "depths", "convert"),
    [
        ("pvt-v2-b0", "pvt_v2_b0", (2, 2, 2, 2), from_pvt),
        pytest.param("pvt-v2-b1", "pvt_v2_b1", (2, 2, 2, 2), from_pvt, marks=pytest.mark.slow),
        pytest.param("pvt-v2-b2", "pvt_v2_b2", (3, 4, 6, 3), from_pvt, marks=pytest.mark.slow),
        ("swin-t", "swin_tiny_patch4_window7_224", (2, 2, 6, 2), from_swin),
    ],
)
@torch.no_grad()
def test_logits_of_timm(name: str, timm_name: str, depths: tuple[int, ...], convert: Converter) -> None:
    space = get_space("mixers")
    theirs = perturbed(timm.create_model(timm_name))
    with torch.device("meta"):
        ours = build_network(space, space.find(name)).eval()
    ours.load_state_dict(convert(theirs.state_dict(), depths), assign=True)
    for block, buffer in list(ours.named_buffers()):
        owner, _, leaf = block.rpartition(".")
        setattr(ours.get_submodule(owner), leaf, buffer.cpu())
    x_BCHW = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    expected_BK = theirs(x_BCHW)
    assert expected_BK.abs().max() > 1
    assert (ours(x_BCHW) - expected_BK).abs().max() <= 1e-5


@torch.no_grad()
def test_pooled_attention_of_timm() -> None:
    from timm.models.pvt_v2 import Attention

    theirs = perturbed(Attention(64, num_heads=2, sr_ratio=4, linear_attn=True, qkv_bias=True))
    ours = mixers.Mixer(**asdict(Mixer(28, 64, 32, ("pooled",), 4, 7, 100)))
    state = theirs.state_dict()
    with torch.no_grad():
        for tensor in ("weight", "bias"):
            key, value = state[f"kv.{tensor}"].chunk(2)
            getattr(ours.vkq, tensor).copy_(torch.cat([value, key, state[f"q.{tensor}"]]))
            for own, other in (("project", "proj"), ("pool_reduce", "sr"), ("reduce_norm", "norm")):
                target = getattr(getattr(ours, own), tensor)
                target.copy_(state[f"{other}.{tensor}"].reshape(target.shape))
    x_BNC = tokens(28, 64)
    assert (ours._pooled(x_BNC) - theirs(x_BNC, (28, 28))).abs().max() <= 1e-6


# -- kinds against each other ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_window_of_the_whole_map_without_a_table_is_full_attention() -> None:
    full = build(Mixer(8, 32, 8, ("full",), 1, 5, 1))
    window = build(Mixer(8, 32, 8, ("window",), 1, 5, 1))
    window.load_state_dict(full.state_dict(), strict=False)
    window.get_parameter("position_bias").zero_()
    x_BNC = tokens(8, 32)
    assert (window(x_BNC) - full(x_BNC)).abs().max() <= 1e-6


@torch.no_grad()
def test_linear_attention_computed_the_other_way_round() -> None:
    block = build(Mixer(8, 32, 8, ("linear",), 2, 5, 1))
    x_BNC = tokens(8, 32)
    v, k, q = block._heads(block.get_submodule("vkq")(x_BNC))  # type: ignore[operator]
    k, q = k.relu(), q.relu()
    weights = q @ k.transpose(-2, -1)
    scaled = weights * block.get_parameter("temperature")[:, None, None]
    mixed = scaled @ v / weights.sum(dim=-1, keepdim=True).clamp(min=1)
    expected = block.get_submodule("project")(mixed.transpose(1, 2).flatten(2))
    assert (block._linear(x_BNC) - expected).abs().max() <= 1e-5  # type: ignore[operator]


@torch.no_grad()
def test_convolution_with_a_single_tap_is_a_projection_of_values() -> None:
    block = build(Mixer(8, 32, 32, ("conv",), 2, 5, 1))
    depthwise = block.get_submodule("depthwise")
    depthwise.weight.zero_()  # type: ignore[operator, union-attr]
    depthwise.weight[:, :, 2, 2] = 1  # type: ignore[index]
    depthwise.bias.zero_()  # type: ignore[operator, union-attr]
    x_BNC = tokens(8, 32)
    expected = block.get_submodule("project")(block.get_submodule("vkq")(x_BNC))
    assert (block._conv(x_BNC) - expected).abs().max() <= 1e-6  # type: ignore[operator]


@torch.no_grad()
def test_pooling_without_scale_changes_nothing() -> None:
    block = build(Mixer(8, 32, 32, ("pool",), 2, 5, 1))
    block.get_parameter("scale").zero_()
    x_BNC = tokens(8, 32)
    assert torch.equal(block(x_BNC), x_BNC)


def test_a_corner_of_a_shifted_map_sees_its_region_alone() -> None:
    block = build(Mixer(14, 32, 32, ("shift",), 2, 7, 1))
    x_BNC = tokens(14, 32)[:1].requires_grad_()
    block._shift(x_BNC)[0, 0].sum().backward()  # type: ignore[operator]
    assert x_BNC.grad is not None
    assert int((x_BNC.grad.abs().sum(dim=-1) > 1e-12).sum()) == 9


@pytest.mark.parametrize("share", [0.75, 0.5])
@torch.no_grad()
def test_a_folded_feed_forward_network_computes_the_same(share: float) -> None:
    spec = FeedForward(4, 48, 144, round((1 - share) * 144), ("repa",))
    block = build(spec)
    folded = block.fold()  # type: ignore[operator]
    x_BNC = tokens(4, 48)
    expected = block(x_BNC)
    assert (folded(x_BNC) - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert sum(parameter.numel() for parameter in folded.parameters()) == sum(op.params for op in spec.ops())
    again = mixers.FeedForward(**asdict(replace(spec, folded=True)))
    assert again.state_dict().keys() == folded.state_dict().keys()


def test_only_tensors_of_the_drawn_kinds_get_gradients() -> None:
    space = get_space("mixers-mini")
    supernet = Supernet(space).train()
    values = dict(space.find("conv").settings) | {"S2.mixer_odd": 8}
    architecture = space.from_values(values)
    with supernet.borrow(architecture) as subnet:
        subnet(torch.randn(4, 3, 32, 32)).square().mean().backward()  # type: ignore[no-untyped-call]
    moved = {name for name, p in supernet.network.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in supernet.extract(architecture).named_parameters()}
    assert "S2.mixer.1.temperature" in moved
    assert "S2.mixer.0.temperature" not in moved


@torch.no_grad()
def test_a_mask_that_is_one_everywhere_leaves_full_attention() -> None:
    full, masked = (build(Mixer(8, 32, 8, (kind,), 1, 5, 1)) for kind in ("full", "gmm"))
    masked.load_state_dict(full.state_dict(), strict=False)
    masked.get_parameter("deviations").fill_(1e4)
    masked.get_parameter("amplitudes").zero_()[0] = 1
    x_BNC = tokens(8, 32)
    assert (masked(x_BNC) - full(x_BNC)).abs().max() <= 2e-6


@pytest.mark.parametrize("kind", ["hyena", "hyena_back"])
@torch.no_grad()
def test_a_long_convolution_is_the_same_by_fourier_transforms_by_sliding_and_folded(kind: str) -> None:
    block = build(Mixer(6, 16, 16, (kind,), 1, 5, 1))
    x_BNC = tokens(6, 16)
    slid = block(x_BNC)
    assert (block.train()(x_BNC) - slid).abs().max() <= 1e-6
    folded = block.eval().fold()  # type: ignore[operator]
    assert (folded(x_BNC) - slid).abs().max() <= 1e-6
    spec = Mixer(6, 16, 16, (kind,), 1, 5, 1)
    assert sum(parameter.numel() for parameter in folded.parameters()) == sum(op.params for op in spec.ops())
    kernel_CHW, image_CHW = folded.kernel[:, 0], torch.randn(16, 6, 6)
    expected = torch.zeros(16, 6, 6)
    for row, column in itertools.product(range(6), repeat=2):
        for down, right in itertools.product(range(6), repeat=2):
            source = (row - down, column - right) if kind == "hyena_back" else (row + down, column + right)
            if all(0 <= place < 6 for place in source):
                expected[:, row, column] += kernel_CHW[:, down, right] * image_CHW[:, source[0], source[1]]
    found = mixers._slid(image_CHW[None], folded.kernel, kind == "hyena_back")
    assert (found[0] - expected).abs().max() <= 1e-5


def test_what_may_stand_in_one_place_begins_as_the_same_function() -> None:
    space = get_space("mixers-mini", 5)
    supernet = Supernet(space).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    start = dict(space.homogeneous["full"].settings)
    expected = supernet(images, space.from_values(start))
    for kind, value in {"stem.kind": "patch", "ffn": "plain", "position": "cpe"}.items():
        other: dict[str, int | str] = {name: value if name.endswith(kind) else old for name, old in start.items()}
        torch.testing.assert_close(supernet(images, space.from_values(other)), expected, atol=1e-5, rtol=0)
    state = supernet.network.get_submodule("S2.entry").state_dict()
    torch.testing.assert_close(state["conv3.weight"][..., 1:, 1:], state["conv2.weight"])
    cells = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(1))
    merged = state["merge.weight"] @ cells[0].permute(2, 1, 0).flatten()
    torch.testing.assert_close(merged, nn.functional.conv2d(cells, state["conv2.weight"]).flatten())
    tenth = supernet.network.get_parameter("S1.mixer.0.project.weight")
    assert 0.05 < float(tenth.detach().std()) * tenth.shape[1] ** 0.5 < 0.15
