"""BatchNorm over the images of several processes, for whatever module calls it.

`torch.nn.SyncBatchNorm` would have to replace layers, which cached blocks share between supernets, and needs a GPU.
Here the calls of `torch.nn.functional.batch_norm` are taken over while a context lasts.

Legend of tensor suffixes: B batch, C channels, S positions of a channel, W workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Guard = Callable[[], AbstractContextManager[None]]
"""Makes a context that turns the errors of broken connections into ours."""


class SynchronisedBatchNorm(TorchFunctionMode):
    """While it lasts, BatchNorm in training mode normalises by the statistics of the default group's images.

    All processes must run the same layers in the same order; they may have different numbers of images. Running
    statistics end equal in all of them, and gradients are those of one process that sees all images.

    Args:
        guard: Stands around everything that is sent.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Take over BatchNorm and leave everything else alone."""
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        normalised, mean_C, variance_C, count = _Normalise.apply(input, eps, self._guard)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
                unbiased_C = variance_C * (count / (count - 1)) if count > 1 else variance_C
                running_var.lerp_(unbiased_C.to(running_var.dtype), momentum)
        shape = (1, -1, *(1,) * (input.ndim - 2))
        if weight is not None:
            normalised = normalised * weight.reshape(shape)
        if bias is not None:
            normalised = normalised + bias.reshape(shape)
        output: Tensor = normalised.to(input.dtype)
        return output


class _Normalise(torch.autograd.Function):
    """``(x - mean) / std`` with statistics over all processes; one exchange forward, one backward."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, eps: float, guard: Guard) -> tuple[Tensor, Tensor, Tensor, float]:
        x = input if input.dtype == torch.float64 else input.float()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        variance_C, mean_C = torch.var_mean(x, dims, correction=0)
        own_count = x.numel() // x.shape[1]
        own = torch.cat([mean_C, variance_C, mean_C.new_tensor([own_count])])
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        with guard():
            dist.all_gather(gathered, own)
        all_W = torch.stack(gathered)
        mean_WC, variance_WC = all_W[:, :-1].tensor_split(2, dim=1)
        share_W1 = all_W[:, -1:] / all_W[:, -1].sum()
        mean_C = (share_W1 * mean_WC).sum(dim=0)
        variance_C = (share_W1 * (variance_WC + (mean_WC - mean_C) ** 2)).sum(dim=0)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        inverse_C = (variance_C + eps).rsqrt()
        normalised = (x - mean_C.reshape(shape)) * inverse_C.reshape(shape)
        count = float(all_W[:, -1].sum())
        ctx.save_for_backward(normalised, inverse_C)
        ctx.count, ctx.guard, ctx.dtype = count, guard, input.dtype
        ctx.mark_non_differentiable(mean_C, variance_C)
        return normalised, mean_C, variance_C, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        normalised, inverse_C = ctx.saved_tensors
        dims = [dim for dim in range(grad.ndim) if dim != 1]
        sums_2C = torch.stack([grad.sum(dims), (grad * normalised).sum(dims)])
        with ctx.guard():
            dist.all_reduce(sums_2C)
        shape = (1, -1, *(1,) * (grad.ndim - 2))
        mean_C, slope_C = (sums_2C / ctx.count).unbind()
        centred = grad - mean_C.reshape(shape) - normalised * slope_C.reshape(shape)
        return (centred * inverse_C.reshape(shape)).to(ctx.dtype), None, None
