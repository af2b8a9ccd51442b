"""How well scores rank networks that somebody has trained: the only evidence that counts for one's own networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nas.errors import NasError, UsageError
from nas.events import StageProgress, ignore
from nas.networks.named import NamedNetwork
from nas.networks.resolve import resolve_network
from nas.records.accuracies import read_accuracies
from nas.scores.rank_statistics import Estimate, partial_rank_correlation, rank_correlation
from search_spaces import get_space
from search_spaces.csv_table import Column

if TYPE_CHECKING:
    from nas.predictors import EncodedArchitectures
    from nas.scores.base import ScoreResult

Floats = npt.NDArray[np.float64]

_NETWORKS = Column("network", ("model",), is_required=True)
SIZES = ("params", "macs")
"""What every score has to beat; always shown, and first."""
LEAST_NETWORKS, ENOUGH_NETWORKS = 5, 20
"""Below the first nothing is computed; below the second intervals are too wide for a conclusion."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the accuracy that it reached.

    Attributes:
        network: As resolved.
        accuracy: A share of images.
    """

    network: NamedNetwork
    accuracy: float


@dataclass(frozen=True)
class ScoreCorrelation:
    """How well one score ranks the networks that it can handle.

    Attributes:
        name: Name of the score.
        tau: Kendall's tau-b with accuracy; its ``count`` says on how many networks.
        given_params: Partial tau with parameters held fixed; NaN where parameters alone decide the score.
        seconds: Mean CPU time per network.
        failures: Why the others have no value, by network.
    """

    name: str
    tau: Estimate
    given_params: Estimate
    seconds: float
    failures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CorrelationReport:
    """What `correlate` found.

    Attributes:
        count: Number of networks.
        scores: Parameters and MACs first, then as asked for.
        few_label: Tau of accuracies with the few-label predictor's cross-validated predictions; None where there are
            too few networks for that.
        notes: What the reader must know before believing the numbers.
    """

    count: int
    scores: tuple[ScoreCorrelation, ...]
    few_label: Estimate | None
    notes: tuple[str, ...]


def read_trained(path: Path, image_side: int | None = None) -> list[TrainedNetwork]:
    """The trained networks of a CSV file with the columns ``network`` and ``accuracy``; other columns are ignored.

    Args:
        path: Path of the file. Networks are written as `nas.networks.resolve.resolve_network` reads them.
        image_side: As there.

    Raises:
        UsageError: The file or a line of it cannot be used; the message names the line.
    """
    rows = read_accuracies(path, _NETWORKS)
    trained: list[TrainedNetwork] = []
    first_lines: dict[object, int] = {}
    for row in rows:
        try:
            network = resolve_network(row.network, image_side)
        except NasError as error:
            raise UsageError(f"accuracies `{path}`: line {row.line}: {error}", error.hint) from error
        first = first_lines.setdefault(_identity(network), row.line)
        if first != row.line:
            raise UsageError(
                f"accuracies `{path}`: line {row.line}: network `{row.network}` stands in line {first} already",
                "keep the accuracy that is right",
            )
        trained.append(TrainedNetwork(network, row.accuracy))
    if len(trained) < LEAST_NETWORKS:
        raise UsageError(f"accuracies `{path}`: found {len(trained)} of at least {LEAST_NETWORKS} networks")
    if len({each.accuracy for each in trained}) == 1:
        raise UsageError(
            f"accuracies `{path}`: every accuracy is {trained[0].accuracy:g}, expected accuracies that differ"
        )
    return trained


def _identity(network: NamedNetwork) -> object:
    """What two names of one network share: its architecture, its file, or timm's model with the weights' tag."""
    if network.architecture is not None or network.onnx_path is not None:
        return network.architecture or (network.onnx_path and network.onnx_path.resolve())
    from timm.models import get_deprecated_models, get_pretrained_cfg

    name = get_deprecated_models().get(network.name) or network.name
    config = get_pretrained_cfg(name, allow_unregistered=True)
    tag = config.tag if config is not None else None
    return name.partition(".")[0], tag, network.input_shape


def correlate(
    trained: Sequence[TrainedNetwork],
    scores: Iterable[str],
    *,
    repeats: int,
    batch_size: int,
    seed: int = 0,
    progress: Callable[[object], None] = ignore,
) -> CorrelationReport:
    """Rank correlation of scores with accuracy, with the few-label predictor beside them.

    Args:
        trained: At least five networks.
        scores: Names of registered scores; parameters and MACs are added.
        repeats: Initialisations per network and score.
        batch_size: Images of noise per initialisation.
        seed: Seed of everything random.
        progress: Told after each network.

    Raises:
        UnknownNameError: A score is not registered.
    """
    from nas.scores.measure import evaluate_scores
    from nas.scores.registry import get_score
    from nas.scores.subject import ScoreSubject

    names = list(dict.fromkeys([*SIZES, *scores]))
    for name in names:
        get_score(name)
    results = []
    for number, each in enumerate(trained, start=1):
        subject = ScoreSubject.of(each.network)
        results.append(evaluate_scores(subject, names, seed=seed, repeats=repeats, batch_size=batch_size))
        progress(StageProgress("scoring networks", number, len(trained)))
    accuracy_n = np.array([each.accuracy for each in trained])
    params_n = np.array([result["params"].value for result in results])
    labels = [each.network.name for each in trained]
    rows = [_correlation([result[name] for result in results], labels, accuracy_n, params_n) for name in names]
    few_label, notes = _few_label([each.network for each in trained], accuracy_n)
    notes += _twins([each.network for each in trained])
    if len(trained) < ENOUGH_NETWORKS:
        notes.insert(0, f"{len(trained)} networks are too few for a conclusion: expect {ENOUGH_NETWORKS} or more")
    return CorrelationReport(len(trained), tuple(rows), few_label, tuple(notes))


def encode_networks(networks: Sequence[NamedNetwork]) -> EncodedArchitectures:
    """Features for the few-label predictor: choices where all belong to one search space, else sizes and shapes."""
    from nas.predictors import SettingsEncoder, SpaceEncoder

    architectures = [network.architecture for network in networks if network.architecture is not None]
    if len(architectures) == len(networks) and len({each.space for each in architectures}) == 1:
        space = get_space(architectures[0].space)
        return SpaceEncoder(space)(space.encode(architectures))
    quantities_nq = np.array([_quantities(network) for network in networks])
    empty: list[dict[str, float]] = [{} for _ in networks]
    return SettingsEncoder(empty, quantities_nq)(empty, quantities_nq)


def _quantities(network: NamedNetwork) -> list[float]:
    """What is comparable between networks of different families: sizes, depth, and which operators do the work."""
    graph = network.graph()
    layers = [op for op in graph.ops() if op.macs and op.params]
    macs = max(graph.macs, 1)
    kinds = ("conv", "depthwise_conv", "linear", "matmul")
    shares = [sum(op.macs for op in graph.ops() if op.kind == kind) / macs for kind in kinds]
    written = sum(op.elements_written for op in graph.ops())
    sizes = (graph.params, graph.macs, len(layers), written, network.input_shape[-1])
    return [*(math.log(max(size, 1)) for size in sizes), *shares]


def _twins(networks: Sequence[NamedNetwork]) -> list[str]:
    """A note where networks differ in their training alone."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for network in networks:
        groups.setdefault(tuple(_quantities(network)), []).append(network.name)
    twins = [names for names in groups.values() if len(names) > 1]
    if not twins:
        return []
    shown = "; ".join(" = ".join(f"`{name}`" for name in names[:3]) for names in twins[:3])
    return [f"untrained, some networks are the same, and no score tells them apart: {shown}"]


def _few_label(networks: Sequence[NamedNetwork], accuracy_n: Floats) -> tuple[Estimate | None, list[str]]:
    from nas.predictors import cross_validated

    try:
        prediction = cross_validated(encode_networks(networks), accuracy_n)
    except UsageError as error:
        return None, [f"no cross-validation: {error}"]
    return rank_correlation(prediction.mean_n, accuracy_n), []


def _correlation(
    results: Sequence[ScoreResult], labels: Sequence[str], accuracy_n: Floats, params_n: Floats
) -> ScoreCorrelation:
    value_n = np.array([math.nan if result.failure else result.value for result in results])
    held = np.isfinite(value_n) & np.isfinite(params_n)
    failures = [(label, result.failure) for label, result in zip(labels, results, strict=True) if result.failure]
    return ScoreCorrelation(
        results[0].name,
        rank_correlation(value_n[held], accuracy_n[held]),
        partial_rank_correlation(value_n[held], accuracy_n[held], params_n[held]),
        float(np.mean([result.seconds for result in results])),
        tuple(failures),
    )
