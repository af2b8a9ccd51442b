"""Which score ranks trained vision transformers: tau of every score with accuracies that others have measured.

For every set and task: Kendall's tau-b of the score's mean over seeds, its 95 % bootstrap interval over networks, and
the partial tau with parameters held fixed. For every set: repeatability (tau between the values of two seeds) and
CPU seconds per network and seed. Then a summary, and what a choice is worth: scores and rank means of two scores are
chosen on part of the evidence and judged on the rest.

    python benchmarks/score_correlation.py TRUTH.json [--scores all] [--limit N] [--repeats 2] [--image-size 112]
        [--batch-size 16] [--workers 2] [--records FILE] [--compare-image-size 224]

Results are kept in a file, by default beside the truth's name in the current folder, and are not computed again. With
`--compare-image-size` the networks (take few with `--limit`) are also scored at that size, and the agreement of both
rankings is printed: that tells whether the smaller images may stand for the larger.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from score_records import Records, Setting, compute
from trained_vits import TrainedSet, load_trained_sets

from nas.objectives.ranks import rank_sums
from nas.scores.az_nas import combine_ranks
from nas.scores.rank_statistics import Estimate, kendall_tau, partial_rank_correlation, rank_correlation, repeatability
from nas.scores.registry import get_score, score_names

Floats = npt.NDArray[np.float64]
Values = Mapping[str, Mapping[str, Floats]]
"""By set, then score: one number per network ``[n]``, NaN where the score failed."""

FIRST = ("params", "macs")
COMBINATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Floats]]] = {
    "capacity x depth": (("capacity", "depth"), np.multiply),
    "as-vit ranks": (("ntk", "length-distortion"), lambda ntk_n, length_n: -rank_sums(-ntk_n, length_n).astype(float)),
    "az-nas": (("az-expressivity", "az-progressivity", "az-trainability", "macs"), lambda *parts: combine_ranks(parts)),
}
"""Scores of a population, from the parts that each needs; shown where all parts were taken."""


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("truth", type=Path, help="JSON file of trained networks")
    parser.add_argument("--scores", default="all", help="`all`, or names with commas")
    parser.add_argument("--limit", type=int, help="networks of each set")
    parser.add_argument("--repeats", type=int, default=2, help="seeds; two or more show repeatability")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--records", type=Path, help="file that keeps what was computed")
    parser.add_argument("--compare-image-size", type=int, help="also score at this size and compare the rankings")
    arguments = parser.parse_args()

    given = score_names() if arguments.scores == "all" else arguments.scores.split(",")
    scores = list(dict.fromkeys([*FIRST, *given]))
    free = [score for score in scores if get_score(score).is_free]
    sets = [each.part(slice(arguments.limit)) for each in load_trained_sets(arguments.truth)]
    setting, seeds = Setting(arguments.image_size, arguments.batch_size), range(arguments.repeats)
    records = Records(arguments.records or Path(f"{arguments.truth.stem}.scores.jsonl"))

    compute(records, sets, setting, seeds, scores, arguments.workers)
    print(
        f"{setting.image_side} px, {setting.batch_size} images of noise, {len(seeds)} seed(s); tau [95 %] partial tau"
    )
    for trained in sets:
        print_set(records, trained, setting, seeds, scores, free)
    if arguments.compare_image_size:
        reference = Setting(arguments.compare_image_size, arguments.batch_size)
        dear = [score for score in scores if score not in free]
        compute(records, sets, reference, seeds, dear, arguments.workers)
        print_agreement(records, sets, setting, reference, seeds, dear)
    values = {
        each.name: with_combinations(
            {score: records.values(each, setting, seeds, score).mean(axis=0) for score in scores}
        )
        for each in sets
    }
    scores = list(values[sets[0].name])
    print_summary(sets, values, scores)
    print_choices(sets, values, scores)


def print_set(
    records: Records,
    trained: TrainedSet,
    setting: Setting,
    seeds: Sequence[int],
    scores: Sequence[str],
    free: Sequence[str],
) -> None:
    """A row per score with a cell per task."""
    heads = "".join(f"{task:>31}" for task in trained.tasks)
    print(f"\n{trained.name}: {len(trained.ids)} networks\n{'score':24}{heads}{'repeats itself':>16}{'CPU s':>9}")
    params_n = records.values(trained, setting, seeds, "params").mean(axis=0)
    for score in scores:
        values_kn = records.values(trained, setting, seeds, score)
        held = np.asarray(np.isfinite(values_kn).all(axis=0))
        cells = ""
        for truth_n in trained.tasks.values():
            tau = rank_correlation(values_kn.mean(axis=0)[held], truth_n[held])
            partial = partial_rank_correlation(values_kn.mean(axis=0)[held], truth_n[held], params_n[held])
            given = f"{partial.value:+.2f}" if np.isfinite(partial.value) else "n/a"
            cells += f"{f'{show(tau)} {given:>5}':>31}"
        repeats = "exactly" if score in free else f"{repeatability(values_kn[:, held]):.2f}".replace("nan", "n/a")
        print(f"{score:24}{cells}{repeats:>16}{records.seconds(trained, setting, seeds, score):9.2f}")
        if not held.all():
            failure = records.failure(trained, setting, seeds[0], score)
            print(f"{'':24}{(~held).sum()} of {len(held)} failed: {failure}")


def print_agreement(
    records: Records,
    sets: Sequence[TrainedSet],
    setting: Setting,
    reference: Setting,
    seeds: Sequence[int],
    scores: Sequence[str],
) -> None:
    """Whether one setting ranks networks as another does, and what it saves."""
    print(f"\nagreement of {setting.image_side} px with {reference.image_side} px (tau between mean values)")
    print(f"{'score':24}" + "".join(f"{each.name:>18}" for each in sets) + f"{'times cheaper':>16}")
    for score in scores:
        pairs = [[records.values(each, at, seeds, score).mean(axis=0) for at in (setting, reference)] for each in sets]
        seconds = [sum(records.seconds(each, at, seeds, score) for each in sets) for at in (setting, reference)]
        cells = "".join(f"{on_held(kendall_tau, *pair):18.2f}" for pair in pairs)
        print(f"{score:24}{cells}{seconds[1] / seconds[0]:16.1f}")


def print_summary(sets: Sequence[TrainedSet], values: Values, scores: Sequence[str]) -> None:
    """Mean tau over sets (tasks of a set averaged first) and the worst column, best score first."""
    print(f"\n{'summary':24}{'mean over sets':>16}{'worst task':>12}   by set")
    rows = {score: set_taus(sets, values, (score,)) for score in scores}
    for score in [*FIRST, *sorted(set(scores) - set(FIRST), key=lambda name: -mean_of_sets(rows[name]))]:
        by_set = ", ".join(f"{name} {np.mean(taus):+.2f}" for name, taus in rows[score].items())
        worst = min(min(taus) for taus in rows[score].values())
        print(f"{score:24}{mean_of_sets(rows[score]):16.3f}{worst:12.2f}   {by_set}")


def print_choices(sets: Sequence[TrainedSet], values: Values, scores: Sequence[str]) -> None:
    """The best single score and the best rank mean of two, chosen on some networks and judged on others."""
    singles = [(score,) for score in scores]
    pairs = list(itertools.combinations(scores, 2))
    print(f"\n{'chosen on':28}{'judged on':20}{'params there':>14}   choice and its tau there")
    halves = [[each.part(slice(start, None, 2)) for each in sets] for start in (0, 1)]
    half_values = [
        {name: {score: v[start::2] for score, v in by.items()} for name, by in values.items()} for start in (0, 1)
    ]
    trials: list[tuple[str, Sequence[TrainedSet], Values, str, Sequence[TrainedSet], Values]] = [
        ("every second network", halves[0], half_values[0], "the others", halves[1], half_values[1]),
        ("the others", halves[1], half_values[1], "every second network", halves[0], half_values[0]),
    ]
    if len(sets) > 1:
        for held_out in sets:
            others = [each for each in sets if each is not held_out]
            trials.append(("all sets but one", others, values, held_out.name, [held_out], values))
    for chosen_on, known, known_values, judged_on, rest, rest_values in trials:
        cells = []
        for candidates in (singles, pairs):
            means = [mean_of_sets(set_taus(known, known_values, candidate)) for candidate in candidates]
            best = candidates[int(np.nanargmax(means))]
            cells.append(f"{' + '.join(best)} {mean_of_sets(set_taus(rest, rest_values, best)):.3f}")
        params = mean_of_sets(set_taus(rest, rest_values, ("params",)))
        print(f"{chosen_on:28}{judged_on:20}{params:14.3f}   {'; '.join(cells)}")


def with_combinations(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """The values of a set's scores ``[n]``, and of what combines them."""
    combined = {
        name: combine(*(values[part] for part in parts))
        for name, (parts, combine) in COMBINATIONS.items()
        if all(part in values for part in parts)
    }
    return {**values, **combined}


def set_taus(sets: Sequence[TrainedSet], values: Values, scores: Sequence[str]) -> dict[str, list[float]]:
    """Tau of the rank mean of ``scores`` with each task, by set; a score that failed ranks such a network last."""
    from scipy.stats import rankdata

    taus = {}
    for trained in sets:
        ranks_n = sum(rankdata(np.nan_to_num(values[trained.name][score], nan=-np.inf)) for score in scores)
        taus[trained.name] = [kendall_tau(ranks_n, truth_n) for truth_n in trained.tasks.values()]
    return taus


def mean_of_sets(taus: Mapping[str, Sequence[float]]) -> float:
    """The mean over sets of the mean over tasks; NaN where a tau is not defined."""
    return float(np.mean([np.mean(each) for each in taus.values()]))


def on_held(statistic: Callable[[Floats, Floats], float], first_n: Floats, second_n: Floats) -> float:
    """A statistic of two lists where both have values."""
    held = np.isfinite(first_n) & np.isfinite(second_n)
    return statistic(first_n[held], second_n[held])


def show(estimate: Estimate) -> str:
    """A correlation with its interval."""
    return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"


if __name__ == "__main__":
    main()
