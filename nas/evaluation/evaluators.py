"""Evaluators: an architecture in, the objective out, with the numbers worth having beside it.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from nas.errors import EvaluationError
from nas.evaluation.judgement import Judgement
from nas.evaluation.label_judgement import LabelJudgement
from nas.networks.named import space_network
from nas.objectives.objective import ACCURACY, BALANCED
from nas.scores.measure import evaluate_score
from nas.scores.registry import DEFAULT_SCORE, get_score
from nas.scores.subject import ScoreSubject
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    import torch
    from torch import nn

    from latency_tables.onnx_quantised import Precision
    from nas.quantisation.evaluated import Wanted
    from nas.scores.asvit import AsvitScorer
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.timm_models.compensation import Compensator

    Subnet = Callable[[torch.Tensor], torch.Tensor]

FP32: Precision = "fp32"
CALIBRATION_BATCHES = 4
BATCH_SIZE = 128
SCORE_REPEATS = 5
"""Initialisations that a score is averaged over, as As-ViT takes."""
NETWORKS_PER_PASS = 16
"""Networks that share one pass over images that do not fit into memory."""
REMEMBERED_NETWORKS = 256
"""Networks whose BatchNorm statistics are kept, for evaluations at higher fidelity."""
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
        return self._evaluate(architecture, seed, SCORE_REPEATS)

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> Iterator[EvaluationResult | EvaluationError]:
        """The scores of networks, averaged over the share ``fidelity`` of the usual initialisations."""
        repeats = max(1, round(fidelity * SCORE_REPEATS))
        for architecture in architectures:
            try:
                yield self._evaluate(architecture, seed, repeats)
            except EvaluationError as error:
                yield error
            except ArithmeticError as error:
                yield EvaluationError(f"{type(error).__name__}: {error}")

    def _evaluate(self, architecture: Architecture, seed: int, repeats: int) -> EvaluationResult:
        subject = ScoreSubject.of(space_network(self._space, architecture, self._space.name))
        return EvaluationResult(evaluate_score(subject, self._score.name, seed=seed, repeats=repeats), {})


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

    Where images have several labels, mean average precision takes the place of accuracy.

    BatchNorm statistics of each subnet are estimated on the same training batches for all. Where they do not depend on
    the subnet, because all BatchNorm stands before anything that is searched, they are estimated once, into the
    supernet; without BatchNorm nothing is estimated.

    Args:
        supernet: Trained weights.
        data: Images that it was trained on, divided as it was.
        seed: Seed of the training batches that statistics are estimated on.
        compensator: Maker of the networks, where what was cut is made up for; None borrows them as they are.
        precision: What networks compute in: ``fp32``, or another one for all layers or for each by name, which is
            computed in floats as files compute it.
    """

    name = ACCURACY
    is_free = False

    def __init__(
        self,
        supernet: Supernet,
        data: ImageData,
        seed: int = 0,
        compensator: Compensator | None = None,
        precision: Wanted = FP32,
    ) -> None:
        if data.has_several_labels:
            self.name = LabelJudgement.name
        self._precision = precision
        self._make = supernet.extract if compensator is None else compensator
        self._is_compensated = compensator is not None
        self._supernet = supernet.eval()
        self._data = data
        self._calibration = [x_BCHW.to(supernet.device) for x_BCHW in calibration_batches(data, seed)]
        self._images = data.splits["search"]
        elements = 3 * data.image_side**2 * self._images
        self._cached = list(self._search_batches()) if elements <= CACHED_ELEMENTS else None
        self._statistics: OrderedDict[Architecture, list[torch.Tensor]] = OrderedDict()
        self._needs_statistics = not self._settle_statistics()

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """Top-1 accuracy in [0, 1], with the mean cross-entropy beside it; ``seed`` changes nothing."""
        result = next(self.evaluate_batch([architecture], seed))
        if isinstance(result, EvaluationError):
            raise result
        return result

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> Iterator[EvaluationResult | EvaluationError]:
        """Judge networks in as few passes over the images as possible; each gets what it would get alone.

        Args:
            architectures: Architectures of the supernet's space.
            seed: Changes nothing.
            fidelity: Share of the search part that is looked at, from its beginning.
        """
        together = 1 if self._cached is not None else NETWORKS_PER_PASS  # images in memory cost nothing to read again
        for start in range(0, len(architectures), together):
            yield from self._evaluate(architectures[start : start + together], fidelity)

    def _evaluate(
        self, architectures: Sequence[Architecture], fidelity: float
    ) -> list[EvaluationResult | EvaluationError]:
        make = _LabelTally if self._data.has_several_labels else _Tally
        tallies = [make(self._data.classes) for _ in architectures]
        pairs = zip(architectures, tallies, strict=True)
        with ExitStack() as stack:
            subnets = [self._subnet(architecture, tally, stack) for architecture, tally in pairs]
            for x_BCHW, labels_B in self._batches(math.ceil(fidelity * self._images)):
                for subnet, tally in zip(subnets, tallies, strict=True):
                    if subnet is not None and not tally.error:
                        tally.add(subnet, x_BCHW, labels_B)
        return [self._result(tally) for tally in tallies]

    def _result(self, tally: _Tally) -> EvaluationResult | EvaluationError:
        import torch

        if tally.loss != tally.loss:
            tally.error = "the network's outputs hold NaN"
        if tally.error:
            return EvaluationError(tally.error)
        beside = {"cross_entropy": tally.loss / tally.count}
        if isinstance(tally, _LabelTally):
            found = LabelJudgement.of(self._data.class_names, *map(torch.cat, zip(*tally.rows, strict=True)))
            return EvaluationResult(found.value, {found.beside_name: found.beside, **beside})
        judged = Judgement.of(self._data.class_names, tally.right_K, tally.images_K)
        if self.name == BALANCED:
            return EvaluationResult(judged.balanced_accuracy, {ACCURACY: judged.accuracy, **beside})
        uneven = {BALANCED: judged.balanced_accuracy} if judged.is_uneven else {}
        return EvaluationResult(judged.accuracy, {**beside, **uneven})

    def _subnet(self, architecture: Architecture, tally: _Tally, stack: ExitStack) -> Subnet | None:
        """The network, ready to run; None where it cannot be made."""
        import torch

        from supernets.batch_norm import reestimate_batch_norm
        from supernets.least_squares import DegenerateError

        if not self._needs_statistics and not self._is_compensated and self._precision == FP32:
            return stack.enter_context(self._supernet.borrow(architecture))
        try:
            module = self._make(architecture).eval()
            known = self._statistics.get(architecture)
            if known is None:
                reestimate_batch_norm(module, self._calibration)
                self._statistics[architecture] = [buffer.clone() for buffer in _statistics_of(module)]
                if len(self._statistics) > REMEMBERED_NETWORKS:
                    self._statistics.popitem(last=False)
            else:
                for buffer, value in zip(_statistics_of(module), known, strict=True):
                    buffer.copy_(value)
        except torch.OutOfMemoryError as error:
            tally.error = f"out of memory: {error}"
            return None
        except DegenerateError as error:
            tally.error = str(error)
            return None
        if self._precision == FP32:
            return module
        from nas.quantisation.evaluated import in_integers

        return in_integers(module, torch.cat(self._calibration), self._precision)

    def _settle_statistics(self) -> bool:
        """Estimate BatchNorm statistics once where they are the same, to the last bit, for very different subnets."""
        import torch

        from supernets.batch_norm import reestimate_batch_norm

        shared = _statistics_of(self._supernet.network)
        if not shared:
            return True
        found = []
        for architecture in (self._supernet.space.smallest, self._supernet.space.largest):
            module = self._supernet.extract(architecture).eval()
            if len(_statistics_of(module)) != len(shared):
                return False
            reestimate_batch_norm(module, self._calibration[:1])
            found.append(_statistics_of(module))
        if not all(torch.equal(first, second) for first, second in zip(*found, strict=True)):
            return False
        reestimate_batch_norm(module, self._calibration)
        for buffer, value in zip(shared, _statistics_of(module), strict=True):
            buffer.copy_(value)
        return True

    def _batches(self, images: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The first so many images of the search part."""
        left = images
        for x_BCHW, labels_B in self._cached or self._search_batches():
            if left <= 0:
                return
            yield x_BCHW[:left], labels_B[:left]
            left -= len(labels_B)

    def _search_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = self._supernet.device
        for x_BCHW, labels_B in self._data.batches("search", BATCH_SIZE):
            yield x_BCHW.to(device), labels_B.to(device)


class BalancedEvaluator(SupernetEvaluator):
    """Judges subnets of a trained supernet by their accuracy on a class of the search part, averaged over classes."""

    name = BALANCED


def _statistics_of(module: nn.Module) -> list[torch.Tensor]:
    """The running means and variances of all BatchNorm layers, in order."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    return [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]


@dataclass
class _Tally:
    """What is counted of one network while images pass by: how many of each class, and how many it is right on."""

    classes: int
    loss: float = 0.0
    count: int = 0
    error: str = ""
    right_K: torch.Tensor | int = 0
    images_K: torch.Tensor | int = 0

    def add(self, subnet: Subnet, x_BCHW: torch.Tensor, labels_B: torch.Tensor) -> None:
        import torch

        try:
            with torch.inference_mode():
                self.note(subnet(x_BCHW), labels_B)
        except torch.OutOfMemoryError as error:
            self.error = f"out of memory: {error}"
        self.count += len(labels_B)

    def note(self, logits_BK: torch.Tensor, labels_B: torch.Tensor) -> None:
        """Count what logits are right on."""
        from torch.nn import functional as F

        right_B = logits_BK.argmax(dim=1) == labels_B
        self.right_K = self.right_K + labels_B[right_B].bincount(minlength=self.classes)
        self.images_K = self.images_K + labels_B.bincount(minlength=self.classes)
        self.loss += float(F.cross_entropy(logits_BK, labels_B, reduction="sum"))


@dataclass
class _LabelTally(_Tally):
    """What is kept of one network where images have several labels ``(B, K)``: all its logits."""

    rows: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def note(self, logits_BK: torch.Tensor, labels_B: torch.Tensor) -> None:
        """Keep logits and labels."""
        from supernets.calibration import binary_cross_entropies

        self.rows.append((logits_BK, labels_B))
        self.loss += float(binary_cross_entropies(logits_BK, labels_B.to(logits_BK.dtype)))


def calibration_batches(data: ImageData, seed: int) -> list[torch.Tensor]:
    """The training images ``(B, C, H, W)`` that BatchNorm statistics are estimated on, for search and export alike."""
    batches = islice(data.train_batches(BATCH_SIZE, seed, epoch=0), CALIBRATION_BATCHES)
    return [x_BCHW for x_BCHW, _ in batches]


def untrained_evaluator(space: SearchSpace, score: str, workers: int) -> ScoreEvaluator | AsvitEvaluator:
    """What judges untrained networks by a score.

    Args:
        space: What the networks belong to.
        score: Name of the score.
        workers: Processes that draws are spread over, where the score is As-ViT's.
    """
    return AsvitEvaluator(space, workers) if score == AsvitEvaluator.score else ScoreEvaluator(space, score)
