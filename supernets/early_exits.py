"""Exits behind the blocks of a trained network, which is left as it is.

An exit reads the map of patches behind a block and tells the classes from it: ``local`` by convolutions, ``global-R``
by attention between every R-th patch each way. Logits are ``Linear(mean(head(patches)) + class token)``.

Source: Xu et al., "LGViT: Dynamic Early Exiting for Accelerating Vision Transformer", ACM Multimedia 2023, arXiv
2308.00255. Deviations: the network itself is not trained along, so that exits do not depend on each other; they learn
from labels and from the network's outputs, and not from the features of later exits.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, K classes, M patches that attend, N tokens, h
heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Architecture
from search_spaces.timm_models import MERGING, TimmBlock
from supernets.data.image_data import ImageData
from supernets.errors import TrainingError
from supernets.supernet import Supernet
from supernets.training.schedule import Schedule

LOCAL, GLOBAL = "local", {"global-2": 2, "global-3": 3}
KINDS = (LOCAL, *GLOBAL)
"""Kinds of exits; those by attention with the distance of the patches that attend."""
HEADS = 8
TEMPERATURE = 2.0
LABEL_SHARE = 0.7
"""Share of the labels in what an exit learns; the rest is the network's own outputs at `TEMPERATURE`."""
RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.05, 0.1
BATCH_SIZE = 64


@dataclass(frozen=True)
class PatchMap:
    """Where the patches stand in what flows behind a block.

    Attributes:
        width: Channels.
        side: Patches per row and column.
        prefix: Tokens in front of the patches.
        kind: ``tokens`` for ``(N, C)``, ``last`` for ``(H, W, C)``, ``first`` for ``(C, H, W)``.
    """

    width: int
    side: int
    prefix: int
    kind: str

    @classmethod
    def of(cls, shape: Sequence[int], image_side: int) -> PatchMap | None:
        """The map in a flow of this shape, batch dimension left out; None where there is none.

        Args:
            shape: Shape of what flows.
            image_side: Side of the image in pixels, which the side of a map of tokens divides.
        """
        if len(shape) == 2:
            tokens, width = shape
            sides = [side for side in range(isqrt(tokens), 1, -1) if image_side % side == 0]
            return cls(width, sides[0], tokens - sides[0] ** 2, "tokens") if sides else None
        if len(shape) == 3 and shape[1] == shape[2] > 1:
            return cls(shape[0], shape[1], 0, "first")
        if len(shape) == 3 and shape[0] == shape[1] > 1:
            return cls(shape[2], shape[0], 0, "last")
        return None

    def patches(self, x: Tensor) -> Tensor:
        """The map ``(B, C, H, W)`` in a flow."""
        if self.kind == "first":
            return x
        if self.kind == "last":
            return x.permute(0, 3, 1, 2)
        return x[:, self.prefix :].transpose(1, 2).reshape(-1, self.width, self.side, self.side)


class LocalHead(nn.Module):
    """A 1 x 1, a depthwise 3 x 3 and a 1 x 1 convolution beside a shortcut, each with its norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU(), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to maps of the same shape."""
        body_BCHW: Tensor = self.body(x_BCHW)
        return x_BCHW + body_BCHW


class GlobalHead(nn.Module):
    """Attention between every so many patches each way."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.heads = stride, gcd(HEADS, width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to the smaller ones of the patches that attend."""
        x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        side, width = x_BCHW.shape[-1], x_BCHW.shape[1]
        x_BMC = x_BCHW.flatten(2).transpose(1, 2)
        split = self.qkv(x_BMC).reshape(-1, side * side, 3, self.heads, width // self.heads)
        q_BhMd, k_BhMd, v_BhMd = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BMC = F.scaled_dot_product_attention(q_BhMd, k_BhMd, v_BhMd).transpose(1, 2).reshape(-1, side**2, width)
        mapped: Tensor = self.proj(mixed_BMC).transpose(1, 2).reshape(-1, width, side, side)
        return mapped


class Exit(nn.Module):
    """One exit: what flows behind a block to logits ``(B, K)``.

    Args:
        kind: One of `KINDS`.
        patch_map: Where the patches are.
        classes: Number of classes.
    """

    def __init__(self, kind: str, patch_map: PatchMap, classes: int) -> None:
        super().__init__()
        width = patch_map.width
        self.patch_map = patch_map
        self.head = LocalHead(width) if kind == LOCAL else GlobalHead(width, GLOBAL[kind])
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        pooled_BC = self.head(self.patch_map.patches(x)).mean(dim=(2, 3))
        if self.patch_map.prefix:
            pooled_BC = pooled_BC + x[:, 0]
        logits_BK: Tensor = self.classifier(pooled_BC)
        return logits_BK


class Segment(nn.Module):
    """Some parts of a network in a row, and the exit behind them; the last segment ends with the network's logits.

    Args:
        parts: The parts.
        exit_behind: The exit; None behind the last part.
    """

    def __init__(self, parts: Sequence[nn.Module], exit_behind: nn.Module | None) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.exit_behind = exit_behind

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``(B, K)``, and before them what flows into the next segment where there is one."""
        x = self.parts(x)
        return x if self.exit_behind is None else (x, self.exit_behind(x))


class ExitChain:
    """A trained network as a chain of parts, with the places where exits can stand.

    Args:
        supernet: Trained weights; BatchNorm statistics are the network's own.
        architecture: The network.
        most: Most places, evenly over the network.

    Raises:
        TrainingError: No block has a map of patches behind it.
    """

    def __init__(self, supernet: Supernet, architecture: Architecture, most: int = 12) -> None:
        self.space, self.family = supernet.space, supernet.family
        self.side = self.space.input_shape(dict(architecture.settings))[-1]
        self.network = supernet.extract(architecture).eval().requires_grad_(False)
        blocks = self.space.blocks(architecture)
        self.blocks = [(name, spec) for name, spec in blocks if not (isinstance(spec, TimmBlock) and spec.does_nothing)]
        self.device = supernet.device
        self.shapes: list[tuple[int, ...]] = []
        x = torch.zeros(1, 3, self.side, self.side, device=self.device)
        with torch.no_grad():
            for name, _ in self.blocks:
                x = self.network.get_submodule(name)(x)
                self.shapes.append(tuple(x.shape[1:]))
        merging = [number for number, (name, _) in enumerate(self.blocks) if name.startswith(MERGING)]
        kept_apart = self.shapes[: merging[0] if merging else -1]
        maps = {number: PatchMap.of(shape, self.side) for number, shape in enumerate(kept_apart)}
        found = [number for number, patch_map in maps.items() if number and patch_map is not None]
        if not found:
            raise TrainingError(
                f"networks of `{self.space.name}` have no map of patches behind their blocks, so exits have nothing to"
                " read",
                hint="take a vision transformer whose blocks keep their patches apart",
            )
        kept = found if len(found) <= most else [found[step * (len(found) - 1) // (most - 1)] for step in range(most)]
        self.maps = {number: patch_map for number in kept if (patch_map := maps[number]) is not None}

    def part(self, number: int) -> nn.Module:
        """The part of a number, from the first."""
        return self.network.get_submodule(self.blocks[number][0])

    def run(self, x_BCHW: Tensor, seen: Callable[[int, Tensor], None]) -> Tensor:
        """Logits ``(B, K)`` of images; ``seen`` is told what flows behind every place."""
        x: Tensor = self.family.prepare(x_BCHW.to(self.device), self.side)
        for number in range(len(self.blocks)):
            x = self.part(number)(x)
            if number in self.maps:
                seen(number, x)
        return x

    def segment(self, first: int, last: int, exit_behind: nn.Module | None) -> Segment:
        """The parts from ``first`` to ``last``, both included, with an exit behind them."""
        return Segment([self.part(number) for number in range(first, last + 1)], exit_behind)


Exits = dict[tuple[int, str], Exit]
"""Exits by the number of the part in front of them, and their kind."""


def train_exits(
    chain: ExitChain, images: ImageData, epochs: int, seed: int, progress: Callable[[int, int], None]
) -> Exits:
    """Train an exit of every kind at every place, all on the same passes through the network.

    Args:
        chain: The network, which stays as it is.
        images: Images whose training part is learned from.
        epochs: Passes over it.
        seed: Seed of weights, order and augmentation.
        progress: Told of steps done, and of all.

    Raises:
        TrainingError: A loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        exits = {
            (number, kind): Exit(kind, patch_map, images.classes).to(chain.device).train()
            for number, patch_map in chain.maps.items()
            for kind in KINDS
        }
    parameters = [parameter for found in exits.values() for parameter in found.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * images.steps_per_epoch(BATCH_SIZE)
    schedule, step = Schedule(steps, WARMUP), 0
    for epoch in range(epochs):
        for x_BCHW, labels_B in images.train_batches(BATCH_SIZE, seed, epoch):
            flows: dict[int, Tensor] = {}
            with torch.no_grad():
                taught_BK = chain.run(x_BCHW, flows.__setitem__)
            labels_B = labels_B.to(chain.device)
            loss = torch.stack(
                [taught_loss(found(flows[number]), labels_B, taught_BK) for (number, _), found in exits.items()]
            ).sum()
            if not torch.isfinite(loss):
                raise TrainingError(f"exits: the loss is {loss.item()} at step {step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = RATE * schedule.rate(step)
            optimizer.step()
            step += 1
            progress(step, steps)
    for found in exits.values():
        found.eval().requires_grad_(False)
    return exits


def taught_loss(logits_BK: Tensor, labels_B: Tensor, teacher_BK: Tensor) -> Tensor:
    """Cross-entropy with labels, and beside it the distance from a teacher's logits at `TEMPERATURE`."""
    taught_BK = (teacher_BK / TEMPERATURE).softmax(dim=-1)
    log_BK = (logits_BK / TEMPERATURE).log_softmax(dim=-1)
    taught = F.kl_div(log_BK, taught_BK, reduction="sum") * TEMPERATURE**2 / log_BK.numel()
    return LABEL_SHARE * F.cross_entropy(logits_BK, labels_B) + (1 - LABEL_SHARE) * taught


@torch.no_grad()
def exit_logits(
    chain: ExitChain, exits: Exits, images: ImageData
) -> tuple[dict[tuple[int, str], Tensor], Tensor, Tensor]:
    """Logits ``(N, K)`` of every exit and of the network on the search part, and the labels ``(N,)``, on the CPU."""
    rows: dict[tuple[int, str], list[Tensor]] = {key: [] for key in exits}
    last, labels = [], []
    for x_BCHW, labels_B in images.batches("search", BATCH_SIZE):
        flows: dict[int, Tensor] = {}
        last.append(chain.run(x_BCHW, flows.__setitem__).cpu())
        labels.append(labels_B)
        for key, found in exits.items():
            rows[key].append(found(flows[key[0]]).cpu())
    return {key: torch.cat(parts) for key, parts in rows.items()}, torch.cat(last), torch.cat(labels)
