"""Which exits are chosen, when they are taken, and the segments that are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.cli.finish import exit_lines
from nas.errors import UsageError
from nas.exporting.early_exits import EarlyExits
from nas.exporting.export import ProofError
from nas.finishing import exits as exits_module
from nas.finishing.exit_choice import (
    Cost,
    ExitChooser,
    NoExitError,
    Place,
    SeenLogits,
    check_risk,
    exits_taken,
    fit_temperature,
    images_needed,
    most_confident,
    upper_share,
)
from nas.finishing.exits import ExitRequest, calibration_error
from nas.finishing.settings import FinishSettings

EARLY, LATE = (1, "local"), (2, "local")


def cost(places: Sequence[Place]) -> Cost:
    """A millisecond for each part up to an exit and the exit itself, of a network of four parts."""
    ends_E = np.array([*(number + 2.0 + order for order, (number, _) in enumerate(places)), 4.0 + len(places)])
    return Cost(ends_E, 1.1 * ends_E)


@pytest.fixture(scope="module")
def seen() -> SeenLogits:
    """A network that is right on 99 % of 2,000 images; an early exit on most of the sure ones, a late one on more."""
    generator = np.random.default_rng(0)
    labels_N = generator.integers(0, 3, 2000)

    def logits(noise: float) -> np.ndarray:
        hard_N = generator.random((2000, 1)) ** 3
        return 6 * (np.eye(3)[labels_N] * (1 - noise * hard_N) + noise * hard_N * generator.random((2000, 3)))

    return SeenLogits({EARLY: logits(1.0), LATE: logits(0.8)}, logits(0.5), labels_N)


def test_no_exit_is_taken_at_one_and_the_first_at_zero() -> None:
    confidence_EN = np.array([[1.0, 0.6, 0.2], [1.0, 0.9, 0.3]])
    assert exits_taken(confidence_EN, 1.0).tolist() == [2, 2, 2]
    assert exits_taken(confidence_EN, 0.0).tolist() == [0, 0, 0]
    assert exits_taken(confidence_EN, 0.7).tolist() == [0, 1, 2]


def test_temperatures_undo_what_logits_were_multiplied_by(seen: SeenLogits) -> None:
    early_NK = seen.exits_NK[EARLY]
    plain = fit_temperature(early_NK, seen.labels_N)
    assert fit_temperature(3 * early_NK, seen.labels_N) == pytest.approx(3 * plain, rel=1e-3)
    assert most_confident(3 * early_NK, 3.0) == pytest.approx(most_confident(early_NK, 1.0))


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    assert upper_share(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299))
    assert upper_share(5, 5) == 1
    assert images_needed(0.01) == 299
    check_risk(0.01, 598)
    with pytest.raises(UsageError, match="cannot be shown on half of the search part, 298 images, expected 299"):
        check_risk(0.01, 597)


@pytest.mark.parametrize("risk", [0.02, 0.05])
def test_the_plan_is_what_a_simulation_gives(seen: SeenLogits, risk: float) -> None:
    chooser = ExitChooser(seen, cost, risk)
    plan = chooser.choose(2, None, None)
    half = seen.half(1)
    confidence_EN = np.stack(
        [most_confident(half.exits_NK[p], t) for p, t in zip(plan.places, plan.temperatures, strict=True)]
    )
    taken_N = exits_taken(confidence_EN, plan.threshold)
    ends_E = cost(plan.places).ms_E
    assert plan.expected_ms == pytest.approx(ends_E[taken_N].mean())
    assert plan.worst_ms == ends_E[-1]
    assert plan.expected_ms < plan.expected_high_ms < plan.worst_high_ms
    assert sum(plan.shares) == pytest.approx(1)
    said = np.stack([*(half.exits_NK[place].argmax(axis=1) for place in plan.places), half.last_NK.argmax(axis=1)])
    is_lost_N = (said[-1] == half.labels_N) & (said[taken_N, np.arange(1000)] != half.labels_N)
    assert plan.lost_high == upper_share(int(is_lost_N.sum()), 1000) <= risk
    for place in plan.places:  # no pair of the enumeration, and no single exit, is better on the first half
        assert chooser._least(plan.places) <= chooser._least((place,))


def test_limits_hold_for_upper_ends_or_are_refused(seen: SeenLogits) -> None:
    chooser = ExitChooser(seen, cost, 0.05)
    assert len(chooser.choose(2, 1.1 * 5.0, None).places) == 1
    with pytest.raises(NoExitError, match="takes more than 5 ms in the worst case"):
        chooser.choose(2, 5.0, None)
    with pytest.raises(NoExitError, match=r"the mean latency is \S+ ms, at most \S+ ms, expected 1 ms or less"):
        chooser.choose(2, None, 1.0)
    with pytest.raises(NoExitError, match=r"none can be shown to lose less than 0\.1% of the images"):
        ExitChooser(seen, cost, 0.001).choose(2, None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit_ms": 3.0}, "`limit_ms` without exits"),
        ({"expected_limit_ms": 3.0}, "`expected_limit_ms` without exits"),
        ({"exits": 1, "quantise": "int8"}, "`exits` beside `quantise`"),
        ({"exits": 4}, "`exits` is 4, expected 1 to 3"),
        ({"exits": 1, "exit_risk": 0.0}, "`exit_risk` is 0, expected more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExitRequest.of(FinishSettings(**given))  # type: ignore[arg-type]
    assert ExitRequest.of(FinishSettings()) is None


def test_confidence_is_held_against_accuracy() -> None:
    sure, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False])
    assert calibration_error(sure, right) == pytest.approx(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of digits with an exit, trained for a few steps."""
    folder = tmp_path_factory.mktemp("exits")
    model = "timm:vit_tiny_patch16_224?img_size=32&patch_size=8&depth=3&embed_dim=24&num_heads=3"
    asked = {"data": "digits", "arch": model, "options": {"batch_size": 512}}
    nas.finish(**asked, epochs=2, exits=1, exit_risk=0.2, output=folder / "run")  # type: ignore[arg-type]
    return folder / "run"


def test_segments_are_the_network_in_onnx_runtime(finished: Path) -> None:
    facts = nas.finish(output=finished, resume=True).verified["exits"]  # what is finished is told again
    assert facts["target"] == "pixel6"
    assert 0 < facts["expected_ms"] <= facts["worst_ms"]
    assert sum(facts["test_shares"]) == pytest.approx(1)
    names = {path.name for path in (finished / "exits").iterdir()}
    assert names == {"segment_1.onnx", "segment_2.onnx", "exits.json", "early_exits.py"}
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    assert EarlyExits(finished / "exits", threshold=1.0)(image)[1] == 1
    assert EarlyExits(finished / "exits", threshold=0.0)(image)[1] == 0
    with pytest.raises(ValueError, match="2 images at once, expected one"):
        EarlyExits(finished / "exits")(np.concatenate([image, image]))
    with pytest.raises(UsageError, match="has early exits, which ExecuTorch's programs cannot take"):
        nas.exporting.members.export_run(finished, formats=("executorch",))
    lines = exit_lines(facts)
    assert lines[0].startswith(f"early exits ({facts['places'][0][1]} behind part")
    assert exit_lines(None) == []


def test_segments_that_disagree_are_not_written(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits_module, "TOLERANCE", -1.0)
    before = (finished / "exits" / "exits.json").read_bytes()
    with pytest.raises(ProofError, match="the segments give logits that differ by"):
        nas.finish(output=finished, resume=True)
    assert (finished / "exits" / "exits.json").read_bytes() == before
    assert not (finished / "exits.tmp").exists()
