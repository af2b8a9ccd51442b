"""Does a mix of token mixers pay? Searches of a whole space beside searches that have one kind of mixer everywhere.

For each seed a supernet is trained; for each budget of latency (that of the networks of one kind named by
``--budgets``) the whole space is searched, and so is the space with all mixers tied to one kind, once for every kind,
by the same controller with as many judgements each. The best of all tied searches and the best of the whole space are
then trained alone and judged on the test part, and measured in turns. Printed are accuracies, their difference paired
by seed with Student's 95 % interval, measured latencies, and the kinds that were chosen.

Inherited accuracy hardly separates kinds, so two judges are compared first, by Kendall's tau to networks of equal
predicted latency trained alone: accuracy with inherited weights, and the same after one epoch of the network by itself.
The better one judges, if its mean over seeds is above one half.

    python benchmarks/mixing.py --records FOLDER [--target local] [--seeds 5] [--minutes 20] [--judgements 200]
    python benchmarks/mixing.py --records FOLDER --seeds 3 --minutes 5 --alone-epochs 10 --budgets window

The table must have seen the space: `nas latency build --target local --networks 24 --spaces mixers-mini`. What is done
stands in the folder; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from seed_intervals import with_interval

from latency_tables.measure import measure_networks
from latency_tables.predictor import LatencyPredictor
from latency_tables.targets import load_target
from nas.controllers.base import Outcome, Outcomes
from nas.controllers.registry import get_controller
from nas.evaluation.accuracy import accuracy_of
from nas.evaluation.evaluators import SupernetEvaluator, calibration_batches
from nas.networks.onnx import export_onnx
from nas.objectives.objective import Objective
from nas.objectives.problem import SearchProblem
from nas.records.trial import State
from search_spaces import Architecture, Genotypes, SingleSpace, get_space
from search_spaces.cost import population_cost
from search_spaces.mixers import PARITIES, MixersSpace
from search_spaces.mixers_definitions import SUBSTITUTES
from supernets import Supernet, family_of, reestimate_batch_norm
from supernets.data.sources import load_data
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

BATCH, RATE, JUDGED = 32, 1e-3, 24
INHERITED, TUNED, TRUTH = "inherited", "after an epoch", "alone"
TRUSTED = 0.5


class TiedSpace(MixersSpace):
    """The same space with one kind of mixer in all layers, or where a stage lacks it what stands for it.

    Args:
        whole: The space whose networks these are.
        kind: The kind.
    """

    def __init__(self, whole: MixersSpace, kind: str) -> None:
        super().__init__(whole.definition, whole.classes)
        candidates = (kind, *SUBSTITUTES.get(kind, ()))
        self._codes = {
            f"S{number}.{parity}": next(stage.mixers.index(each) for each in candidates if each in stage.mixers)
            for number, stage in enumerate(whole.definition.stages, start=1)
            for parity in PARITIES
        }

    @property
    def named(self) -> dict[str, Architecture]:  # type: ignore[override]
        """None: most have other kinds."""
        return {}

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """With the mixers of the kind."""
        tied = genotypes.copy()
        for name, code in self._codes.items():
            tied[:, self.columns[name]] = code
        return super().repair(tied)


class Bench:
    """What all parts of the experiment need, and the record of what is done.

    Args:
        arguments: As the command line gives them.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.folder = arguments, arguments.records
        self.folder.mkdir(parents=True, exist_ok=True)
        self.images = load_data(arguments.data, get_space(arguments.space).image_side)
        space = get_space(arguments.space, self.images.classes)
        assert isinstance(space, MixersSpace)
        self.space, self.predictor = space, LatencyPredictor(load_target(arguments.target))
        self._path = self.folder / "records.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._known = {entry["key"]: entry["value"] for entry in map(json.loads, lines)}

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives, JSON-ready, from the record where it stands there."""
        if key not in self._known:
            self._known[key] = compute()
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self._known[key]}) + "\n")
            print(f"{key}: done", flush=True)
        return self._known[key]

    def latency(self, genotypes: Genotypes) -> np.ndarray:
        """Predicted milliseconds ``[n]``."""
        return self.predictor.population(self.space, genotypes).ms

    def supernet(self, seed: int) -> Supernet:
        """The supernet of a seed, trained as `nas train` would."""
        supernet = Supernet(self.space, seed)
        asked = {"budget_seconds": 60.0 * self.arguments.minutes, "policy": "widening", "seed": seed}
        settings = TrainingSettings.from_dict({**asked, "batch_size": BATCH})
        train_supernet(supernet, self.images, settings, self.folder / f"supernet-{seed}", resume=True)
        return supernet

    def trained(self, architecture: Architecture, epochs: int, seed: int, name: str, start: Any = None) -> Supernet:
        """A network by itself, trained from scratch or from the weights of ``start``."""
        alone = Supernet(SingleSpace(self.space, architecture), seed)
        if start is not None:
            alone.network.load_state_dict(start.state_dict())
        asked = {"epochs": epochs, "policy": "uniform", "learning_rate": RATE, "batch_size": BATCH, "seed": seed}
        train_supernet(alone, self.images, TrainingSettings.from_dict(asked), self.folder / "alone" / name, resume=True)
        return alone

    def judge(self, supernet: Supernet, how: str, seed: int) -> Callable[[Architecture], float]:
        """Accuracy on the search part, of inherited weights or after an epoch of the network by itself."""
        evaluator = SupernetEvaluator(supernet, self.images, seed)

        def inherited(architecture: Architecture) -> float:
            return evaluator.evaluate(architecture, seed).objective

        def tuned(architecture: Architecture) -> float:
            name = f"tuned-{seed}-{'-'.join(str(index) for index in self.space.encode([architecture])[0])}"
            alone = self.trained(architecture, 1, seed, name, supernet.extract(architecture))
            return SupernetEvaluator(alone, self.images, seed).evaluate(architecture, seed).objective

        return inherited if how == INHERITED else tuned


def main() -> None:
    """Do what is left to do, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--space", default="mixers-mini")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--target", default="local")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--judge-seeds", type=int, nargs="+", default=[0, 1, 2], help="of the comparison of judges")
    parser.add_argument("--anyway", action="store_true", help="search though no judge is good")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each supernet's training")
    parser.add_argument("--judgements", type=int, default=200, help="of each search")
    parser.add_argument("--alone-epochs", type=int, default=20)
    parser.add_argument("--budgets", nargs="+", default=["conv", "window", "full"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments)
    how, tau = choose_judge(bench)
    if tau <= TRUSTED and not arguments.anyway:
        print(f"no judge is above {TRUSTED} in mean: searches would compare judges, not mixers (--anyway searches)")
        return
    for budget in arguments.budgets:
        limit_ms = float(bench.latency(bench.space.encode([bench.space.homogeneous[budget]]))[0])
        pairs = [champions(bench, how, limit_ms, seed) for seed in range(arguments.seeds)]
        report(bench, budget, limit_ms, pairs)


def choose_judge(bench: Bench) -> tuple[str, float]:
    """The judge whose order is nearest to that of networks trained alone, and its mean tau; prints those of all."""
    orders = [judged_orders(bench, seed) for seed in bench.arguments.judge_seeds]
    print(
        f"\nKendall's tau to {JUDGED} networks of equal latency trained alone, bootstrap 95 %, and its mean over seeds"
    )
    means = {}
    for how in orders[0]:
        if how != TRUTH:
            taus = [kendalltau(order[TRUTH], order[how]).statistic for order in orders]
            shown = ", ".join(with_bootstrap(order[TRUTH], order[how]) for order in orders)
            print(f"{how:12} {shown}; mean {with_interval(taus, 2, signed=True) if len(taus) > 1 else shown}")
            means[how] = float(np.mean(taus))
    best = max((INHERITED, TUNED), key=lambda how: means[how])
    return best, means[best]


def judged_orders(bench: Bench, seed: int) -> dict[str, list[float]]:
    """What each judge, MACs and parameters say of networks of equal latency, beside their accuracy alone."""
    space = bench.space
    drawn = np.unique(space.sample(4000, np.random.default_rng(seed)), axis=0)
    middle = float(bench.latency(space.encode([space.homogeneous["window"]]))[0])
    order = np.argsort(np.abs(bench.latency(drawn) - middle), kind="stable")[:JUDGED]
    networks = space.decode(drawn[order])

    def alone(number: int) -> float:
        epochs = -(-bench.arguments.alone_epochs // 2)
        trained = bench.trained(networks[number], epochs, seed, f"judged-{seed}-{number}")
        return SupernetEvaluator(trained, bench.images).evaluate(networks[number], seed).objective

    supernet = bench.supernet(seed)
    orders: dict[str, list[float]] = {}
    for how in (INHERITED, TUNED):
        judge = bench.judge(supernet, how, seed)
        known = [bench.once(f"{how} {seed} {number}", partial(judge, each)) for number, each in enumerate(networks)]
        orders[how] = known
    orders[TRUTH] = [bench.once(f"{TRUTH} {seed} {number}", partial(alone, number)) for number in range(JUDGED)]
    cost = population_cost(space, drawn[order])
    orders |= {"MACs": cost.macs.tolist(), "parameters": cost.params.tolist()}
    low, high = 100 * min(orders[TRUTH]), 100 * max(orders[TRUTH])
    print(f"seed {seed}: {JUDGED} networks of {middle:.3f} ms, alone right on {low:.1f} to {high:.1f} %")
    return orders


def with_bootstrap(truth: Sequence[float], judged: Sequence[float], draws: int = 2000) -> str:
    """Kendall's tau with the 95 % interval of ``draws`` draws of the networks."""
    pairs, generator = np.array([truth, judged]), np.random.default_rng(0)
    drawn = (pairs[:, generator.integers(len(truth), size=len(truth))] for _ in range(draws))
    low, high = np.nanpercentile([kendalltau(*each).statistic for each in drawn], [2.5, 97.5])
    return f"{kendalltau(truth, judged).statistic:+.2f} [{low:.2f}, {high:.2f}]"


def champions(bench: Bench, how: str, limit_ms: float, seed: int) -> dict[str, Any]:
    """The best network of the whole space and of all tied ones, each with its accuracy alone on the test part."""
    found: dict[str, Any] = {}
    spaces = {"mixed": bench.space, **{kind: TiedSpace(bench.space, kind) for kind in bench.space.homogeneous}}
    supernet: Supernet | None = None
    results = {}
    for name, space in spaces.items():
        key = f"search {name} {limit_ms:.4f} {seed}"

        def run(space: MixersSpace = space) -> Any:
            nonlocal supernet
            supernet = supernet or bench.supernet(seed)
            return search(bench, space, bench.judge(supernet, how, seed), limit_ms, seed)

        results[name] = bench.once(key, run)
    tied = max((name for name in results if name != "mixed"), key=lambda name: results[name][0])
    for group, name in (("mixed", "mixed"), ("tied", tied)):
        architecture = bench.space.from_values(results[name][1])
        folder = f"champion-{group}-{limit_ms:.4f}-{seed}"
        accuracy = bench.once(f"test {folder}", lambda a=architecture, f=folder: tested(bench, a, f, seed))
        found[group] = {"kind": name, "architecture": architecture, "accuracy": accuracy, "folder": folder}
    return found


def search(
    bench: Bench, space: MixersSpace, judge: Callable[[Architecture], float], limit_ms: float, seed: int
) -> tuple[float, dict[str, int]]:
    """The most accurate of the networks within the limit that the default controller tries, and its accuracy."""
    sample = np.unique(space.sample(4000, np.random.default_rng(seed)), axis=0)

    def excess(genotypes: Genotypes) -> np.ndarray:
        return bench.latency(genotypes) / limit_ms - 1

    problem = SearchProblem(
        space=space,
        seed=seed,
        objectives=(Objective("accuracy", is_evaluated=True),),
        known_costs=lambda genotypes: np.full((len(genotypes), 1), np.nan),
        excess=excess,
        overshoot=excess,
        feasible=sample[np.argmin(excess(sample))][None],
        evaluations=bench.arguments.judgements,
    )
    controller = get_controller("predictor")(problem)
    known: dict[bytes, float] = {}
    best: tuple[float, dict[str, int]] = (-1.0, {})
    while len(known) < bench.arguments.judgements:
        genotypes = controller.ask(8)
        if not len(genotypes):
            break
        outcomes = []
        for row, over in zip(genotypes, excess(genotypes), strict=True):
            is_known, state, accuracy = row.tobytes() in known, State.INFEASIBLE, float("nan")
            if over <= 0:
                architecture = bench.space.decode(row[None])[0]
                accuracy = known.setdefault(row.tobytes(), -1.0) if is_known else judge(architecture)
                known[row.tobytes()], state = accuracy, State.DONE
                best = max(best, (accuracy, dict(architecture.settings)), key=lambda entry: entry[0])
            outcomes.append(Outcome(state, (-accuracy,), float(over), is_known, {}))
        controller.tell(genotypes, Outcomes.of(outcomes))
    return best


def tested(bench: Bench, architecture: Architecture, name: str, seed: int) -> float:
    """Accuracy on the test part of a network trained alone; its file for measurements stays in the folder."""
    alone = bench.trained(architecture, bench.arguments.alone_epochs, seed, name)
    network = alone.extract(architecture).eval()
    reestimate_batch_norm(network, calibration_batches(bench.images, seed))
    network = family_of(bench.space).deploy(network)
    side = bench.space.input_shape(dict(architecture.settings))[-1]
    export_onnx(network, side, bench.folder / f"{name}.onnx")
    return accuracy_of(network, bench.images, "test", "cpu")


def report(bench: Bench, budget: str, limit_ms: float, pairs: Sequence[dict[str, Any]]) -> None:
    """Print accuracies, their difference, latencies measured in turns, and kinds."""
    paths = [bench.folder / f"{pair[group]['folder']}.onnx" for pair in pairs for group in ("mixed", "tied")]
    measured = [each.ms for each in measure_networks(paths).measurements]
    print(f"\nbudget {limit_ms:.3f} ms, that of `{budget}`; {len(pairs)} seeds")
    accuracies = {group: [100 * pair[group]["accuracy"] for pair in pairs] for group in ("mixed", "tied")}
    for number, group in enumerate(accuracies):
        times = ", ".join(f"{ms:.3f}" for ms in measured[number::2])
        print(f"{group:6} {with_interval(accuracies[group])} %, measured {times} ms")
    differences = np.array(accuracies["mixed"]) - np.array(accuracies["tied"])
    print(f"mixed less tied: {with_interval(differences, signed=True)} points")
    for pair in pairs:
        labels = bench.space.labels(pair["mixed"]["architecture"])
        kinds = [f"{name} {label}" for name, label in labels.items() if name.rpartition(".")[2] in (*PARITIES, "ffn")]
        print(f"tied: {pair['tied']['kind']}; mixed: {', '.join(kinds)}")


if __name__ == "__main__":
    main()
