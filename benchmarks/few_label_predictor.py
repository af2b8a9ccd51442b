"""The few-label predictor beside ridge regression and parameters, on networks that others have trained.

For each set and task a random part of the networks is labelled and the rest is ranked; tau is Kendall's tau-b on the
rest, averaged over random label sets, with a 95 % bootstrap interval of that mean. Ridge regression sees the one-hot
encoding (``plain``: alpha 1 on raw labels; ``tuned``: alpha by leave-one-out, normal scores of labels as targets, as
the predictor has them). A set with fewer than twice as many networks as labels is halved. ``coverage`` is the share of
the rest inside the predictor's 80 % intervals.

    python benchmarks/few_label_predictor.py TRUTH.json [--labels 50] [--draws 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from trained_vits import TrainedSet, load_trained_sets

from nas.predictors import FewLabelPredictor, SettingsEncoder, SpaceEncoder
from nas.scores.rank_statistics import Estimate, kendall_tau, mean_interval
from search_spaces import get_space

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

COVERAGE = 0.8


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("truth", type=Path, help="JSON file of trained networks")
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--draws", type=int, default=20, help="random label sets per task")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    arguments = parser.parse_args()

    print(f"tau of the ranking of unlabelled networks, mean over {arguments.draws} random label sets [95 % interval]\n")
    heads = [
        "set and task",
        "labels",
        "predictor",
        "ridge, plain",
        "ridge, tuned",
        "params",
        "beats plain by",
        "coverage",
    ]
    print(f"{heads[0]:32}{heads[1]:>7}" + "".join(f"{head:>24}" for head in heads[2:7]) + f"{heads[7]:>10}")
    document: dict[str, Any] = {}
    for trained in load_trained_sets(arguments.truth):
        for task in trained.tasks:
            taus, coverage, labels = judge(trained, task, arguments.labels, arguments.draws)
            gain = mean_interval([a - b for a, b in zip(taus["predictor"], taus["ridge, plain"], strict=True)])
            cells = [*(mean_interval(values) for values in taus.values()), gain]
            print(
                f"{trained.name + ' ' + task:32}{labels:7}" + "".join(map(show, cells)) + f"{coverage:10.0%}",
                flush=True,
            )
            document[f"{trained.name}/{task}"] = {**taus, "coverage": coverage, "labels": labels}
    means = {name: np.mean([entry[name] for entry in document.values()]) for name in heads[2:6]}
    print("mean over tasks: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
    print("\n" + "\n".join(speed()))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1))


def judge(trained: TrainedSet, task: str, labels: int, draws: int) -> tuple[dict[str, list[float]], float, int]:
    """Tau of each method for each draw, the share of intervals that hold the truth, and the number of labels."""
    truth_n, count = trained.tasks[task], len(trained.ids)
    labels = min(labels, count // 2)
    logs_n2 = np.log(trained.sizes_n2)
    encoded = SettingsEncoder(trained.settings, logs_n2)(trained.settings, logs_n2)
    one_hot_nf = one_hot(trained.settings)
    held: list[float] = []

    def predictor(known: Rows, rest: Rows) -> Floats:
        prediction = FewLabelPredictor().fit(encoded[known], truth_n[known]).predict(encoded[rest])
        low_n, high_n = prediction.interval(COVERAGE)
        held.append(float(np.mean((low_n <= truth_n[rest]) & (truth_n[rest] <= high_n))))
        return prediction.mean_n

    methods: dict[str, Callable[[Rows, Rows], Floats]] = {
        "predictor": predictor,
        "ridge, plain": lambda known, rest: plain_ridge(one_hot_nf[known], truth_n[known], one_hot_nf[rest]),
        "ridge, tuned": lambda known, rest: tuned_ridge(one_hot_nf[known], truth_n[known], one_hot_nf[rest]),
        "params": lambda known, rest: trained.sizes_n2[rest, 0],
    }
    taus: dict[str, list[float]] = {name: [] for name in methods}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(count)
        known, rest = order[:labels], order[labels:]
        for name, method in methods.items():
            taus[name].append(kendall_tau(method(known, rest), truth_n[rest]))
    return taus, float(np.mean(held)), labels


def one_hot(settings: tuple[Mapping[str, Any], ...]) -> Floats:
    """One column per place and value that occurs; a place that a network does not have is zero."""
    pairs = [
        {
            (name, place, item)
            for name, value in each.items()
            for place, item in enumerate(value if isinstance(value, list) else [value])
        }
        for each in settings
    ]
    columns = sorted(set().union(*pairs))
    return np.array([[column in each for column in columns] for each in pairs], dtype=np.float64)


def plain_ridge(known_nf: Floats, labels_n: Floats, rest_nf: Floats) -> Floats:
    """Ridge regression as it comes."""
    from sklearn.linear_model import Ridge

    predicted: Floats = Ridge(alpha=1.0).fit(known_nf, labels_n).predict(rest_nf)
    return predicted


def tuned_ridge(known_nf: Floats, labels_n: Floats, rest_nf: Floats) -> Floats:
    """Ridge regression with the predictor's targets and the best strength by leave-one-out."""
    from scipy.stats import norm, rankdata
    from sklearn.linear_model import RidgeCV

    scores_n = norm.ppf((rankdata(labels_n) - 0.5) / len(labels_n))
    predicted: Floats = RidgeCV(np.logspace(-2, 3, 21)).fit(known_nf, scores_n).predict(rest_nf)
    return predicted


def speed() -> list[str]:
    """Time to fit and to predict a population of `elastic`, with capacity and noise as labels."""
    space, generator = get_space("elastic"), np.random.default_rng(0)
    encoder = SpaceEncoder(space)
    everyone = encoder(space.sample(100_000, generator))
    lines = []
    for labels in (50, 200, 1000):
        encoded = encoder(space.sample(labels, generator))
        labels_n = encoded.features_nf.sum(axis=1) + generator.standard_normal(labels)
        start = time.perf_counter()
        predictor = FewLabelPredictor().fit(encoded, labels_n)
        fitted = time.perf_counter()
        predictor.predict(everyone)
        stop = time.perf_counter()
        lines.append(f"{labels} labels: fit {fitted - start:.2f} s, predict {len(everyone)} {stop - fitted:.2f} s")
    return lines


def show(estimate: Estimate) -> str:
    """A mean with its interval, 24 characters wide."""
    return f"{f'{estimate.value:+.3f} [{estimate.low:+.2f}, {estimate.high:+.2f}]':>24}"


if __name__ == "__main__":
    main()
