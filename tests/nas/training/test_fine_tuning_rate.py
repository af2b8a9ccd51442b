"""What the width of a model decides: the learning rate for its trained weights, and the precision of its products."""

from __future__ import annotations

import pytest
import torch

from nas.networks import precision as precisions
from nas.networks.precision import fast_precision
from nas.training.fine_tuning import PRETRAINED_RATE, pretrained_rate
from search_spaces import get_space


@pytest.mark.parametrize(
    ("arguments", "share"), [("embed_dim=48&num_heads=3", 1.0), ("embed_dim=128&num_heads=4", 1.0), ("", 128 / 192)]
)
def test_wider_models_move_more_slowly(arguments: str, share: float) -> None:
    space = get_space(f"timm:vit_tiny_patch16_224?depth=2&{arguments}".rstrip("&"))
    assert pretrained_rate(space) == pytest.approx(share * PRETRAINED_RATE)


@pytest.mark.parametrize(
    ("arguments", "flags", "precision"),
    [
        ("", ("avx2", "avx512_bf16"), "bf16"),
        ("", ("asimddp", "bf16"), "bf16"),
        ("", ("avx2", "avx512f"), "fp32"),
        ("&embed_dim=128&num_heads=4", ("avx512_bf16",), "fp32"),
    ],
)
def test_wide_models_compute_in_bf16_where_processors_have_it(
    arguments: str, flags: tuple[str, ...], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "processor_flags", lambda: flags)
    space = get_space(f"timm:vit_tiny_patch16_224?depth=2{arguments}")
    assert fast_precision(space, torch.device("cpu")) == precision
    assert fast_precision(space, torch.device("meta")) == "fp32"
