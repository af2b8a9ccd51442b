"""The learning rate for trained weights falls with the width of the model."""

from __future__ import annotations

import pytest

from nas.training.fine_tuning import PRETRAINED_RATE, pretrained_rate
from search_spaces import get_space


@pytest.mark.parametrize(
    ("arguments", "share"), [("embed_dim=48&num_heads=3", 1.0), ("embed_dim=128&num_heads=4", 1.0), ("", 128 / 192)]
)
def test_wider_models_move_more_slowly(arguments: str, share: float) -> None:
    space = get_space(f"timm:vit_tiny_patch16_224?depth=2&{arguments}".rstrip("&"))
    assert pretrained_rate(space) == pytest.approx(share * PRETRAINED_RATE)
