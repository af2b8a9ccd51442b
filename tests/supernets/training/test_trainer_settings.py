"""Settings, schedules and recipes: what is asked is what is trained, and nonsense is refused in words."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from nas.errors import UsageError
from nas.training.options import parse_options
from search_spaces import UnknownNameError, get_space
from supernets.errors import TrainingError
from supernets.supernet import Supernet
from supernets.training.clipping import clip_gradients
from supernets.training.optimizer import make_optimizer
from supernets.training.recipes import RECIPES, recipe_settings
from supernets.training.schedule import Schedule
from supernets.training.settings import LEGACY_DEFAULTS, TrainingSettings


def test_settings_go_to_json_and_back() -> None:
    settings = TrainingSettings(teachers=("a", "b"), teacher_weights=("x", "y"), warmup_epochs=2.5, ema_decay=0.9)
    assert TrainingSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_setting_that_an_old_checkpoint_lacks_is_what_it_was_then() -> None:
    usual = TrainingSettings().to_dict()
    assert {name: usual[name] for name in LEGACY_DEFAULTS} == dict(LEGACY_DEFAULTS)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("precision", "fp8", "found fp8, expected one of `fp32`, `bf16`, `fp16`"),
        ("clipping", "soft", "expected one of `norm`, `adaptive`, `none`"),
        ("accumulate", 0, "found 0, expected more than 0"),
        ("accumulate", 33, "expected no more than the 32 images of a batch"),
        ("ema_decay", 1.0, "found 1.0, expected 0 to 1"),
        ("cooldown_epochs", -1.0, "expected 0 or more"),
        ("warmup_epochs", 22.0, "found 22.0, expected 0 or more, and fewer than the 22 epochs"),
        ("temperature", 0.0, "expected more than 0"),
        ("teacher_weights", ("a",), "found 1 files, expected one for each of 0 teachers"),
    ],
)
def test_settings_out_of_range_say_what_is_expected(name: str, value: Any, expected: str) -> None:
    with pytest.raises(TrainingError, match=f"training setting `{name}`: .*{expected}"):
        TrainingSettings(**{name: value})


def test_a_time_budget_has_no_epochs_to_warm_up_in() -> None:
    with pytest.raises(TrainingError, match="a training with a time budget has no fixed number of epochs"):
        TrainingSettings(budget_seconds=60.0, warmup_epochs=1.0)


# -- schedule --------------------------------------------------------------------------------------------------------


def test_a_schedule_warms_up_from_a_rate_and_cools_down_at_another() -> None:
    settings = TrainingSettings(epochs=8, cooldown_epochs=2, warmup_epochs=1, warmup_start=0.1, floor=0.05)
    assert (settings.warmup_share, settings.cooldown_share) == (0.1, 0.2)
    schedule = Schedule(1000, settings.warmup_share, start=0.1, floor=0.05, cooldown=settings.cooldown_share)
    rates = [schedule.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1 + 0.9 * 0.005)
    assert max(rates) == pytest.approx(1.0, abs=1e-2)
    assert rates[100:800] == sorted(rates[100:800], reverse=True)
    assert rates[450] == pytest.approx(0.525, abs=2e-3)  # half way down the cosine
    assert set(rates[800:]) == {0.05}


def test_a_schedule_of_an_old_checkpoint_is_what_it_was() -> None:
    old = Schedule(**{"total_steps": 50, "warmup": 0.1, "from_step": 0, "from_progress": 0.0})
    assert old == Schedule(50, 0.1)
    assert old.rate(49) == pytest.approx(0.01, abs=1e-3)


# -- what decays, what is clipped ------------------------------------------------------------------------------------


def decayed(space: str, **changes: Any) -> set[str]:
    supernet = Supernet(get_space(space))
    group = make_optimizer(supernet, TrainingSettings(**changes)).param_groups[0]
    return {name for name, parameter in supernet.named_parameters() if any(parameter is p for p in group["params"])}


def test_elasticvit_trains_convolutional_blocks_without_decay() -> None:
    all_matrices, published = decayed("elastic-mini"), decayed("elastic-mini", decay="published")
    assert published < all_matrices
    assert {name.split(".")[1] for name in all_matrices - published} == {"stem", "C1", "T1", "T2"}
    assert all("attention" in name or "feed_forward" in name or "head" in name for name in published)
    assert any(name.endswith("position_bias") for name in published)


def test_a_family_that_spares_nothing_decays_all_matrices() -> None:
    assert decayed("asvit-mini") == decayed("asvit-mini", decay="published")


def test_adaptive_clipping_bounds_each_unit_by_its_weights() -> None:
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    weight.grad = torch.tensor([[30.0, 40.0], [0.003, 0.004]])
    assert clip_gradients([weight], "adaptive", 0.1) == pytest.approx(50.0)
    assert torch.allclose(weight.grad, torch.tensor([[0.3, 0.4], [0.003, 0.004]]))
    weight.grad = torch.full((2, 2), 7.0)
    assert clip_gradients([weight], "none", 0.1) == pytest.approx(14.0)
    assert torch.equal(weight.grad, torch.full((2, 2), 7.0))


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_the_recipes_are_those_of_the_papers() -> None:
    elasticvit, resnas = (recipe_settings(name, {}) for name in ("elasticvit", "resnas"))
    assert elasticvit.learning_rate == pytest.approx(5e-4 * elasticvit.batch_size / 512)
    assert elasticvit.learning_rate * elasticvit.floor == pytest.approx(5e-6 * elasticvit.batch_size / 512)
    assert (elasticvit.epochs, elasticvit.cooldown_epochs, elasticvit.clipping) == (600, 10, "adaptive")
    assert (elasticvit.ema_decay, elasticvit.precision, len(elasticvit.teachers)) == (0.99985, "fp32", 2)
    assert (resnas.learning_rate, resnas.epochs, resnas.batch_size) == (1e-3, 120, 1024)
    assert resnas.learning_rate * resnas.warmup_start == pytest.approx(1e-6)
    assert resnas.learning_rate * resnas.floor == pytest.approx(1e-5)
    assert (resnas.mixing, resnas.clipping, resnas.precision, resnas.ema_decay) == ("token", "none", "fp16", None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_can_be_overridden(name: str) -> None:
    given = {"batch_size": 64, "epochs": 7, "policy": "uniform", "teachers": (), "seed": 3, "ema_decay": None}
    settings = recipe_settings(name, given)
    assert {key: getattr(settings, key) for key in given} == given
    assert settings.learning_rate == pytest.approx(RECIPES[name].learning_rate / 8)
    assert recipe_settings(name, {"learning_rate": 1e-4}).learning_rate == 1e-4
    assert recipe_settings(name, {"warmup": 0.2}).warmup_share == 0.2


def test_a_recipe_under_a_time_budget_keeps_its_share_of_warm_up() -> None:
    settings = recipe_settings("resnas", {"budget_seconds": 60.0})
    assert settings.warmup_share == 5 / 120
    assert settings.cooldown_share == 0


def test_a_recipe_that_does_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="unknown training recipe: `elasticvits`"):
        recipe_settings("elasticvits", {})


# -- texts -----------------------------------------------------------------------------------------------------------


def test_options_are_read_from_text() -> None:
    texts = ["weight_decay=0.02", "accumulate=2", "ema_decay=none", "teachers=a, b", "clipping=none"]
    found, others = parse_options(texts)
    assert others == {}
    assert found == {
        "weight_decay": 0.02,
        "accumulate": 2,
        "ema_decay": None,
        "teachers": ("a", "b"),
        "clipping": "none",
    }
    assert dataclasses.replace(TrainingSettings(), **found).accumulate == 2
    assert parse_options(["teachers=none"]) == ({"teachers": ()}, {})


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("weight_decay", "expected NAME=VALUE", "for example"),
        ("weight_decoy=1", "`weight_decoy`: not known", "did you mean `weight_decay`"),
        ("accumulate=two", "`accumulate`: found `two`: input should be a valid integer", ""),
        ("epochs=3", "`epochs`: it has an argument of its own", "give it as `--epochs`"),
        ("precision=fp8", "`precision`: found `fp8`: input should be 'fp32', 'bf16' or 'fp16'", ""),
    ],
)
def test_options_that_make_no_sense(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_options([text])
    assert hint in caught.value.hint
