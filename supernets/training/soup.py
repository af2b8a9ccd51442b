"""Checkpoints of a training, and the average of the good ones among them.

Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", ICML 2022, arXiv 2203.05482, its greedy soup. There the ingredients are runs with different
settings; here they are checkpoints of one run, which costs no further training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from supernets.checkpoint import write_atomically
from supernets.errors import CheckpointError
from supernets.supernet import Supernet
from supernets.training.events import TrainingProgress

Weights = Mapping[str, Tensor]
KEPT = 5
"""Checkpoints that are kept, the best ones."""
LAST_SHARE = 0.5
"""Share of a training, its last part, whose checkpoints are looked at: earlier ones lie in another valley."""
_ACCURACY = "nas.accuracy"


@dataclass(frozen=True)
class Ingredient:
    """A checkpoint that may go into the average.

    Attributes:
        name: For people, for example ``step 1200``.
        accuracy: Accuracy of the network with these weights, in [0, 1].
        load: Reads the weights.
    """

    name: str
    accuracy: float
    load: Callable[[], Weights]


@dataclass(frozen=True)
class Soup:
    """Averaged weights.

    Attributes:
        weights: A complete ``state_dict``; running statistics are averages too, so estimate them anew.
        accuracy: Accuracy of the network with them, in [0, 1].
        members: Names of the ingredients that went in, the best first.
    """

    weights: Weights
    accuracy: float
    members: tuple[str, ...]


def greedy_soup(ingredients: Iterable[Ingredient], judge: Callable[[Weights], float]) -> Soup:
    """Average checkpoints, the best first, each taken in where the average does not get worse by it.

    Args:
        ingredients: One at least; of equally good ones the first comes first.
        judge: The accuracy of the network with some weights, on images that it was not trained on.
    """
    best, *others = sorted(ingredients, key=lambda ingredient: -ingredient.accuracy)
    soup = Soup(best.load(), best.accuracy, (best.name,))
    for ingredient in others:
        mixed = _taken_in(soup.weights, ingredient.load(), len(soup.members))
        accuracy = judge(mixed)
        if accuracy >= soup.accuracy:
            soup = Soup(mixed, accuracy, (*soup.members, ingredient.name))
    return soup


class Snapshots:
    """Keeps the best checkpoints of the last part of a training, on disk, so that a resumed training has them too.

    Give `follow` to the trainer as ``progress`` and `validate` as ``validate``. A checkpoint is what the trainer
    validates: the moving average of the weights where one is kept.

    Args:
        folder: Folder in which they lie.
        judge: The accuracy of the network that a supernet holds.
    """

    def __init__(self, folder: Path, judge: Callable[[Supernet], float]) -> None:
        self._folder, self._judge = folder, judge
        self._step, self._is_late = 0, False

    def follow(self, progress: TrainingProgress) -> None:
        """Note where the training stands."""
        self._step, self._is_late = progress.step, progress.step >= LAST_SHARE * progress.total_steps

    def validate(self, supernet: Supernet) -> dict[str, float]:
        """Judge the network, and keep it where it is among the best.

        Raises:
            CheckpointError: It cannot be written.
        """
        weights = {name: tensor.detach().cpu().clone() for name, tensor in supernet.state_dict().items()}
        accuracy = self._judge(supernet)
        if self._is_late:
            self._keep(weights, accuracy)
        return {"network": accuracy}

    def ingredients(self) -> list[Ingredient]:
        """What was kept, from the first to the last step.

        Raises:
            CheckpointError: A file is damaged.
        """
        return [self._ingredient(path) for path in sorted(self._folder.glob("step-*.safetensors"))]

    def _keep(self, weights: Weights, accuracy: float) -> None:
        from safetensors.torch import save

        path = self._folder / f"step-{self._step:09d}.safetensors"
        contents = save(dict(weights), {_ACCURACY: repr(accuracy)})
        try:
            write_atomically(path, contents)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint `{path}`: cannot be written: {error.strerror or error}",
                hint="free some space, then resume",
            ) from error
        found = sorted(self._folder.glob("step-*.safetensors"))
        for worst in sorted(found, key=lambda file: -_accuracy_of(file))[KEPT:]:
            worst.unlink()

    def _ingredient(self, path: Path) -> Ingredient:
        step = int(path.stem.removeprefix("step-"))
        return Ingredient(f"step {step}", _accuracy_of(path), lambda: _read(path))


def _taken_in(soup: Weights, weights: Weights, members: int) -> dict[str, Tensor]:
    """The mean of ``members`` checkpoints, whose mean is ``soup``, and one more; counters are those of the soup."""
    return {
        name: tensor.lerp(weights[name], 1 / (members + 1)) if tensor.is_floating_point() else tensor
        for name, tensor in soup.items()
    }


def _accuracy_of(path: Path) -> float:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return float(file.metadata()[_ACCURACY])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _read(path: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"checkpoint `{path}` is damaged: {error}", hint="delete it, then resume")
