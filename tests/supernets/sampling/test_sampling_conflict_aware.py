"""Conflict-aware sampling: banks, preference, schedule, and a training that is stopped and goes on to the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from search_spaces import Architecture, UnknownNameError, get_space
from supernets.checkpoint import read_checkpoint
from supernets.data.image_data import ImageData
from supernets.errors import TrainingError
from supernets.sampling import ConflictAwarePolicy, conflict_aware, policy_names
from supernets.sampling.complexity_aware import walk
from supernets.sampling.conflict_aware import ConflictAwareSampler, exploit_share
from supernets.sampling.levels import levels_of
from supernets.sampling.memory_bank import MemoryBank
from supernets.sampling.preference import preference
from supernets.supernet import Supernet
from supernets.training.events import Callbacks, TrainingProgress
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

ELASTIC, MINI = get_space("elastic"), get_space("elastic-mini", 2)
SETTINGS = TrainingSettings(epochs=3, batch_size=8, policy="conflict-aware", checkpoint_every_seconds=1000)


def networks(count: int) -> list[Architecture]:
    return MINI.decode(MINI.sample(count, np.random.default_rng(0)))


# -- memory bank -----------------------------------------------------------------------------------------------------


def test_a_full_bank_replaces_its_worst_by_something_better() -> None:
    bank, (a, b, c, d) = MemoryBank(3), networks(4)
    assert (bank.best, bank.is_half_full) == (None, False)
    bank.add(a, -2.0)
    assert not bank.is_half_full
    bank.add(b, -1.0)
    bank.add(c, -3.0)
    assert bank.is_half_full
    bank.add(d, -3.0)
    assert [network for network, _ in bank.entries] == [a, b, c]
    bank.add(d, -1.5)
    assert bank.entries == [(a, -2.0), (b, -1.0), (d, -1.5)]
    assert bank.best == b


def test_a_new_score_replaces_the_old_one() -> None:
    bank, (a, b, c) = MemoryBank(3), networks(3)
    for number, network in enumerate((a, b, c)):
        bank.add(network, -float(number))
    bank.add(a, -9.0)
    assert (len(bank), bank.best) == (3, b)
    assert dict(bank.entries) == {a: -9.0, b: -1.0, c: -2.0}


def test_a_bank_draws_in_proportion_to_exponential_scores() -> None:
    bank, (a, b, c) = MemoryBank(3), networks(3)
    scores = {a: -1000.0, b: -1001.0, c: -1003.0}
    for network, score in scores.items():
        bank.add(network, score)
    generator = np.random.default_rng(0)
    drawn = [bank.draw(generator) for _ in range(4000)]
    total = sum(math.exp(score + 1000) for score in scores.values())
    for network, score in scores.items():
        assert drawn.count(network) / 4000 == pytest.approx(math.exp(score + 1000) / total, abs=0.03)


# -- preference and schedule -----------------------------------------------------------------------------------------


def test_preference_of_published_networks() -> None:
    candidates = [ELASTIC.named[name] for name in ("S1", "M", "L2")]
    values = preference(ELASTIC, candidates, ELASTIC.named["T1"]) / 1e6
    assert values.tolist() == pytest.approx([48.41, 82.97, 1.39], abs=0.01)


def test_preference_is_for_width_and_against_depth() -> None:
    base = dict(MINI.smallest.settings)
    wide, deep = (MINI.from_values({**base, **more}) for more in ({"T2.width": 96}, {"T2.depth": 3}))
    values = preference(MINI, [wide, MINI.smallest, deep], MINI.smallest)
    assert values[0] < values[1] == 0 < values[2]


def test_spaces_without_widths_and_depths_have_no_preference() -> None:
    space = get_space("asvit")
    drawn = space.decode(space.sample(5, np.random.default_rng(0)))
    assert preference(space, drawn, space.smallest).tolist() == [0] * 5


def test_the_exploited_share_rises_as_over_600_epochs() -> None:
    published = {0: 0.2, 98: 0.2, 99: 0.35, 198: 0.35, 199: 0.5, 299: 0.65, 399: 0.8, 499: 0.95, 598: 0.95, 599: 1.1}
    found = {epoch: exploit_share(epoch / 600) for epoch in published}
    assert found == pytest.approx(published)
    assert exploit_share(1.0) == pytest.approx(1.1)


# -- sampler ---------------------------------------------------------------------------------------------------------


def sampler_with_banks(steps: int = 120) -> ConflictAwareSampler:
    """A sampler of which enough steps have passed to fill its lowest banks more than half."""
    sampler = ConflictAwarePolicy().begin(MINI, seed=0)
    generator = np.random.default_rng(0)
    for step in range(steps):
        for assignment in sampler.assign(step, 0.0):
            sampler.observe(assignment.architecture, -generator.random())
    return sampler


def step_at(level: int, after: int = 1000) -> int:
    return next(step for step in range(after, after + 5000) if walk(0, step, len(levels_of(MINI))) == level)


@pytest.fixture
def small_banks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflict_aware, "CAPACITIES", (6, 4))


def test_capacities_and_what_enters_the_banks() -> None:
    sampler = sampler_with_banks(40)
    levels = levels_of(MINI)
    assert [bank.capacity for bank in sampler.banks] == [150] * 4 + [50] * 4
    for bank, level in zip(sampler.banks, levels.levels, strict=True):
        assert level.smallest not in bank
    assert sum(len(bank) for bank in sampler.banks) > 100
    elsewhere = networks(1)[0]
    sampler.observe(elsewhere, 0.0)
    assert all(elsewhere not in bank for bank in sampler.banks)


@pytest.mark.usefixtures("small_banks")
def test_late_in_training_most_networks_come_from_the_bank() -> None:
    sampler = sampler_with_banks()
    shares = {}
    for progress in (0.0, 0.99):
        step, known = step_at(0), 0
        for _ in range(100):
            *drawn, _ = sampler.assign(step, progress)
            known += sum(assignment.architecture in sampler.banks[0] for assignment in drawn)
            step = step_at(0, step + 1)
        shares[progress] = known / 300
    assert shares[0.0] == pytest.approx(0.2, abs=0.08)
    assert shares[0.99] == pytest.approx(0.95, abs=0.05)


@pytest.mark.usefixtures("small_banks")
def test_exploration_takes_the_preferred_of_five_with_the_best_small_network_as_anchor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = sampler_with_banks(250)
    monkeypatch.setattr(conflict_aware, "FIRST_SHARE", 0.0)
    index = max(number for number, bank in enumerate(sampler.banks) if bank.is_half_full)
    assert index > 0
    anchor = sampler.banks[0].best
    assert anchor is not None
    seen: list[Architecture] = []

    def spy(space: object, candidates: list[Architecture], given: Architecture) -> np.ndarray:
        seen.extend(candidates)
        assert given == anchor
        return preference(MINI, candidates, given)

    monkeypatch.setattr(conflict_aware, "preference", spy)
    *drawn, _ = sampler.assign(step_at(index), 0.0)
    assert len(seen) == 15
    for slot, assignment in enumerate(drawn):
        group = seen[5 * slot : 5 * slot + 5]
        values = preference(MINI, group, anchor)
        assert assignment.architecture == group[int(values.argmin())]


@pytest.mark.usefixtures("small_banks")
def test_only_explored_networks_are_scored_and_only_once() -> None:
    sampler = sampler_with_banks()
    bank, explored_in_all = sampler.banks[0], 0
    for number, after in enumerate(range(1000, 1400, 20)):
        *drawn, smallest = sampler.assign(step_at(0, after), 0.5)
        before, explored, score = dict(bank.entries), set(sampler.stale()), 1.0 + number
        trained = {assignment.architecture for assignment in drawn}
        assert explored <= trained
        for architecture in (*trained, smallest.architecture):
            sampler.observe(architecture, score)
            sampler.observe(architecture, 2 * score)
        assert sampler.stale() == ()
        held = dict(bank.entries)
        assert {held[network] for network in explored} <= {score}
        assert all(held.get(known, before[known]) == before[known] for known in trained - explored)
        assert smallest.architecture not in bank
        explored_in_all += len(explored)
    assert 0 < explored_in_all < 60


@pytest.mark.usefixtures("small_banks")
@pytest.mark.parametrize(("steps_per_epoch", "period"), [(1200, 1200), (400, 1200), (1000, 1000)])
def test_banks_are_scored_again_when_a_period_begins_and_at_its_quarters(steps_per_epoch: int, period: int) -> None:
    sampler = sampler_with_banks()

    def due(step: int) -> set[Architecture]:
        explored = sampler.assign(step, 0.99) and set(sampler._explored)
        return set(sampler.stale()) - explored

    held = [{network for network, _ in bank.entries} for bank in sampler.banks]
    assert due(0) == due(period // 2) == set()
    for step in range(steps_per_epoch, 2 * period):
        if step % steps_per_epoch == 0:
            sampler.before_epoch(step // steps_per_epoch, 10.0, None, None, None)
            due(step)
        if step < period or step % (period // 4) > 1:
            continue
        expected = set()
        if step % period == 0:
            expected = set().union(*held)
        elif step % (period // 4) == 0:
            expected = held[sampler.level_of(step)]
        assert due(step) == expected, step
    sampler.assign(period, 0.99)
    for network in sampler.stale():
        sampler.observe(network, -0.25)
    assert {score for bank in sampler.banks for _, score in bank.entries} == {-0.25}


@pytest.mark.usefixtures("small_banks")
def test_the_state_survives_json() -> None:
    sampler = sampler_with_banks()
    other = ConflictAwarePolicy().begin(MINI, seed=0)
    other.load_state(json.loads(json.dumps(sampler.state())))
    for step in range(120, 160):
        if step == 140:
            sampler.before_epoch(1, 3.0, None, None, None)
            other.before_epoch(1, 3.0, None, None, None)
        assert other.assign(step, 0.6) == sampler.assign(step, 0.6)
        assert other.stale() == sampler.stale()
    assert sampler.state()["steps_per_epoch"] == 140
    assert other.state() == sampler.state()


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_trains(name: str, data: ImageData, tmp_path: Path) -> None:
    space = get_space("mixers-mini", 2) if name in ("fair", "widening") else MINI
    supernet, losses = Supernet(space), []
    start = {key: tensor.clone() for key, tensor in supernet.named_parameters()}
    settings = dataclasses.replace(SETTINGS, epochs=1, policy=name, learning_rate=1e-3)
    result = train_supernet(
        supernet, data, settings, tmp_path, callbacks=Callbacks(progress=lambda progress: losses.append(progress.loss))
    )
    assert result.steps == len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(tensor, start[key]) for key, tensor in supernet.named_parameters())
    metadata = read_checkpoint(result.checkpoint).metadata
    assert metadata["settings"]["policy"] == name
    assert ("banks" in metadata["training"]["policy"]) == (name == "conflict-aware")


def test_steps_that_are_only_timed_leave_nothing_in_the_banks(data: ImageData, tmp_path: Path) -> None:
    banks: list[list[dict[str, list[float]]]] = []

    def look(progress: TrainingProgress) -> None:
        if progress.step == 1:
            banks.append(read_checkpoint(tmp_path / "supernet.safetensors").metadata["training"]["policy"]["banks"])

    settings = dataclasses.replace(SETTINGS, budget_seconds=1.0)
    train_supernet(Supernet(MINI), data, settings, tmp_path, callbacks=Callbacks(progress=look))
    assert banks == [[{"genotypes": [], "scores": []}] * 8]


@pytest.mark.usefixtures("small_banks")
def test_stopped_in_the_middle_it_ends_with_the_same_bits(data: ImageData, tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    def crash(progress: TrainingProgress) -> None:
        if progress.step == 6:
            raise Crash

    train_supernet(Supernet(MINI), data, SETTINGS, tmp_path / "whole")
    frequent = dataclasses.replace(SETTINGS, checkpoint_every_seconds=1e-9)
    with pytest.raises(Crash):
        train_supernet(Supernet(MINI), data, frequent, tmp_path / "stopped", callbacks=Callbacks(progress=crash))
    path = tmp_path / "stopped" / "supernet.safetensors"
    stopped = read_checkpoint(path).metadata
    assert stopped["step"] == 5
    assert sum(len(bank["scores"]) for bank in stopped["training"]["policy"]["banks"]) >= 6
    other = dataclasses.replace(SETTINGS, policy="complexity-aware")
    with pytest.raises(TrainingError, match="training setting `policy`: found complexity-aware, but the training in"):
        train_supernet(Supernet(MINI), data, other, tmp_path / "stopped", resume=True)
    train_supernet(Supernet(MINI, seed=1), data, SETTINGS, tmp_path / "stopped", resume=True)
    found, expected = (read_checkpoint(folder / path.name) for folder in (path.parent, tmp_path / "whole"))
    assert found.metadata["training"]["policy"] == expected.metadata["training"]["policy"]
    for left, right in ((found.weights, expected.weights), (found.optimizer, expected.optimizer)):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_policy(tmp_path: Path) -> None:
    settings = {"schema": 1, "command": "train", "space": "elastic-mini", "data": "digits", "epochs": 1, "seed": 0}
    for recorded, name in (({"policy": "conflict-aware"}, "conflict-aware"), ({}, "sandwich")):  # {} of old releases
        (tmp_path / "settings.json").write_text(json.dumps({**settings, **recorded}))
        with pytest.raises(nas.RunError, match=f"`policy` was '{name}' when the run was started, found 'uniform'"):
            nas.train(output=tmp_path, resume=True, policy="uniform")


def test_policies_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        nas.train("elastic-mini", "digits", policy="conflit-aware", output=tmp_path / "run")
    assert caught.value.hint == "did you mean `conflict-aware`?"
    with pytest.raises(nas.UsageError, match="policy `sandwich` chooses networks, but one network is to be trained"):
        nas.train(arch="elastic-mini/smallest", policy="sandwich", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
