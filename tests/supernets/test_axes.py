"""Named axes: what they keep, and that gradients land where the narrowing took from."""

from __future__ import annotations

import pytest
import torch

from supernets.narrowing import make_narrowing


def test_merged_axes_keep_a_prefix_of_each() -> None:
    shared = torch.arange(3 * 4 * 2).reshape(12, 2)
    narrowing = make_narrowing("(head channel) embed", (12, 2), {"head": 3, "channel": 4, "embed": 2}, {
        "head": 2, "channel": 3, "embed": 1
    })  # fmt: skip
    assert narrowing.narrow(shared).flatten().tolist() == [0, 2, 4, 8, 10, 12]


def test_centre_keeps_the_middle() -> None:
    narrowing = make_narrowing("kernel:centre .", (5, 2), {"kernel": 5}, {"kernel": 3})
    assert narrowing.narrow(torch.arange(10).reshape(5, 2)).flatten().tolist() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("active", "kept"), [(4, [0, 1, 2, 3]), (3, [1, 2, 3]), (2, [1, 2]), (1, [2])])
def test_late_centre_keeps_the_later_middle(active: int, kept: list[int]) -> None:
    narrowing = make_narrowing("kernel:late-centre", (4,), {"kernel": 4}, {"kernel": active})
    assert narrowing.narrow(torch.arange(4)).tolist() == kept


def test_gradient_lands_in_the_active_part() -> None:
    sizes = {"head": 3, "channel": 4}, {"head": 2, "channel": 3}
    narrowing = make_narrowing("(head channel)", (12,), *sizes)
    gradient = torch.zeros(12)
    narrowing.accumulate(gradient, torch.ones(6))
    assert gradient.tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]


def test_the_region_of_a_tensor_that_gradients_flow_through_is_the_same() -> None:
    """That one is sliced; the others are views made in one operation."""
    full, active = {"head": 3, "channel": 4, "kernel": 5}, {"head": 2, "channel": 3, "kernel": 2}
    narrowing = make_narrowing("(head channel) . kernel:late-centre", (12, 2, 5), full, active)
    storage = torch.arange(130.0)
    shared = storage[10:].view(12, 2, 5)
    sliced = narrowing.region(shared.clone().requires_grad_())
    assert torch.equal(narrowing.region(shared), sliced)
    assert torch.equal(narrowing.region(shared.transpose(1, 2).contiguous().transpose(1, 2)), sliced)
    narrowing.region(shared).zero_()
    assert int((storage == 0).sum()) == 1 + sliced.numel()


def test_scalar() -> None:
    assert make_narrowing("", (), {}, {}).narrow(torch.tensor(3)).item() == 3


@pytest.mark.parametrize(
    ("description", "active", "message"),
    [
        ("embed embed", 1, "name 2 dimensions"),
        ("(embed embed)", 1, "do not make up"),
        ("embed", 5, "expected 1 to 4"),
        ("embed:middle", 1, "unknown mode"),
    ],
)
def test_wrong_descriptions(description: str, active: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_narrowing(description, (4,), {"embed": 4}, {"embed": active})
