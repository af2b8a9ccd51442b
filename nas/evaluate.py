"""Evaluators: an architecture in, the objective out, with the numbers worth having beside it.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from nas.errors import EvaluationError
from nas.networks import space_network
from nas.scores.base import ScoreSubject, evaluate_score
from nas.scores.registry import DEFAULT_SCORE, get_score
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    import torch

    from nas.scores.asvit import AsvitScorer
    from supernets.data import ImageData
    from supernets.supernet import Supernet

CALIBRATION_BATCHES = 4
BATCH_SIZE = 128
SCORE_REPEATS = 5
"""Initialisations that a score is averaged over, as As-ViT takes."""
CACHED_ELEMENTS = 1 << 28
"""Image batches are kept in memory up to so many numbers (1 GiB), and read anew for each network above."""


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluator found.

    Attributes:
        objective: Higher is better; a number that is not finite fails the trial.
        scores: Other numbers to report, by name.
    """

    objective: float
    scores: Mapping[str, float]


class Evaluator(Protocol):
    """Judges networks of one space."""

    @property
    def name(self) -> str:
        """Of the objective, for example ``accuracy``."""
        ...

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """Judge one network; the same arguments give the same result.

        Raises:
            EvaluationError: The network cannot be evaluated. The search records that and goes on.
        """
        ...


class ScoreEvaluator:
    """Judges untrained networks by a score, without data.

    Args:
        space: What the networks belong to.
        score: Name of a registered score.

    Raises:
        UnknownNameError: There is no such score.
    """

    def __init__(self, space: SearchSpace, score: str = DEFAULT_SCORE) -> None:
        self._score = get_score(score)
        self.name = self._score.key
        self.is_free = self._score.is_free
        self._space = space

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """The score of one network."""
        subject = ScoreSubject.of(space_network(self._space, architecture, self._space.name))
        return EvaluationResult(evaluate_score(subject, self._score.name, seed=seed, repeats=SCORE_REPEATS), {})


class AsvitEvaluator:
    """Judges untrained networks by As-ViT's two metrics, from the same weights.

    The objective is the logarithm of their ratio, see `nas.scores.asvit`; both stand beside it, which is what As-ViT's
    own controller learns from.

    Args:
        space: What the networks belong to.
        workers: Processes that draws are spread over; the numbers do not depend on it.
    """

    score = "as-vit"
    name = "as_vit"
    is_free = False

    def __init__(self, space: SearchSpace, workers: int = 1) -> None:
        self._space = space
        self._workers = workers
        self._scorers: dict[tuple[int, int], AsvitScorer] = {}

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """Both metrics of one network."""
        from supernets.family import build_network

        side = self._space.input_shape(dict(architecture.settings))[-1]
        scores = self._scorer(side, seed).score(partial(build_network, self._space, architecture))
        if scores.failure:
            raise EvaluationError(scores.failure)
        beside = {"ntk_condition": scores.ntk.value, "length_distortion": scores.length_distortion.value}
        return EvaluationResult(scores.ratio, beside)

    def _scorer(self, image_side: int, seed: int) -> AsvitScorer:
        from nas.scores.asvit import AsvitScorer

        key = (image_side, seed)
        if key not in self._scorers:
            self._scorers[key] = AsvitScorer(image_side=image_side, seed=seed, workers=self._workers)
        return self._scorers[key]


class SupernetEvaluator:
    """Judges subnets of a trained supernet by their accuracy on the search part of the images.

    Each subnet gets BatchNorm statistics of its own, estimated on the same training batches for all.

    Args:
        supernet: Trained weights.
        data: Images that it was trained on, divided as it was.
        seed: Of the training batches that statistics are estimated on.
    """

    name = "accuracy"

    def __init__(self, supernet: Supernet, data: ImageData, seed: int = 0) -> None:
        self._supernet = supernet.eval()
        self._data = data
        self._calibration = [x_BCHW.to(supernet.device) for x_BCHW in calibration_batches(data, seed)]
        elements = 3 * data.image_side**2 * data.splits["search"]
        self._cached = list(self._search_batches()) if elements <= CACHED_ELEMENTS else None

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """Top-1 accuracy in [0, 1], with the mean cross-entropy beside it; ``seed`` changes nothing."""
        import torch

        try:
            return self._evaluate(architecture)
        except torch.OutOfMemoryError as error:
            raise EvaluationError(f"out of memory: {error}") from error

    def _evaluate(self, architecture: Architecture) -> EvaluationResult:
        import torch
        from torch.nn import functional as F

        from supernets.batch_norm import reestimate_batch_norm

        module = self._supernet.extract(architecture).eval()
        reestimate_batch_norm(module, self._calibration)
        correct, loss, count = 0, 0.0, 0
        with torch.inference_mode():
            for x_BCHW, labels_B in self._cached or self._search_batches():
                logits_BK = module(x_BCHW)
                correct += int((logits_BK.argmax(dim=1) == labels_B).sum())
                loss += float(F.cross_entropy(logits_BK, labels_B, reduction="sum"))
                count += len(labels_B)
        if loss != loss:
            raise EvaluationError("the network's outputs hold NaN")
        return EvaluationResult(correct / count, {"cross_entropy": loss / count})

    def _search_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = self._supernet.device
        for x_BCHW, labels_B in self._data.batches("search", BATCH_SIZE):
            yield x_BCHW.to(device), labels_B.to(device)


def calibration_batches(data: ImageData, seed: int) -> list[torch.Tensor]:
    """The training images ``(B, C, H, W)`` that BatchNorm statistics are estimated on, for search and export alike."""
    batches = islice(data.train_batches(BATCH_SIZE, seed, epoch=0), CALIBRATION_BATCHES)
    return [x_BCHW for x_BCHW, _ in batches]
