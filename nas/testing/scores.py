"""What every score has to do, and a small network to take one of."""

from __future__ import annotations

import dataclasses
import math
import random
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from nas.scores.base import Score
from nas.scores.subject import ScoreSubject
from nas.scores.untrained import UntrainedNetwork
from search_spaces.graph import SOURCE, Op, OpGraph

SIDE = 8
BATCH_SIZE = 4


class ToyNetwork(nn.Module):
    """Three residual blocks between a convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, 2)
        self.blocks = nn.Sequential(_Block(6), _Block(6), _Block(6))
        self.head = nn.Linear(6, 4)

    def forward_features(self, x: Tensor) -> Tensor:
        """The map before the classifier."""
        features: Tensor = self.blocks(self.stem(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 4)`` of images ``(B, 3, 8, 8)``."""
        logits: Tensor = self.head(self.forward_features(x).mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """A residual block with a norm, an activation, attention over positions and dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2)
        mixed = tokens @ (tokens.transpose(1, 2) @ tokens).softmax(dim=-1)
        hidden = nn.functional.gelu(self.expand(mixed.reshape(x.shape)))
        output: Tensor = x + self.drop(self.project(hidden))
        return output


def toy_subject() -> ScoreSubject:
    """A `ToyNetwork` to be scored, whose op graph is one linear layer."""
    layer = Op("all", "linear", (SOURCE,), ((3,),), (5,), macs=15, params=15)
    return ScoreSubject("toy", ToyNetwork, (3, SIDE, SIDE), lambda: OpGraph([("model", (layer,))], (3,)))


class ScoreContract(ABC):
    """What every score has to do. Subclass it, give `make_score`, and let pytest find the subclass."""

    @abstractmethod
    def make_score(self) -> Score:
        """The score."""

    def make_subject(self) -> ScoreSubject:
        """A network that the score can handle; override it where the small one lacks what the score looks at."""
        return toy_subject()

    def test_same_seed_same_number(self) -> None:
        """Another seed draws other weights, which matters unless the op graph alone decides."""
        score = self.make_score()
        first, again, other = (self._value(self._network(seed)) for seed in (3, 3, 4))
        assert first == again
        assert (first == other) == score.is_free

    def test_what_other_scores_asked_for_before_changes_no_number(self) -> None:
        """Weights and passes are shared."""
        alone, shared = self._network(0), self._network(0)
        assert shared.module is not None
        assert shared.forward is not None
        assert shared.gradients is not None
        assert shared.linearised(keep_norms=False) is not None
        assert self._value(alone) == self._value(shared)

    def test_module_is_left_as_it_is(self) -> None:
        """Weights, modes, gradients and hooks."""
        network = self._network(0)
        if network.subject.build is None:
            return
        module = network.module
        module.eval()
        list(module.children())[-1].train()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        modes = [part.training for part in module.modules()]
        self._value(network)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert [part.training for part in module.modules()] == modes
        assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())

    def test_global_random_state_is_left_as_it_is(self) -> None:
        """That of PyTorch, NumPy and Python."""
        torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self._value(self._network(0))
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert str(np.random.get_state()) == str(numpy_state)
        assert random.getstate() == python_state

    def test_without_a_module_there_is_a_failure_unless_the_op_graph_is_enough(self) -> None:
        """As for an ONNX file."""
        score = self.make_score()
        network = UntrainedNetwork(dataclasses.replace(self.make_subject(), build=None), 0, BATCH_SIZE)
        value, _, failure = network.measure(score.function)
        assert math.isfinite(value) if score.is_free else failure

    def test_a_network_that_fails_is_a_failure_and_no_number(self) -> None:
        """Its message says what happened; a number that means nothing would be ranked."""

        class Failing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                raise RuntimeError("out of order")

        score = self.make_score()
        network = UntrainedNetwork(dataclasses.replace(self.make_subject(), build=Failing), 0, BATCH_SIZE)
        value, _, failure = network.measure(score.function)
        assert math.isfinite(value) if score.is_free else (math.isnan(value) and failure)

    def _network(self, seed: int) -> UntrainedNetwork:
        return UntrainedNetwork(self.make_subject(), seed, BATCH_SIZE)

    def _value(self, network: UntrainedNetwork) -> float:
        value, seconds, failure = network.measure(self.make_score().function)
        assert failure == ""
        assert math.isfinite(value)
        assert seconds >= 0
        return value
