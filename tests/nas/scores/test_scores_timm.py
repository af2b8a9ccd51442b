"""Every score on fourteen families of timm models gives a number; none of them is treated specially."""

from __future__ import annotations

import math

import pytest

from nas.networks.named import timm_network
from nas.scores.measure import evaluate_scores
from nas.scores.registry import get_score, score_names
from nas.scores.subject import ScoreSubject
from search_spaces.graph import SOURCE, Op, OpGraph

QUICK = {"deit_tiny_patch16_224": 32, "mobilenetv4_conv_small": 64, "xcit_nano_12_p16_224": 64}
OTHERS = {
    "vit_tiny_patch16_224": 64,
    "levit_128s": 224,
    "swin_tiny_patch4_window7_224": 224,
    "pit_ti_224": 64,
    "efficientformer_l1": 224,
    "convnext_atto": 64,
    "efficientnet_b0": 64,
    "poolformer_s12": 64,
    "fastvit_t8": 64,
    "nf_resnet26": 64,
    "regnety_002": 64,
}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_score_handles_every_family(name: str) -> None:
    named = timm_network(name, {**QUICK, **OTHERS}[name])
    subject = ScoreSubject(name, named.build, named.input_shape, _size_only)
    names = [score for score in score_names() if not get_score(score).is_free]
    results = evaluate_scores(subject, names, repeats=1, batch_size=4)
    assert list(results) == names
    assert {score: result.failure for score, result in results.items() if result.failure} == {}
    assert all(math.isfinite(result.value) for result in results.values())


def _size_only() -> OpGraph:
    """Tracing is tested elsewhere and slow."""
    return OpGraph([("model", (Op("all", "linear", (SOURCE,), ((3,),), (3,), macs=9, params=9),))], (3,))
