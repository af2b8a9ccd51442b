"""The benchmark of sampling policies: equal cost, records that are continued, and the tables it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from search_spaces import get_space
from supernets.sampling.levels import levels_of

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from policy_costs import PassCosts, steps_within
from sampling_policies import Job, Records, Result, Setup, alone_of, pool_of, report
from seed_intervals import with_interval

ONE_EACH = PassCosts(network=1.0, image=0.0, mac=0.0, forward_share=0.5, step=0.0)
SETUP = Setup("elastic-mini", "digits", 32, cpu_minutes=1.0, alone_epochs=1, networks=3)
SPACE = get_space("elastic-mini")


@pytest.mark.parametrize(("policy", "steps"), [("uniform", 1200), ("sandwich", 300), ("complexity-aware", 300)])
def test_steps_are_as_many_as_their_passes_pay_for(policy: str, steps: int) -> None:
    assert steps_within(1200.0, ONE_EACH, policy, SPACE, 32, 45, seed=0) == steps


def test_scores_that_are_taken_again_cost_steps() -> None:
    without = steps_within(6000.0, ONE_EACH, "complexity-aware", SPACE, 32, 500, seed=0)
    steps = steps_within(6000.0, ONE_EACH, "conflict-aware", SPACE, 32, 500, seed=0)
    assert without == 1500
    assert 0.9 * without < steps < without


def test_the_size_of_networks_counts() -> None:
    costs = PassCosts(network=0.0, image=0.0, mac=1e-9, forward_share=0.4, step=0.0)
    sandwich = steps_within(10.0, costs, "sandwich", SPACE, 32, 45, seed=0)
    uniform = steps_within(10.0, costs, "uniform", SPACE, 32, 45, seed=0)
    assert uniform > 4 * sandwich


def test_intervals() -> None:
    assert with_interval([1.0, 2.0, 3.0]) == "2.0 ± 2.5"  # t of 0.975 at 2 degrees of freedom is 4.303
    assert with_interval([0.5, 0.5, 0.5], 3, signed=True) == "+0.500 ± 0.000"
    assert with_interval([4.0]) == "4.0"


def test_records_are_continued_after_half_a_line(tmp_path: Path) -> None:
    path, job = tmp_path / "records.jsonl", Job("uniform", 1, 50)
    records = Records(path, SETUP)
    records.add_costs(ONE_EACH)
    records.add(job, Result([0.5], 2.0, 50))
    with path.open("a") as file:
        file.write('{"setup": {"space"')
    again = Records(path, SETUP)
    assert again.costs == ONE_EACH
    assert again.results == {job.key: Result([0.5], 2.0, 50)}
    again.add(Job("uniform", 0, 50, alone=3), Result([0.25], 1.0, 50))
    assert len(Records(path, SETUP).results) == 2
    other = Records(path, Setup("elastic-mini", "digits", 64, 1.0, 1, 3))
    assert (other.costs, other.results) == (None, {})


def test_the_report_compares_levels_and_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One policy gives every network its own accuracy less 0.1, the other one turns their order round."""
    records = Records(tmp_path / "records.jsonl", SETUP)
    pool = pool_of(SPACE, SETUP.networks)
    positions = alone_of(pool)
    assert len(positions) == 24 == 3 * len(levels_of(SPACE))
    truth = np.linspace(0.5, 0.9, len(positions))
    jobs = [Job("uniform", 0, 45, number) for number in positions]
    for job, accuracy in zip(jobs, truth.tolist(), strict=True):
        records.add(job, Result([accuracy], 1.0, 45))
    for seed in range(2):
        for policy, accuracies in (("conflict-aware", truth - 0.1), ("sandwich", truth[::-1])):
            job = Job(policy, seed, 45)
            records.add(job, Result(accuracies.tolist(), 60.0, 45))
            jobs.append(job)
    report(SETUP, jobs, records)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line and line[0] in ("conflict-aware", "sandwich")}
    assert rows["conflict-aware"][0] == "1.000"
    assert rows["sandwich"][0] == "-1.000"
    assert ["all", "levels", "60.0", "±", "0.0", "70.0", "±", "0.0"] in lines
    assert ["less", "conflict-aware", "+10.0", "±", "0.0"] in lines
