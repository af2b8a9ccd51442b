"""Batch norm over the images of two processes, which are threads here, against one that sees all images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernets.training import synchronised_norm
from supernets.training.synchronised_norm import SynchronisedBatchNorm

COUNTS = (3, 5)
"""Images of each of the two."""


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """A process group whose members are threads; each sets its ``rank``."""
    own, barrier, sent = threading.local(), threading.Barrier(len(COUNTS), timeout=60), {}

    def exchanged(tensor: Tensor) -> list[Tensor]:
        sent[own.rank] = tensor.clone()
        barrier.wait()
        found = [sent[rank] for rank in range(len(COUNTS))]
        barrier.wait()
        return found

    def all_gather(gathered: list[Tensor], tensor: Tensor) -> None:
        for place, found in zip(gathered, exchanged(tensor), strict=True):
            place.copy_(found)

    def all_reduce(tensor: Tensor) -> None:
        tensor.copy_(torch.stack(exchanged(tensor)).sum(dim=0))

    fake = SimpleNamespace(get_world_size=lambda: len(COUNTS), all_gather=all_gather, all_reduce=all_reduce)
    monkeypatch.setattr(synchronised_norm, "dist", fake)
    return own


def layer() -> nn.Module:
    norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 3.0]))
    return norm


def run_all(work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(COUNTS)) as threads:
        return list(threads.map(work, range(len(COUNTS))))


def test_outputs_gradients_and_statistics_are_those_of_one_process(group: threading.local) -> None:
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(sum(COUNTS), 4, 3, 2, generator=generator, dtype=torch.float64) * 3 + 1
    slopes_BCHW = torch.randn(x_BCHW.shape, generator=generator, dtype=torch.float64)
    alone, x_alone = layer(), x_BCHW.clone().requires_grad_()
    expected = alone(x_alone)
    (expected * slopes_BCHW).sum().backward()

    def work(rank: int) -> tuple[Tensor, Tensor, nn.Module]:
        group.rank = rank
        own = layer()
        x = x_BCHW.split(COUNTS)[rank].clone().requires_grad_()
        with SynchronisedBatchNorm(nullcontext):
            found = own(x)
        (found * slopes_BCHW.split(COUNTS)[rank]).sum().backward()
        assert x.grad is not None
        return found.detach(), x.grad, own

    found = run_all(work)
    assert torch.allclose(torch.cat([each[0] for each in found]), expected, atol=1e-12)
    assert x_alone.grad is not None
    assert torch.allclose(torch.cat([each[1] for each in found]), x_alone.grad, atol=1e-12)
    for _, _, own in found:
        assert torch.allclose(own.get_buffer("running_mean"), alone.get_buffer("running_mean"), atol=1e-12)
        assert torch.allclose(own.get_buffer("running_var"), alone.get_buffer("running_var"), atol=1e-12)
    for name, parameter in alone.named_parameters():
        parts = [own.get_parameter(name).grad for _, _, own in found]
        assert parameter.grad is not None
        assert torch.allclose(parts[0] + parts[1], parameter.grad, atol=1e-12), name


def test_evaluation_exchanges_nothing() -> None:
    """No group is there: whoever sent anything would be refused."""
    norm, x_BCHW = layer().eval(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    with SynchronisedBatchNorm(nullcontext):
        found = norm(x_BCHW)
    assert torch.equal(found, norm(x_BCHW))


def test_everything_that_is_sent_is_guarded(group: threading.local) -> None:
    guarded = [0, 0]

    def work(rank: int) -> None:
        group.rank = rank

        def guard() -> nullcontext[None]:
            guarded[rank] += 1
            return nullcontext()

        x = torch.ones(COUNTS[rank], 4, 2, 2, dtype=torch.float64, requires_grad=True)
        with SynchronisedBatchNorm(guard):
            layer()(x).sum().backward()

    run_all(work)
    assert guarded == [2, 2], "once forward, once backward"
