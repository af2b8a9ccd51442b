"""A pretrained vision transformer goes on learning from pictures without labels, most of it left as it is.

The last block and all norms are trained; of the query and value rows of every other block only a change of low rank.
The loss is the one that such models were pretrained with, as far as it needs no masked patches: the network is to say
of any crop of a picture what a moving average of itself says of another, and features of a batch keep apart.

Sources: Khanna et al., "ExPLoRA: Parameter-Efficient Extended Pre-Training to Adapt Vision Transformers under Domain
Shifts", ICML 2025, arXiv 2406.10973; Caron et al. (DINO), arXiv 2104.14294; Oquab et al., "DINOv2", arXiv 2304.07193
(KoLeo, after Sablayrolles et al., arXiv 1806.03198). Deviations: without DINOv2's loss of masked patches; in
short trainings the average follows faster, so that it gets to the end.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, D features, P prototypes, R rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from supernets.data.unlabelled import LARGE_CROPS
from supernets.errors import TrainingError
from supernets.training.schedule import Schedule

HIDDEN, BOTTLENECK, PROTOTYPES = 2048, 256, 4096
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CENTRE_DECAY, FIRST_DECAY = 0.9, 0.996
FOLLOWING = 10
"""Steps that the moving average looks back over are at most a share of the training, one in so many."""
KOLEO = 0.1
"""Weight of the loss that keeps features apart."""
WEIGHT_DECAY, WARMUP, CLIP = 0.04, 0.1, 3.0


class QueryValueChange(nn.Module):
    """A change of low rank of the query and value rows of a fused projection.

    Args:
        width: Rows of each of query, key and value, and columns.
        rank: Rank of the change.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down_2RD = nn.Parameter((2 * torch.rand(2, rank, width) - 1) / math.sqrt(width))
        self.up_2DR = nn.Parameter(torch.zeros(2, width, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The projection ``(3 D, D)`` with the change added."""
        query, value = self.up_2DR @ self.down_2RD
        return weight + torch.cat([query, torch.zeros_like(query), value])


class PrototypeHead(nn.Module):
    """Features to how much they are like each of many prototypes; thrown away in the end.

    Args:
        width: Features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK)
        )
        self.prototypes_PD = nn.Parameter(torch.randn(PROTOTYPES, BOTTLENECK))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Cosines ``(B, P)``."""
        return F.normalize(self.body(features_BD), dim=1) @ F.normalize(self.prototypes_PD, dim=1).T


@dataclass(frozen=True)
class Adaptation:
    """How a model is adapted.

    Attributes:
        rank: Rank of the change of query and value rows.
        rate: Peak of the learning rate.
        steps: Optimiser steps.
        seed: Seed of what begins at random.
        device: Where it is computed.
    """

    rank: int
    rate: float
    steps: int
    seed: int
    device: torch.device


def projections_of(model: nn.Module) -> list[str]:
    """Names of the fused projections of a model's blocks, in order.

    Raises:
        TrainingError: It is no plain vision transformer with a class token.
    """
    fused: list[str] = []
    if isinstance(model, VisionTransformer) and model.cls_token is not None:
        fused = [
            name
            for name, module in model.named_modules()
            if name.startswith("blocks.") and name.endswith(".attn.qkv") and isinstance(module, nn.Linear)
        ]
    if not fused:
        raise TrainingError(
            f"{type(model).__name__} is no plain vision transformer with a class token, which is what can be adapted",
            hint="take one such as those of DINO, DINOv2, MAE, DeiT or CLIP",
        )
    return fused


def open_to_training(model: nn.Module, rank: int) -> list[str]:
    """Freeze a model of timm but for what is adapted, and add changes of low rank.

    Returns:
        Names of the projections that get such a change: of all blocks but the last one.

    Raises:
        TrainingError: As `projections_of`.
    """
    *changed, last = projections_of(model)
    model.requires_grad_(False)
    model.get_submodule(last.removesuffix(".attn.qkv")).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
    for name in changed:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        parametrize.register_parametrization(layer, "weight", QueryValueChange(layer.in_features, rank))
    return changed


def trained_parameters(model: nn.Module, rank: int) -> int:
    """The number of parameters that `open_to_training` leaves to be trained in an ordinary model."""
    *changed, last = projections_of(model)
    block = last.removesuffix("attn.qkv")
    norms = {id(each) for module in model.modules() if isinstance(module, nn.LayerNorm) for each in module.parameters()}
    free = sum(each.numel() for name, each in model.named_parameters() if name.startswith(block) or id(each) in norms)
    layers = [layer for layer in map(model.get_submodule, changed) if isinstance(layer, nn.Linear)]
    return free + sum(4 * rank * layer.in_features for layer in layers)


def fold_changes(model: nn.Module, names: Iterable[str]) -> None:
    """Make the changes part of the weights, so that the model is an ordinary one again."""
    for name in names:
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
    model.requires_grad_(True)


def adapt(
    model: VisionTransformer, batches: Iterable[Sequence[Tensor]], how: Adaptation, progress: Callable[[int], None]
) -> list[float]:
    """Adapt a model of timm without a classifier, in place; it ends on the CPU.

    Args:
        model: Gives features ``(B, D)`` for images of several sides.
        batches: Pictures of all epochs, batch by batch: for each crop a tensor ``(B, C, H, W)``, the large ones first.
        how: How it is adapted.
        progress: Told of the steps that are done.

    Returns:
        The loss of every step.

    Raises:
        TrainingError: The model cannot be adapted, there is nothing to learn from, or the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        names = open_to_training(model, how.rank)
        head = PrototypeHead(model.num_features)
    student = nn.ModuleDict({"model": model, "head": head}).to(how.device)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    student.train()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, how.rate, weight_decay=WEIGHT_DECAY)
    schedule, centre_P = Schedule(how.steps, WARMUP), torch.zeros(PROTOTYPES, device=how.device)
    first = 1 - max(1 - FIRST_DECAY, min(0.5, FOLLOWING / how.steps))
    losses: list[float] = []
    for crops in batches:
        if not crops or len(crops[0]) < 2:  # too few could be read
            continue
        step = len(losses)
        for group in optimizer.param_groups:
            group["lr"] = how.rate * schedule.rate(step)
        loss = _loss(student, teacher, [crop.to(how.device, non_blocking=True) for crop in crops], centre_P)
        if not torch.isfinite(loss):
            raise TrainingError(f"adaptation: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        _follow(teacher, student, 1 - (1 - first) * (1 + math.cos(math.pi * step / how.steps)) / 2)
        losses.append(loss.item())
        progress(len(losses))
    if not losses:
        raise TrainingError("adaptation: none of the pictures can be read")
    model.load_state_dict(teacher["model"].state_dict())
    fold_changes(model.cpu().eval(), names)
    return losses


def _loss(student: nn.ModuleDict, teacher: nn.ModuleDict, crops: Sequence[Tensor], centre_P: Tensor) -> Tensor:
    """Cross-entropy of the student on every crop with the teacher on every other large one; the centre follows."""
    large_BCHW = torch.cat(list(crops[:LARGE_CROPS]))
    with torch.no_grad():
        said_BP = teacher["head"](teacher["model"](large_BCHW))
        targets = ((said_BP - centre_P) / TEACHER_TEMPERATURE).softmax(dim=1).chunk(LARGE_CROPS)
        centre_P.lerp_(said_BP.mean(dim=0), 1 - CENTRE_DECAY)
    features_BD = student["model"](large_BCHW)
    outputs = list(student["head"](features_BD).chunk(LARGE_CROPS))
    if len(crops) > LARGE_CROPS:
        small = student["head"](student["model"](torch.cat(list(crops[LARGE_CROPS:]))))
        outputs += small.chunk(len(crops) - LARGE_CROPS)
    logs = [(output_BP / STUDENT_TEMPERATURE).log_softmax(dim=1) for output_BP in outputs]
    terms = [
        -(target_BP * log_BP).sum(dim=1).mean()
        for place, target_BP in enumerate(targets)
        for number, log_BP in enumerate(logs)
        if number != place
    ]
    apart = torch.stack([_nearness(part_BD) for part_BD in features_BD.chunk(LARGE_CROPS)]).mean()
    return torch.stack(terms).mean() + KOLEO * apart


def _nearness(features_BD: Tensor) -> Tensor:
    """KoLeo: minus the mean logarithm of the distance to the nearest other."""
    unit_BD = F.normalize(features_BD.float(), dim=1)
    with torch.no_grad():
        nearest_B = (unit_BD @ unit_BD.T).fill_diagonal_(-1).argmax(dim=1)
    return -(F.pairwise_distance(unit_BD, unit_BD[nearest_B]) + 1e-8).log().mean()


@torch.no_grad()
def _follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
        if other.requires_grad:
            mine.lerp_(other, 1 - decay)
