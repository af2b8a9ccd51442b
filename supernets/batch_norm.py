"""Re-estimation of BatchNorm statistics: mandatory before any accuracy of a subnet is read.

Shared running statistics mix those of many subnets. Source: Tang et al., ICCV 2023 (and Yu et al., ICCV 2019): reset,
then average the statistics of some training batches with equal weight.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every BatchNorm layer by those of ``batches``, averaged cumulatively.

    Args:
        module: A stand-alone network; left in the mode (training or evaluation) it had. Networks without BatchNorm
            are left alone and no batch is drawn.
        batches: Images ``(B, 3, H, W)``, as in training.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    if not norms:
        return
    momenta, was_training = [norm.momentum for norm in norms], module.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.eval()
    for norm in norms:
        norm.train()
    try:
        for x_BCHW in batches:
            module(x_BCHW)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.train(was_training)
