"""Pyramids of chosen token mixers as an ordinary PyTorch module. This file needs nothing but torch and travels beside
exported weights.

Sources: PVT (arXiv 2102.12122), PVTv2 (2106.13797), Swin (2103.14030), LITv2 (2205.13213), L2ViT (2501.16182),
PoolFormer (2111.11418), ViT-ResNAS (2109.00642), RePaViT (2505.21847), "RetNet Viewed through Convolution"
(2309.05375), "Multi-Dimensional Hyena for Spatial Inductive Bias" (2309.13600). Load an exported folder with::

    import json, safetensors.torch
    from mixers import MixersNetwork

    model = MixersNetwork(json.load(open("config.json"))["network"]).eval()
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Deviation from the references: a fused projection has the rows of the values first, then keys, then queries, so that a
mixer which needs values alone owns a prefix. Mixers, feed-forward networks and entries are built for one kind, or with
the tensors of several kinds as what networks share; then they are not run.

Shape letters: B batch, N tokens of a map row by row, n reduced tokens, C channels, H and W sides of a map, G heads, W
windows where no H stands before it, M tokens of a window, D channels of a head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
OTHER_REGION = -100.0
"""Added to the logit of two tokens that the shift of a map has brought together."""
PROJECTED = frozenset({"window", "shift", "sra", "pooled", "hilo", "linear", "full", "gmm", "hyena", "hyena_back"})
"""Mixers with all three parts of the fused projection."""
CONVOLVING = frozenset({"hyena", "hyena_back"})
COMPONENTS, FILTER_WIDTH = 5, 64
"""Of the mixture that masks logits, and of the network that computes Hyena's kernel."""
WINDOWED = frozenset({"window", "shift"})
REDUCING = frozenset({"sra", "pooled"})


def _on_map(layer: Callable[[Tensor], Tensor], x_BNC: Tensor, side: int) -> Tensor:
    """Tokens through a layer of maps; the map may come out smaller."""
    y_BCHW = layer(x_BNC.transpose(1, 2).reshape(x_BNC.shape[0], -1, side, side))
    return y_BCHW.flatten(2).transpose(1, 2)


def _depthwise(width: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of tokens, each of which counts as one sample."""

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        y_NC: Tensor = super().forward(x_BNC.flatten(0, 1))
        return y_NC.reshape(x_BNC.shape)


class Stem(nn.Module):
    """Patches of an image as tokens: a convolution over patches, one whose windows overlap, or two convolutions."""

    def __init__(self, side: int, width: int, stride: int, kinds: Sequence[str]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        if "patch" in kinds:
            self.patch = nn.Conv2d(3, width, stride, stride)
        if "overlap" in kinds:
            kernel = 2 * stride - 1
            self.overlap = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2)
        if "conv" in kinds:
            self.conv1 = nn.Conv2d(3, width // 2, 3, 2, padding=1)
            self.batch_norm1 = nn.BatchNorm2d(width // 2)
            self.conv2 = nn.Conv2d(width // 2, width, 3, 2, padding=1)
            self.batch_norm2 = nn.BatchNorm2d(width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, 3, side, side)`` to tokens ``(B, N, width)``."""
        (kind,) = self.kinds
        if kind == "conv":
            hidden_BCHW = F.relu(self.batch_norm1(self.conv1(x_BCHW)))
            y_BCHW = self.batch_norm2(self.conv2(hidden_BCHW))
        else:
            y_BCHW = self.patch(x_BCHW) if kind == "patch" else self.overlap(x_BCHW)
        y_BNC: Tensor = self.norm(y_BCHW.flatten(2).transpose(1, 2))
        return y_BNC


class Entry(nn.Module):
    """The reduction in front of a stage: half the side, other channels."""

    def __init__(self, side: int, in_width: int, width: int, kinds: Sequence[str]) -> None:
        super().__init__()
        self.kinds, self.side, self.more_channels = tuple(kinds), side, width - in_width
        if not {"patch", "overlap", "residual"}.isdisjoint(kinds):
            self.norm = nn.LayerNorm(in_width, eps=EPS)
        if not {"patch", "batch"}.isdisjoint(kinds):
            self.conv2 = nn.Conv2d(in_width, width, 2, 2)
        if not {"overlap", "residual"}.isdisjoint(kinds):
            self.conv3 = nn.Conv2d(in_width, width, 3, 2, padding=1)
        if "merge" in kinds:
            self.merge_norm = nn.LayerNorm(4 * in_width, eps=EPS)
            self.merge = nn.Linear(4 * in_width, width, bias=False)
        if "batch" in kinds:
            self.batch_norm = nn.BatchNorm2d(width)
        if "overlap" in kinds:
            self.out_norm = nn.LayerNorm(width, eps=EPS)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """``(B, side * side, in_width)`` to ``(B, side * side / 4, width)``."""
        (kind,) = self.kinds
        side, half = self.side, self.side // 2
        if kind == "merge":
            cells_BHhWwC = x_BNC.reshape(-1, half, 2, half, 2, x_BNC.shape[-1])
            cells_BNC = cells_BHhWwC.permute(0, 1, 3, 4, 2, 5).reshape(-1, half * half, 4 * x_BNC.shape[-1])
            merged_BNC: Tensor = self.merge(self.merge_norm(cells_BNC))
            return merged_BNC
        if kind == "batch":
            return F.gelu(_on_map(lambda x_BCHW: self.batch_norm(self.conv2(x_BCHW)), x_BNC, side))
        if kind == "patch":
            return _on_map(self.conv2, self.norm(x_BNC), side)
        y_BNC = _on_map(self.conv3, self.norm(x_BNC), side)
        if kind == "residual":
            kept_BNC = _on_map(nn.AvgPool2d(2), x_BNC, side)
            return y_BNC + F.pad(kept_BNC, (0, self.more_channels))
        normed_BNC: Tensor = self.out_norm(y_BNC)
        return normed_BNC


class Mixer(nn.Module):
    """What mixes tokens, behind a layer norm, with a shortcut and where asked a convolution for the positions.

    Args:
        side: Side of the map of tokens.
        width: Channels.
        head_width: Channels of an attention head.
        parts: The kind, then ``cpe`` where depthwise convolutions say where a token is, in place of a table of offsets
            in windows, and ``folded`` where Hyena's kernel is a constant. Shared tensors are of all kinds.
        reduction: Factor by which the map's side is reduced where keys are; windows have the reduced side.
        kernel: Side of the large depthwise windows.
        least: Smallest denominator of linear attention.
        split: Channels of HiLo's high heads, and of the low ones, which look at the reduced map.
    """

    def __init__(
        self,
        side: int,
        width: int,
        head_width: int,
        parts: Sequence[str],
        reduction: int,
        kernel: int,
        least: int,
        split: Sequence[int],
    ) -> None:
        super().__init__()
        self.parts, self.side, self.head_width, self.positions = tuple(parts), side, head_width, "cpe" in parts
        self.reduction, self.window, self.least, self.high = reduction, side // reduction, least, split[0]
        self.heads = width // head_width
        found = set(parts)
        is_union = len(found - {"cpe", "folded"}) > 1
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        if found & PROJECTED or "conv" in found:
            self.vkq = nn.Linear(width, (3 if found & PROJECTED else 1) * width)
        if found & (PROJECTED | {"conv"}) - {"hilo"}:
            self.project = nn.Linear(width, width)
        if self.positions:
            self.cpe = _depthwise(width, 3)
        if self.positions and found & WINDOWED:
            self.cpe2 = _depthwise(width, 3)
        if (not self.positions or is_union) and found & WINDOWED:
            span = 2 * self.window - 1
            self.position_bias = nn.Parameter(torch.empty(span, span, self.heads))
            self.register_buffer("position_index", _position_index(self.window), persistent=False)
        if "shift" in found:
            self.register_buffer("regions", _region_bias(side, self.window), persistent=False)
        if "pool" in found:
            self.scale = nn.Parameter(torch.full((width,), 1e-5))
        if "conv" in found:
            self.depthwise = _depthwise(width, kernel)
        if "sra" in found:
            self.reduce = nn.Conv2d(width, width, reduction, reduction)
        if "pooled" in found:
            self.pool_reduce = nn.Linear(width, width)
        if found & REDUCING:
            self.reduce_norm = nn.LayerNorm(width, eps=EPS)
        if "hilo" in found:
            self.project_high, self.project_low = (nn.Linear(channels, channels) for channels in split)
        if "linear" in found:
            self.temperature = nn.Parameter(torch.full((self.heads,), head_width**-0.5))
            self.norm3 = nn.LayerNorm(width, eps=EPS)
            self.local1, self.local2 = _depthwise(width, kernel), _depthwise(width, kernel)
            self.local_norm = nn.BatchNorm2d(width)
        if "gmm" in found:
            self.deviations = nn.Parameter(10 + 10 * torch.randn(COMPONENTS, self.heads))
            self.amplitudes = nn.Parameter(2 * torch.randn(COMPONENTS, self.heads))
        if found & CONVOLVING:
            self.short = _depthwise(3 * width, 3)
            self.direct = nn.Parameter(torch.randn(width))
            if "folded" in found:
                self.kernel = nn.Parameter(torch.empty(width, 1, side, side))
            else:
                self.filter = KernelFilter(side, width)
        _initialise(self)

    position_index: Tensor
    regions: Tensor

    @torch.no_grad()
    def fold(self) -> Mixer:
        """The form of a Hyena block whose kernel is a constant."""
        folded = copy.deepcopy(self)
        folded.parts = (*self.parts, "folded")
        folded.kernel = nn.Parameter(self.filter())
        del folded.filter
        return folded

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        kind = self.parts[0]
        if self.positions:
            x_BNC = x_BNC + _on_map(self.cpe, x_BNC, self.side)
        x_BNC = x_BNC + getattr(self, f"_{kind}")(self.norm1(x_BNC))
        if self.positions and kind in WINDOWED:
            x_BNC = x_BNC + _on_map(self.cpe2, x_BNC, self.side)
        if kind == "linear":
            x_BNC = x_BNC + _on_map(self._concentrate, self.norm3(x_BNC), self.side)
        return x_BNC

    def _pool(self, x_BNC: Tensor) -> Tensor:
        mean_BNC = _on_map(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), x_BNC, self.side)
        return self.scale * (mean_BNC - x_BNC)

    def _conv(self, x_BNC: Tensor) -> Tensor:
        y_BNC: Tensor = self.project(_on_map(self.depthwise, self.vkq(x_BNC), self.side))
        return y_BNC

    def _full(self, x_BNC: Tensor) -> Tensor:
        v_BGND, k_BGND, q_BGND = self._heads(self.vkq(x_BNC))
        return self._joined(F.scaled_dot_product_attention(q_BGND, k_BGND, v_BGND))

    def _window(self, x_BNC: Tensor, regions_WMM: Tensor | None = None) -> Tensor:
        v, k, q = (self._windows(part, self.window) for part in self.vkq(x_BNC).chunk(3, dim=-1))
        bias = None if regions_WMM is None else regions_WMM[:, None].expand(-1, self.heads, -1, -1)
        if not self.positions:
            bias_GMM = F.embedding(self.position_index, self.position_bias.flatten(0, 1)).permute(2, 0, 1)
            bias = bias_GMM.expand(self.reduction**2, -1, -1, -1) if bias is None else bias + bias_GMM
        mixed = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.flatten(0, 1))
        y_BNC: Tensor = self.project(self._from_windows(mixed, self.window))
        return y_BNC

    def _shift(self, x_BNC: Tensor) -> Tensor:
        shift = self.window // 2
        rolled_BNC = self._rolled(x_BNC, -shift)
        return self._rolled(self._window(rolled_BNC, self.regions), shift)

    def _sra(self, x_BNC: Tensor) -> Tensor:
        return self._reduced(x_BNC, self.reduce_norm(_on_map(self.reduce, x_BNC, self.side)))

    def _pooled(self, x_BNC: Tensor) -> Tensor:
        mean_BnC = _on_map(nn.AvgPool2d(self.reduction), x_BNC, self.side)
        return self._reduced(x_BNC, F.gelu(self.reduce_norm(self.pool_reduce(mean_BnC))))

    def _reduced(self, x_BNC: Tensor, z_BnC: Tensor) -> Tensor:
        """Queries of all tokens, keys and values of reduced ones."""
        width = x_BNC.shape[-1]
        weight, bias = self.vkq.weight, self.vkq.bias
        v_BGnD, k_BGnD = self._heads(F.linear(z_BnC, weight[: 2 * width], bias[: 2 * width]))
        (q_BGND,) = self._heads(F.linear(x_BNC, weight[2 * width :], bias[2 * width :]))
        return self._joined(F.scaled_dot_product_attention(q_BGND, k_BGnD, v_BGnD))

    def _hilo(self, x_BNC: Tensor) -> Tensor:
        width, high = x_BNC.shape[-1], self.high
        weights, biases = self.vkq.weight.chunk(3), self.vkq.bias.chunk(3)
        near_weight, near_bias = (torch.cat([part[:high] for part in both[:2]]) for both in (weights, biases))
        far_weight, far_bias = (torch.cat([part[high:] for part in both[:2]]) for both in (weights, biases))
        q_BNC = F.linear(x_BNC, weights[2], biases[2])
        near = (*F.linear(x_BNC, near_weight, near_bias).chunk(2, dim=-1), q_BNC[..., :high])
        v, k, q = (self._windows(part, self.reduction) for part in near)
        high_BNC = self.project_high(self._from_windows(F.scaled_dot_product_attention(q, k, v), self.reduction))
        mean_BnC = _on_map(nn.AvgPool2d(self.reduction), x_BNC, self.side)
        v_BGnD, k_BGnD = self._heads(F.linear(mean_BnC, far_weight, far_bias), (width - high) // self.head_width)
        (q_BGND,) = self._heads(q_BNC[..., high:], (width - high) // self.head_width)
        mixed_BGND = F.scaled_dot_product_attention(q_BGND, k_BGnD, v_BGnD)
        low_BNC = self.project_low(mixed_BGND.transpose(1, 2).flatten(2))
        return torch.cat([high_BNC, low_BNC], dim=-1)

    def _linear(self, x_BNC: Tensor) -> Tensor:
        tokens, width = x_BNC.shape[1:]
        v_BNC, kq_BNC = self.vkq(x_BNC).split([width, 2 * width], dim=-1)
        (v_BGND,) = self._heads(v_BNC)
        k_BGND, q_BGND = self._heads(F.relu(kq_BNC))
        # Sums over tokens as means, so that half precision suffices for many tokens.
        mixed_BGND = q_BGND @ (k_BGND.transpose(-2, -1) @ v_BGND * (self.temperature[:, None, None] / tokens))
        total_BGN1 = q_BGND @ k_BGND.mean(dim=2).unsqueeze(-1)
        return self._joined(mixed_BGND / total_BGN1.clamp(min=self.least / tokens))

    def _gmm(self, x_BNC: Tensor) -> Tensor:
        v_BGND, k_BGND, q_BGND = self._heads(self.vkq(x_BNC))
        place = torch.arange(self.side, device=x_BNC.device, dtype=x_BNC.dtype)
        places_N2 = torch.cartesian_prod(place, place)
        squares_NN = (places_N2[:, None] - places_N2[None]).square().sum(dim=-1)
        scale_GM = (2 * (self.deviations.square() + 1e-5)).T
        mask_GNN = (self.amplitudes.T[:, :, None, None] * (-squares_NN / scale_GM[:, :, None, None]).exp()).sum(dim=1)
        logits_BGNN = q_BGND @ k_BGND.transpose(-2, -1) * (self.head_width**-0.5 * mask_GNN)
        return self._joined(logits_BGNN.softmax(dim=-1) @ v_BGND)

    def _hyena(self, x_BNC: Tensor, is_back: bool = False) -> Tensor:
        map_B3CHW = self.short(self.vkq(x_BNC).transpose(1, 2).reshape(x_BNC.shape[0], -1, self.side, self.side))
        v_BCHW, gate_BCHW, out_BCHW = map_B3CHW.chunk(3, dim=1)
        v_BCHW = v_BCHW * gate_BCHW
        kernel_C1HW = self.kernel if "folded" in self.parts else self.filter()
        mixed_BCHW = _convolved(v_BCHW, kernel_C1HW, is_back) if self.training else _slid(v_BCHW, kernel_C1HW, is_back)
        y_BCHW = out_BCHW * (mixed_BCHW + self.direct[:, None, None] * v_BCHW)
        y_BNC: Tensor = self.project(y_BCHW.flatten(2).transpose(1, 2))
        return y_BNC

    def _hyena_back(self, x_BNC: Tensor) -> Tensor:
        return self._hyena(x_BNC, is_back=True)

    def _concentrate(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.local2(self.local_norm(F.gelu(self.local1(x_BCHW))))
        return y_BCHW

    def _heads(self, x_BNC: Tensor, heads: int | None = None) -> tuple[Tensor, ...]:
        """The parts of a projection, each ``(B, heads, tokens, head_width)``."""
        parts = x_BNC.reshape(*x_BNC.shape[:2], -1, heads or self.heads, self.head_width)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)

    def _joined(self, mixed_BGND: Tensor) -> Tensor:
        y_BNC: Tensor = self.project(mixed_BGND.transpose(1, 2).flatten(2))
        return y_BNC

    def _windows(self, x_BNC: Tensor, window: int) -> Tensor:
        """``(B, windows * heads, tokens of a window, head_width)``."""
        rows = self.side // window
        grid = x_BNC.reshape(-1, rows, window, rows, window, x_BNC.shape[-1] // self.head_width, self.head_width)
        return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, grid.shape[5] * rows**2, window**2, self.head_width)

    def _from_windows(self, x_BGMD: Tensor, window: int) -> Tensor:
        """Back to tokens ``(B, N, heads * head_width)``."""
        rows = self.side // window
        grid = x_BGMD.reshape(-1, rows, rows, x_BGMD.shape[1] // rows**2, window, window, self.head_width)
        return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, self.side**2, grid.shape[3] * self.head_width)

    def _rolled(self, x_BNC: Tensor, shift: int) -> Tensor:
        """The map of tokens moved down and right by ``shift``, what leaves it coming in on the other side."""
        map_BHWC = x_BNC.reshape(x_BNC.shape[0], self.side, self.side, -1)
        return map_BHWC.roll((shift, shift), dims=(1, 2)).flatten(1, 2)


class KernelFilter(nn.Module):
    """The kernel of a Hyena convolution, computed from positions, so that it has as many parameters on every map."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.frequencies = nn.Parameter(torch.ones(FILTER_WIDTH))
        self.layers = nn.ModuleList(nn.Linear(inputs, FILTER_WIDTH) for inputs in (6, FILTER_WIDTH, FILTER_WIDTH))
        self.out = nn.Linear(FILTER_WIDTH, width, bias=False)
        # On the CPU by name: they stay real tensors where the block is built on the meta device.
        time = torch.linspace(0, 1, side, device="cpu")
        angle = 1e-4 * 2 * torch.pi * torch.arange(side, device="cpu") / side
        axis_S3 = torch.stack([time, angle.cos(), -angle.sin()], dim=1)
        rows, columns = (
            index.flatten() for index in torch.meshgrid(*[torch.arange(side, device="cpu")] * 2, indexing="ij")
        )
        decay_C = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, width, device="cpu").abs()
        self.register_buffer("places", torch.cat([axis_S3[rows], axis_S3[columns]], dim=1), persistent=False)
        self.register_buffer("decay", (-(time[rows] + time[columns])[:, None] * decay_C).exp(), persistent=False)

    places: Tensor
    decay: Tensor

    def forward(self) -> Tensor:
        """The kernel ``(C, 1, side, side)``; its first entry is of the cell itself."""
        hidden = self.places
        for layer in self.layers:
            hidden = torch.sin(self.frequencies * layer(hidden))
        kernel_NC: Tensor = self.out(hidden) * self.decay / (2 * self.side)
        return kernel_NC.T.reshape(-1, 1, self.side, self.side)


class FeedForward(nn.Module):
    """Two linear layers on every token, with a shortcut; with a depthwise convolution between them, or as in RePaViT.

    RePaViT's has batch norms, and an activation on the first ``active`` hidden channels alone. What the others carry is
    linear, so that in the ``folded`` form it is one linear layer beside a narrow branch, and holds the shortcut too.
    """

    def __init__(
        self, side: int, width: int, hidden: int, active: int, kinds: Sequence[str], folded: bool = False
    ) -> None:
        super().__init__()
        self.kinds, self.side, self.active, self.folded = tuple(kinds), side, active, folded
        if folded:
            self.skip = nn.Linear(width, width)
            self.expand = nn.Linear(width, active)
            self.project = nn.Linear(active, width, bias=False)
            return
        if not {"plain", "dw"}.isdisjoint(kinds):
            self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.expand, self.project = nn.Linear(width, hidden), nn.Linear(hidden, width)
        if "dw" in kinds:
            self.depthwise = _depthwise(hidden, 3)
        if "repa" in kinds:
            self.norm_in, self.norm_hidden = TokenBatchNorm(width), TokenBatchNorm(hidden)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        (kind,) = self.kinds
        if self.folded:
            y_BNC: Tensor = self.skip(x_BNC) + self.project(F.gelu(self.expand(x_BNC)))
            return y_BNC
        if kind == "repa":
            hidden_BNC = self.expand(self.norm_in(x_BNC))
            active_BNC, carried_BNC = hidden_BNC[..., : self.active], hidden_BNC[..., self.active :]
            hidden_BNC = self.norm_hidden(torch.cat([F.gelu(active_BNC), carried_BNC], dim=-1))
        else:
            hidden_BNC = self.expand(self.norm2(x_BNC))
            if kind == "dw":
                hidden_BNC = _on_map(self.depthwise, hidden_BNC, self.side)
            hidden_BNC = F.gelu(hidden_BNC)
        projected_BNC: Tensor = self.project(hidden_BNC)
        return x_BNC + projected_BNC

    @torch.no_grad()
    def fold(self) -> FeedForward:
        """The folded form of a RePaViT block, which computes the same in evaluation mode."""
        (gain_in_C, shift_in_C), (gain_F, shift_F) = _affine(self.norm_in), _affine(self.norm_hidden)
        expand_FC, project_CF = self.expand.weight * gain_in_C, self.project.weight * gain_F
        expand_F = self.expand.bias + self.expand.weight @ shift_in_C
        width, hidden, active = *project_CF.shape, self.active
        carried_CF, carried_FC = project_CF[:, active:], expand_FC[active:]
        with torch.device("meta"):
            folded = FeedForward(self.side, width, hidden, active, self.kinds, folded=True)
        state = {
            "skip.weight": carried_CF @ carried_FC + torch.eye(width, device=carried_CF.device),
            "skip.bias": self.project.bias + self.project.weight @ shift_F + carried_CF @ expand_F[active:],
            "expand.weight": expand_FC[:active].clone(),
            "expand.bias": expand_F[:active].clone(),
            "project.weight": project_CF[:, :active].clone(),
        }
        folded.load_state_dict(state, assign=True)
        return folded.train(self.training)


class Head(nn.Module):
    """Layer norm, mean over tokens, linear classifier."""

    def __init__(self, side: int, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.classifier = nn.Linear(width, classes)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """``(B, N, width)`` to logits ``(B, classes)``."""
        logits_BK: Tensor = self.classifier(self.norm(x_BNC).mean(dim=1))
        return logits_BK


BLOCKS: dict[str, type[nn.Module]] = {block.__name__: block for block in (Stem, Entry, Mixer, FeedForward, Head)}


def resize_images(x_BCHW: Tensor, side: int) -> Tensor:
    """Images of any side to ``side`` pixels, bicubic without anti-aliasing."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)


class MixersNetwork(nn.Module):
    """One network of the family.

    Args:
        config: ``input_side``, the side in pixels the network computes on, and ``blocks``, a list of objects with
            ``name`` (for example ``S1.mixer.0``), ``kind`` (a key of `BLOCKS`) and the block's arguments.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.input_side = int(config["input_side"])
        self.block_names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            arguments = {name: value for name, value in block.items() if name not in ("name", "kind")}
            self._place(str(block["name"]), BLOCKS[block["kind"]](**arguments))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` of any side to logits ``(B, K)``."""
        logits_BK: Tensor = self.get_submodule(self.block_names[-1])(self.forward_features(x_BCHW))
        return logits_BK

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images to the last stage's tokens ``(B, N, C)``, in front of the head."""
        x = resize_images(x_BCHW, self.input_side)
        for name in self.block_names[:-1]:
            x = self.get_submodule(name)(x)
        return x

    def _place(self, name: str, block: nn.Module) -> None:
        parent: nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, block)


def _convolved(x_BCHW: Tensor, kernel_C1HW: Tensor, is_back: bool) -> Tensor:
    """The causal convolution by Fourier transforms: over cells up and left with ``is_back``, else down and right."""
    side = x_BCHW.shape[-1]
    x_BCHW = x_BCHW if is_back else x_BCHW.flip(2, 3)
    product = torch.fft.rfft2(x_BCHW.float(), s=(2 * side, 2 * side)) * torch.fft.rfft2(
        kernel_C1HW[:, 0].float(), s=(2 * side, 2 * side)
    )
    y_BCHW: Tensor = torch.fft.irfft2(product, s=(2 * side, 2 * side))[..., :side, :side].to(x_BCHW.dtype)
    return y_BCHW if is_back else y_BCHW.flip(2, 3)


def _slid(x_BCHW: Tensor, kernel_C1HW: Tensor, is_back: bool) -> Tensor:
    """The same by sliding the kernel over the map, with padding on one side of each axis."""
    more = x_BCHW.shape[-1] - 1
    padded = F.pad(x_BCHW, (more, 0, more, 0) if is_back else (0, more, 0, more))
    return F.conv2d(padded, kernel_C1HW.flip(2, 3) if is_back else kernel_C1HW, groups=x_BCHW.shape[1])


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a batch norm in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return gain, norm.bias - norm.running_mean * gain


def _position_index(window: int) -> Tensor:
    """Row of the flattened table of offsets for each pair of tokens of a window, ``(M, M)``: query minus key."""
    # On the CPU by name: it stays a real tensor where the block is built on the meta device.
    place = torch.arange(window, device="cpu")
    y_MM, x_MM = (
        axis.reshape(-1, 1) - axis.reshape(1, -1) + window - 1 for axis in torch.meshgrid(place, place, indexing="ij")
    )
    return y_MM * (2 * window - 1) + x_MM


def _region_bias(side: int, window: int) -> Tensor:
    """What is added to the logits of each window of a shifted map, ``(windows, M, M)``."""
    place = torch.arange(side, device="cpu")
    band = (place >= side - window).long() + (place >= side - window // 2).long()
    region_HW = 3 * band[:, None] + band[None]
    rows = side // window
    region_WM = region_HW.reshape(rows, window, rows, window).transpose(1, 2).reshape(rows**2, window**2)
    return (region_WM[:, None] != region_WM[:, :, None]) * OTHER_REGION


def _initialise(block: nn.Module) -> None:
    """Linear layers with variance 1 / inputs, convolutions with 2 / outputs of their windows, tables with 0.02.

    A fixed deviation of 0.02 for linear layers, as in the references, would silence narrow ones.
    """
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for name, parameter in block.named_parameters(recurse=False):
        if name == "position_bias":
            nn.init.trunc_normal_(parameter, std=0.02)
