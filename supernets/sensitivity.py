"""What every choice costs: the loss of a trained model with that choice alone at a smaller value.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from search_spaces import Architecture, SearchSpace
from supernets.calibration import Calibration
from supernets.least_squares import DegenerateError
from supernets.supernet import Supernet

Make = Callable[[Architecture], nn.Module]
"""Makes the networks, compensated or as they are cut."""


@torch.no_grad()
def step_losses(supernet: Supernet, make: Make, calibration: Calibration) -> list[list[float]]:
    """Mean loss of the whole network with one choice alone at each of its values, by choice.

    Measured at the least value and one in the middle, in between on straight lines. Blocks in front of the one that
    changes are computed once for all.

    Args:
        supernet: Trained weights of a model whose parts follow one another.
        make: Maker of its networks.
        calibration: Images to measure on.
    """
    space = supernet.space
    whole = calibration.loss(supernet.network)
    found = {(column, len(choice.values) - 1): whole for column, choice in enumerate(space.choices)}
    inside: dict[str, dict[tuple[int, int], nn.Module]] = {}
    for column, choice in enumerate(space.choices):
        users = [slot.name for slot in space.slots if choice.name in slot.choices]
        for value in sorted({0, len(choice.values) // 2} - {len(choice.values) - 1}):
            architecture = _changed(space, column, value)
            try:
                network = supernet.network if architecture == space.largest else make(architecture).eval()
            except DegenerateError:
                continue
            if len(users) == 1 and choice.name.startswith(users[0]):
                inside.setdefault(users[0], {})[column, value] = network.get_submodule(users[0])
            else:
                found[column, value] = calibration.loss(network)
    with calibration.reduced():
        found |= _losses_inside(supernet, inside, calibration)
    worst = max(found.values())
    losses = []
    for column, choice in enumerate(space.choices):
        known = {value: found.get((column, value), worst) for value in range(len(choice.values))}
        at = [value for value in known if (column, value) in found]
        losses.append(np.interp(list(known), at, [known[value] for value in at]).tolist())
    return losses


def _changed(space: SearchSpace, column: int, value: int) -> Architecture:
    genotype_1c = space.encode([space.largest])
    genotype_1c[0, column] = value
    return space.decode(space.repair(genotype_1c))[0]


def _losses_inside(
    supernet: Supernet, inside: dict[str, dict[tuple[int, int], nn.Module]], calibration: Calibration
) -> dict[tuple[int, int], float]:
    """Losses of the whole network with one part in another size, which gives as much as it did."""
    parts = [(slot.name, supernet.network.get_submodule(slot.name)) for slot in supernet.space.slots]
    losses = {key: 0.0 for changed in inside.values() for key in changed}
    for images_BCHW, targets_BK in calibration.batches():
        x = supernet.family.prepare(images_BCHW, supernet.space.image_side)
        for number, (name, part) in enumerate(parts):
            for key, changed in inside.get(name, {}).items():
                rest = changed(x)
                for _, later in parts[number + 1 :]:
                    rest = later(rest)
                losses[key] += calibration.total(rest.float(), targets_BK).item()
            x = part(x)
    return {key: loss / len(calibration.images_BCHW) for key, loss in losses.items()}
