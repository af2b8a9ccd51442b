"""Several networks that look at the same images, and a small network that tells the classes from all they see.

After Liu et al., "ED-ViT: Splitting Vision Transformer for Distributed Inference on Edge Devices", 2024, arXiv
2410.11650, whose sub-networks are fused so as well.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N images, D features, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import SearchSpace
from supernets.data.image_data import ImageData, Part
from supernets.early_exits import taught_loss
from supernets.errors import TrainingError
from supernets.family import family_of
from supernets.features import classifiers_in
from supernets.training.schedule import Schedule

RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.05, 0.1
"""Peak of the learning rate of what is fused, and what else it learns by."""
FROZEN_STEPS, FROZEN_ROWS, MOST_IMAGES = 400, 512, 20_000
"""What the fusion learns alone first: steps, rows of features in each, and training images that those are from."""
BATCH_SIZE = 32

Teacher = Callable[[Tensor], Tensor]


def without_classifier(network: nn.Module, space: SearchSpace) -> nn.Module:
    """A copy of a network that gives the features ``(B, D)`` its classifier reads.

    Raises:
        SupernetError: It has no dense classifier.
    """
    found = copy.deepcopy(network)
    for layer in classifiers_in(found, space):
        name = next(name for name, module in found.named_modules() if module is layer)
        parent, _, own = name.rpartition(".")
        setattr(found.get_submodule(parent), own, nn.Identity())
    return found


class Fusion(nn.Module):
    """Features of all networks, side by side, to logits by one hidden layer of half their number.

    Args:
        widths: Features of each network.
        classes: Number of classes.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(widths), max(1, sum(widths) // 2))
        self.classifier = nn.Linear(self.hidden.out_features, classes)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        logits_BK: Tensor = self.classifier(F.relu(self.hidden(features_BD)))
        return logits_BK


class FusedNetworks(nn.Module):
    """Networks of one space without classifiers, and their fusion.

    Args:
        space: Their search space.
        branches: The networks, as `without_classifier` gives them.
        sides: Side in pixels of the images of each.
        classes: Number of classes.
    """

    def __init__(self, space: SearchSpace, branches: Sequence[nn.Module], sides: Sequence[int], classes: int) -> None:
        super().__init__()
        self._prepare = family_of(space).prepare
        self.sides = tuple(sides)
        self.branches = nn.ModuleList(branches)
        self.widths = tuple(self._width(branch, side) for branch, side in zip(branches, sides, strict=True))
        self.fusion = Fusion(self.widths, classes)

    @staticmethod
    @torch.no_grad()
    def _width(branch: nn.Module, side: int) -> int:
        return int(branch.eval()(torch.zeros(1, 3, side, side)).shape[1])

    def features(self, x_BCHW: Tensor) -> Tensor:
        """What all networks see in images of any side, side by side, ``(B, D)``."""
        seen = [branch(self._prepare(x_BCHW, side)) for branch, side in zip(self.branches, self.sides, strict=True)]
        return torch.cat(seen, dim=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        logits_BK: Tensor = self.fusion(self.features(x_BCHW))
        return logits_BK


def train_fused(
    network: FusedNetworks,
    images: ImageData,
    teacher: Teacher | None,
    *,
    epochs: int,
    rate: float,
    seed: int,
    progress: Callable[[int, int], None],
) -> Mapping[str, float]:
    """Train the fusion on features as they are, then everything together, which is kept where it is better.

    Args:
        network: Changed in place; in evaluation mode afterwards.
        images: Images whose training part is learned from; the search part judges.
        teacher: Images to the logits of a network that knows the classes; None for labels alone.
        epochs: Passes over the training part together; 0 for none.
        rate: Peak of the learning rate of the networks; the fusion has its own.
        seed: Seed of weights, order and augmentation.
        progress: Told of steps done together, and of all.

    Returns:
        Accuracies on the search part, in [0, 1]: ``fused``, and ``joint`` where all was trained together.

    Raises:
        TrainingError: A loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network.fusion.children():
            layer.reset_parameters()  # type: ignore[operator]
        _train_fusion(network, images, teacher, seed)
        found = {"fused": _accuracy(network, images)}
        if not epochs:
            return found
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        _train_together(network, images, teacher, epochs, rate, seed, progress)
    found["joint"] = _accuracy(network, images)
    if found["joint"] < found["fused"]:
        network.load_state_dict(before)
    return found


def _train_fusion(network: FusedNetworks, images: ImageData, teacher: Teacher | None, seed: int) -> None:
    """On features of the training part, computed once: of the images as they are, and of one augmented view of each."""
    network.eval()
    rows = []
    size = min(BATCH_SIZE, images.splits["train"])
    views = islice(images.train_batches(size, seed, epoch=0), max(1, MOST_IMAGES // size))
    with torch.no_grad():
        for x_BCHW, labels_B in chain(images.batches("train", size, MOST_IMAGES), views):
            rows.append((network.features(x_BCHW), labels_B, _taught(teacher, x_BCHW)))
    features_ND, labels_N = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
    taught_NK = None if teacher is None else torch.cat([row[2] for row in rows if row[2] is not None])
    mean_D, std_D = features_ND.mean(dim=0), features_ND.std(dim=0).clamp_min(1e-6)
    inputs_ND = (features_ND - mean_D) / std_D
    fusion, generator = network.fusion, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = Schedule(FROZEN_STEPS, WARMUP)
    for step in range(FROZEN_STEPS):
        chosen_B = torch.randint(len(labels_N), (min(FROZEN_ROWS, len(labels_N)),), generator=generator)
        taught_BK = None if taught_NK is None else taught_NK[chosen_B]
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule.rate(step)
        _step(optimizer, _loss(fusion(inputs_ND[chosen_B]), labels_N[chosen_B], taught_BK))
    with torch.no_grad():  # features are standardised by the layer that reads them
        fusion.hidden.weight.div_(std_D)
        fusion.hidden.bias.sub_(fusion.hidden.weight @ mean_D)


def _train_together(
    network: FusedNetworks,
    images: ImageData,
    teacher: Teacher | None,
    epochs: int,
    rate: float,
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    network.train()
    peaks = {network.branches: rate, network.fusion: rate}
    optimizer = torch.optim.AdamW([{"params": part.parameters()} for part in peaks], weight_decay=WEIGHT_DECAY)
    steps = epochs * images.steps_per_epoch(BATCH_SIZE)
    schedule, step = Schedule(steps, WARMUP), 0
    for epoch in range(epochs):
        for x_BCHW, labels_B in images.train_batches(BATCH_SIZE, seed, epoch):
            for group, peak in zip(optimizer.param_groups, peaks.values(), strict=True):
                group["lr"] = peak * schedule.rate(step)
            _step(optimizer, _loss(network(x_BCHW), labels_B, _taught(teacher, x_BCHW)))
            step += 1
            progress(step, steps)
    network.eval()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(f"networks that are trained together: the loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _taught(teacher: Teacher | None, x_BCHW: Tensor) -> Tensor | None:
    return None if teacher is None else teacher(x_BCHW)


def _loss(logits_BK: Tensor, labels_B: Tensor, taught_BK: Tensor | None) -> Tensor:
    return F.cross_entropy(logits_BK, labels_B) if taught_BK is None else taught_loss(logits_BK, labels_B, taught_BK)


@torch.no_grad()
def _accuracy(network: nn.Module, images: ImageData, part: Part = "search") -> float:
    right = [
        (network.eval()(x_BCHW).argmax(dim=1) == labels_B).float() for x_BCHW, labels_B in images.batches(part, 64)
    ]
    return float(torch.cat(right).mean())
