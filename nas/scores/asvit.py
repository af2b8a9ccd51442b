"""As-ViT's two metrics of one network, from the same weights.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921: the condition
number of the neural tangent kernel (`nas.scores.ntk`, smaller is better) and the expected length distortion
(`nas.scores.length_distortion`, larger is better), each the mean over 5 draws of the weights. As-ViT
combines them by their ranks over a population (`nas.objectives.ranks`); where one network has to be given one number it
is the logarithm of their ratio, which rises as much when either gets better by the same factor: our own choice.

One metric of one draw of one network is one task, so that five draws share out evenly; tasks are spread over worker
processes of one thread each, which on a few cores is faster than one process of several threads. The same seed gives
the same numbers for any number of workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas.errors import EvaluationError
from nas.scores import length_distortion, ntk
from nas.scores.base import Score
from nas.scores.features import Build, draw_network
from nas.scores.length_distortion import LengthDistortion
from nas.scores.ntk import NtkCondition
from nas.scores.orphans import end_with_parent
from nas.scores.series_attention import SeriesAttention
from nas.scores.untrained import UntrainedNetwork

REPEATS = 5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and values of the GNU C library's `mallopt`


@dataclass(frozen=True)
class AsvitScores:
    """Both metrics of one network."""

    ntk: NtkCondition
    length_distortion: LengthDistortion

    @property
    def ratio(self) -> float:
        """The logarithm of length distortion over condition number; NaN where one of them failed."""
        if self.failure:
            return math.nan
        return math.log(self.length_distortion.value / self.ntk.value)

    @property
    def failure(self) -> str:
        """Why a metric has no value; empty where both have one."""
        return self.ntk.failure or self.length_distortion.failure


class AsvitScorer:
    """Scores networks, in worker processes where there are any; use it as a context manager.

    Args:
        image_side: Side of the images in pixels.
        seed: Seed of weights, circles and noise; repeat ``r`` uses ``seed + r``, the same for every network.
        repeats: Draws to average over.
        workers: Processes; with one, everything runs in this process.
        images_BCHW: Images for the tangent kernel; standard normal noise where None.
    """

    def __init__(
        self,
        *,
        image_side: int,
        seed: int,
        repeats: int = REPEATS,
        workers: int = 1,
        images_BCHW: Tensor | None = None,
    ) -> None:
        self._seeds = range(seed, seed + repeats)
        self._inputs = _Inputs(image_side, seed, None if images_BCHW is None else images_BCHW.numpy())
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> AsvitScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def score(self, build: Build) -> AsvitScores:
        """Both metrics of one network.

        Raises:
            EvaluationError: The network cannot be scored at all.
        """
        return next(self.score_all([build]))

    def score_all(self, builds: Sequence[Build]) -> Iterator[AsvitScores]:
        """Both metrics of each network, in order, each as soon as it is there.

        Args:
            builds: Each makes a freshly initialised network; with several workers they must be picklable.
        """
        draw = self._map()
        inputs, seeds = repeat(self._inputs), self._seeds
        started = [
            # The longer tasks first: the shorter ones then fill the gaps.
            (
                draw(_condition_of_draw, repeat(build), inputs, seeds),
                draw(_length_of_draw, repeat(build), inputs, seeds),
            )
            for build in builds
        ]
        for conditions, lengths in started:
            yield AsvitScores(ntk.combined(list(conditions)), length_distortion.combined(list(lengths)))

    def _map(self) -> Callable[..., Iterator[Any]]:
        if self._workers == 1:
            return map
        if self._pool is None:
            # Spawned, not forked: a fork while PyTorch's threads run can hang.
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), initializer=_start_worker)
        return self._pool.map


def asvit_scores(
    build: Build,
    *,
    image_side: int,
    seed: int,
    repeats: int = REPEATS,
    images_BCHW: Tensor | None = None,
) -> AsvitScores:
    """Both metrics of one network, in this process; arguments as of `AsvitScorer`."""
    with AsvitScorer(image_side=image_side, seed=seed, repeats=repeats, images_BCHW=images_BCHW) as scorer:
        return scorer.score(build)


@dataclass(frozen=True)
class _Inputs:
    image_side: int
    noise_seed: int
    images: npt.NDArray[np.float32] | None

    def images_BCHW(self) -> Tensor:
        if self.images is None:
            return ntk.noise_images(self.image_side, self.noise_seed)
        return torch.from_numpy(self.images)


def _condition_of_draw(build: Build, inputs: _Inputs, seed: int) -> NtkCondition:
    with _scoring():
        return ntk.condition_of_draw(draw_network(build, seed), inputs.images_BCHW())


def _length_of_draw(build: Build, inputs: _Inputs, seed: int) -> LengthDistortion:
    with _scoring():
        return length_distortion.length_of_draw(draw_network(build, seed), inputs.image_side, seed)


@contextlib.contextmanager
def _scoring() -> Iterator[None]:
    try:
        with SeriesAttention():
            yield
    except torch.OutOfMemoryError as error:
        raise EvaluationError(f"out of memory: {error}") from error


def scores_of_draw(network: nn.Module, images_BCHW: Tensor, image_side: int, circle_seed: int) -> AsvitScores:
    """One repeat: both metrics for the weights that ``network`` has. Its norms are removed, in place."""
    with _scoring():
        condition = ntk.condition_of_draw(network, images_BCHW)
        return AsvitScores(condition, length_distortion.length_of_draw(network, image_side, circle_seed))


def _ratio_of_draw(network: UntrainedNetwork) -> float:
    module = draw_network(network.build, network.seed)
    scores = scores_of_draw(module, network.images, network.image_side, network.seed)
    if scores.failure:
        raise EvaluationError(scores.failure)
    return scores.ratio


AS_VIT = Score("as-vit", _ratio_of_draw, "after Chen et al., ICLR 2022")


def _start_worker() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    # Keep what is freed, where the C library can be told so: large tensors come and go with every layer.
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        _ = library.mallopt(M_MMAP_THRESHOLD, 1 << 30) or library.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        library.mallopt(M_TRIM_THRESHOLD, -1)
