"""One random initialisation of a network, and whatever scores ask of it: each pass runs once, when first asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import TYPE_CHECKING, Any, TypeVar

from nas.errors import EvaluationError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.scores.passes import ForwardPass, Gradients, LinearisedPass
    from nas.scores.subject import ScoreSubject
    from search_spaces.graph import OpGraph

# Nothing heavy is imported before it is needed: scores of the op graph alone must not wait for torch.

MINIMUM_IMAGES = 4
"""Batch norms need two images in each half of a batch."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class _Shared:
    value: Any
    error: Exception | None
    seconds: float


class UntrainedNetwork:
    """What scores see of a network in one repeat.

    Args:
        subject: The network.
        seed: Seed of weights, images and labels.
        batch_size: Images of noise.
        images: Taken instead of noise, ``(B, 3, H, W)``.
    """

    def __init__(self, subject: ScoreSubject, seed: int, batch_size: int, images: Tensor | None = None) -> None:
        self.subject = subject
        self.seed = seed
        self._batch_size = batch_size
        self._images = images
        self._shared: dict[str, _Shared] = {}
        self._asked: set[str] = set()

    @property
    def graph(self) -> OpGraph:
        """The op graph."""
        return self.share("graph", self.subject.graph)

    @property
    def build(self) -> Callable[[], nn.Module]:
        """Makes the network, for scores that draw weights of their own.

        Raises:
            EvaluationError: There is no module.
        """
        if self.subject.build is None:
            raise EvaluationError("there is no module with weights to draw")
        return self.subject.build

    @property
    def image_side(self) -> int:
        """Side in pixels of the square image that the network computes on.

        Raises:
            EvaluationError: The image is not square.
        """
        _, height, width = self.subject.input_shape
        if height != width:
            raise EvaluationError(f"images are {height} x {width} pixels, expected square ones")
        return height

    @property
    def module(self) -> nn.Module:
        """The network with weights drawn from the seed; scores leave it as it is."""
        from nas.scores.passes import draw

        build = self.build
        return self.share("module", lambda: draw(build, self.seed))

    @property
    def images(self) -> Tensor:
        """Images ``(B, 3, H, W)``: Gaussian noise unless others were given."""
        from nas.scores.passes import noise

        module = self.module
        return self.share(
            "images", lambda: noise(module, (self._batch_size, *self.subject.input_shape), self.seed, self._images)
        )

    @property
    def forward(self) -> ForwardPass:
        """The images' forward pass, in two halves, with cross-entropy towards random labels."""
        from nas.scores.passes import forward_pass

        module, images = self.module, self.images
        return self.share("forward", lambda: forward_pass(module, images, self.seed))

    @property
    def gradients(self) -> Gradients:
        """Gradients of the loss of each half of the images, for the weights of convolutions and linear layers."""
        forward = self.forward
        return self.share("gradients", forward.gradients)

    def linearised(self, *, keep_norms: bool) -> LinearisedPass:
        """The pass of one image of ones through the network with all weights replaced by their absolute values."""
        from nas.scores.passes import linearised_pass

        module, shape = self.module, self.subject.input_shape
        return self.share(
            f"linearised, norms {keep_norms}", lambda: linearised_pass(module, shape, keep_norms=keep_norms)
        )

    def measure(self, function: Callable[[UntrainedNetwork], float]) -> tuple[float, float, str]:
        """Value, CPU seconds and failure of one score; shared passes count, whoever asked for them first."""
        made_before = set(self._shared)
        self._asked.clear()
        start = process_time()
        value, failure = _call(function, self)
        elapsed = process_time() - start
        already_made = self._asked & made_before
        return value, elapsed + sum(self._shared[name].seconds for name in already_made), failure

    def share(self, name: str, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, made once for all scores that ask for ``name``.

        ``make`` must not ask for other shared things itself: their time would count twice.

        Raises:
            Exception: What ``make`` raised, again each time.
        """
        if name not in self._shared:
            start = process_time()
            try:
                value, error = make(), None
            except Exception as found:  # kept, so that the next score that asks need not fail as slowly
                value, error = None, found
            self._shared[name] = _Shared(value, error, process_time() - start)
        self._asked.add(name)
        shared = self._shared[name]
        if shared.error is not None:
            raise shared.error
        made: Made = shared.value
        return made


def _call(function: Callable[[UntrainedNetwork], float], network: UntrainedNetwork) -> tuple[float, str]:
    try:
        value = float(function(network))
    except EvaluationError as error:
        return math.nan, str(error)
    except Exception as error:  # a network is foreign code: whatever it raises is a finding about it
        return math.nan, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return value, "" if math.isfinite(value) else f"the value is {value}, expected a finite number"
