"""The evaluators of this package, as functions that a worker calls with plain values; see `EvaluatorBlueprint`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nas.evaluation.compensation import Compensation
from nas.evaluation.evaluators import FP32, AsvitEvaluator, Evaluator, ScoreEvaluator
from nas.evaluation.fidelity import trained_evaluator
from nas.executors.base import EvaluatorBlueprint, Plain
from nas.objectives.objective import ACCURACY
from search_spaces import get_space

if TYPE_CHECKING:
    from latency_tables.onnx_quantised import Precision
    from supernets.checkpoint import Checkpoint
    from supernets.supernet import Supernet


def score_blueprint(space: str, score: str) -> EvaluatorBlueprint:
    """Untrained networks by a score, As-ViT's pair included.

    Args:
        space: Name of the space.
        score: Name of the score.
    """
    return EvaluatorBlueprint(f"{__name__}:make_score_evaluator", {"space": space, "score": score})


def supernet_blueprint(
    checkpoint: Path,
    data: str,
    seed: int,
    device: str | None = None,
    compensation: Compensation | None = None,
    objective: str = ACCURACY,
    precision: str = FP32,
) -> EvaluatorBlueprint:
    """Subnets of a trained supernet by `nas.evaluation.fidelity.trained_evaluator`.

    Args:
        checkpoint: File with the weights.
        data: Source of the images; a folder must be there under the same name wherever workers run.
        seed: Seed of the training batches that BatchNorm statistics are estimated on.
        device: Where networks run; whatever the worker has been given, a GPU before the CPU, unless named.
        compensation: How what is cut is made up for; None for not at all.
        objective: What they are judged by.
        precision: What networks compute in where accuracy is taken.
    """
    options: dict[str, Plain] = {"data": data, "seed": seed, "device": device, "objective": objective}
    if precision != FP32:
        options["precision"] = precision
    if compensation is not None:
        options |= {"compensation": compensation.variant, "compensation_images": compensation.images}
    return EvaluatorBlueprint(f"{__name__}:make_supernet_evaluator", options, str(checkpoint.absolute()))


def make_score_evaluator(space: str, score: str) -> Evaluator:
    """What `score_blueprint` describes."""
    if score == AsvitEvaluator.score:
        return AsvitEvaluator(get_space(space))
    return ScoreEvaluator(get_space(space), score)


def make_supernet_evaluator(
    checkpoint: Checkpoint,
    data: str,
    seed: int,
    device: str | None,
    objective: str = ACCURACY,
    precision: str = FP32,
    **compensation: Plain,
) -> Evaluator:
    """What `supernet_blueprint` describes; on the CPU its parameters are the checkpoint's own tensors.

    Raises:
        DataError: The images are others than those the supernet was trained on.
        CheckpointError: The checkpoint is of a space that is not installed here.
    """
    from nas.runs.places import images_of
    from nas.runs.torch_device import choose_device

    images = images_of(checkpoint.path, checkpoint.metadata, data, is_quiet=True)
    supernet, asked = _supernet_of(checkpoint).to(choose_device(device)), Compensation.of(compensation)
    compensator = None if asked is None else asked.compensator(supernet, images, seed)
    return trained_evaluator(objective, supernet, images, seed, compensator, cast("Precision", precision))


def _supernet_of(checkpoint: Checkpoint) -> Supernet:
    from supernets.checkpoint import restore_weights, space_of
    from supernets.supernet import Supernet

    weights = dict(checkpoint.averages or checkpoint.weights)
    supernet = Supernet(space_of(checkpoint.metadata))
    restore_weights(replace(checkpoint, weights=weights), supernet)
    # Only what is never written is shared: statistics may be estimated anew, and stay copies.
    shared = {name: weights[name] for name, _ in supernet.named_parameters()}
    supernet.load_state_dict(shared, assign=True, strict=False)
    return supernet.requires_grad_(False).eval()
