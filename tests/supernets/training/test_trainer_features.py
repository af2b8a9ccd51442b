"""What a training can do beside the usual: parts, averages, half precision, shares, mixing, teachers, validation."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from search_spaces import Architecture, SearchSpace, get_space
from supernets.checkpoint import load_supernet, read_checkpoint
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.errors import DataError, TrainingError
from supernets.family import training_form
from supernets.sampling import Sampler, SamplingPolicy, StatelessPolicy, register_policy
from supernets.sampling.policy import Assignment, Share
from supernets.supernet import Supernet
from supernets.token_logits import TokenLogits
from supernets.training import targets as target_module
from supernets.training.distributed import ProcessGroup
from supernets.training.events import Callbacks, TrainingProgress, Validation
from supernets.training.long_tail import class_weights
from supernets.training.losses import ImageTargets, class_logits, label_loss, patch_loss, supervised_loss, target_loss
from supernets.training.settings import TrainingSettings
from supernets.training.step import StepContext, TrainStep
from supernets.training.targets import make_mix
from supernets.training.trainer import train_supernet

SETTINGS = TrainingSettings(
    epochs=2, batch_size=8, learning_rate=2e-3, policy="uniform", checkpoint_every_seconds=0, log_every_steps=1
)
CONTEXT = StepContext(number=0, progress=0.0, rate=1.0, patch_stride=1)


class Few(ImageData):
    """Random images of two classes, so few that an epoch has three steps of eight."""

    def __init__(self) -> None:
        whole = load_data("digits", 32)
        parts = {part: indices[:24] for part, indices in whole.division.parts.items()}
        division = dataclasses.replace(whole.division, parts=parts)
        super().__init__("few", 32, ("dark", "light"), division, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    @property
    def labels(self) -> Any:
        return np.arange(2000) % 2

    def _augmented(self, batches: Any, seed: int, epoch: int) -> Any:
        return self._plain(batches)

    def _plain(self, batches: Any) -> Any:
        for indices in batches:
            labels = torch.from_numpy(indices % 2)
            noise = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(i))) for i in indices]
            yield torch.stack(noise) + labels.reshape(-1, 1, 1, 1), labels


@pytest.fixture(scope="module")
def data() -> Few:
    return Few()


def new_supernet(space: str = "elastic-mini") -> Supernet:
    return Supernet(get_space(space, 2))


@dataclasses.dataclass(frozen=True)
class Fixed(StatelessPolicy):
    """A policy that always trains the same."""

    assigned: tuple[Assignment, ...]

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        return self.assigned


class FixedSampler(Sampler):
    throughput_steps = 1

    def __init__(self, *assigned: Assignment) -> None:
        self.assigned = assigned

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        return self.assigned


def train_step(supernet: Supernet, mix: Any = None, **changes: Any) -> TrainStep:
    settings = dataclasses.replace(SETTINGS, **changes)
    return TrainStep(supernet.train(), settings, ProcessGroup(), Path("nowhere"), mix)


def stepped(supernet: Supernet, data: ImageData, *assigned: Assignment, **changes: Any) -> dict[str, Tensor]:
    """The gradients of one step."""
    batch = next(data.train_batches(8, 0, 0))
    train_step(supernet, clipping="none", **changes).run(CONTEXT, batch, FixedSampler(*assigned))
    return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}


# -- resuming with everything on -------------------------------------------------------------------------------------

RICH = {
    "conflict-aware": {
        "policy": "conflict-aware",
        "accumulate": 2,
        "ema_decay": 0.9,
        "clipping": "adaptive",
        "gradient_clip": 0.1,
        "decay": "published",
        "augmentation": "elasticvit",
    },
    "multi-architecture": {
        "policy": "multi-architecture",
        "precision": "bf16",
        "warmup_epochs": 1,
        "warmup_start": 0.1,
    },
    "fp16": {"precision": "fp16", "ema_decay": 0.5, "cooldown_epochs": 1},
    "uniform": {"policy": "uniform", "ema_decay": 0.5},
    "fair": {"policy": "fair"},
    "widening": {"policy": "widening"},
}
WITH_KINDS = ("uniform", "fair", "widening")
"""Those that are tried where kinds are chosen, so that many tensors have no gradient in a step."""


class Crash(Exception):
    pass


@pytest.mark.parametrize("name", RICH)
def test_a_training_with_everything_on_resumes_to_the_same_bits(name: str, data: Few, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, **RICH[name])
    space = "mixers-mini" if name in WITH_KINDS else "elastic-mini"

    def crash(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise Crash

    train_supernet(new_supernet(space), data, settings, tmp_path / "whole")
    with pytest.raises(Crash):
        train_supernet(new_supernet(space), data, settings, tmp_path / "torn", callbacks=Callbacks(progress=crash))
    assert read_checkpoint(tmp_path / "torn" / "supernet.safetensors").metadata["step"] == 4
    train_supernet(new_supernet(space), data, settings, tmp_path / "torn", resume=True)
    left, right = (read_checkpoint(tmp_path / folder / "supernet.safetensors") for folder in ("whole", "torn"))
    assert bool(left.averages) == (settings.ema_decay is not None)
    for kind in ("weights", "optimizer", "averages"):
        found, expected = getattr(left, kind), getattr(right, kind)
        assert found.keys() == expected.keys()
        assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    for entry in ("policy", "loss_scale", "schedule"):
        assert left.metadata["training"][entry] == right.metadata["training"][entry]


# -- parts, precision, averages --------------------------------------------------------------------------------------


def test_parts_of_a_batch_add_up_to_its_gradient(data: Few) -> None:
    supernet = Supernet(get_space("asvit-mini", 2)).double()  # without BatchNorm, which sees a part at a time
    assigned = [Assignment(supernet.space.largest, "labels"), Assignment(supernet.space.smallest, "first")]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in supernet.modules())
    whole = stepped(supernet, data, *assigned, learning_rate=1e-12)
    parts = stepped(supernet, data, *assigned, learning_rate=1e-12, accumulate=3)  # 3, 3 and 2 images
    assert whole.keys() == parts.keys()
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-8


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_gradient(data: Few, precision: str) -> None:
    supernet = new_supernet()
    assigned = Assignment(supernet.space.smallest, "labels")
    state = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    whole = stepped(supernet, data, assigned)
    supernet.load_state_dict(state)
    half = stepped(supernet, data, assigned, precision=precision)
    left, right = (torch.cat([gradients[name].flatten() for name in sorted(whole)]) for gradients in (whole, half))
    assert not torch.equal(left, right)
    assert float(torch.nn.functional.cosine_similarity(left, right, dim=0)) > 0.97


def test_a_step_that_overflows_in_fp16_is_left_out_and_the_scale_falls(data: Few) -> None:
    supernet = new_supernet()
    trained = train_step(supernet, precision="fp16")
    trained.precision.load_state({**trained.precision.state(), "scale": 2.0**60})
    before = supernet.network.get_parameter("head.classifier.weight").detach().clone()
    sampler, batch = FixedSampler(Assignment(supernet.space.smallest, "labels")), next(data.train_batches(8, 0, 0))
    trained.run(CONTEXT, batch, sampler)
    assert torch.equal(supernet.network.get_parameter("head.classifier.weight"), before)
    assert trained.precision.state()["scale"] == 2.0**59
    trained.precision.load_state({**trained.precision.state(), "scale": 2.0**10})
    trained.run(CONTEXT, batch, sampler)
    assert not torch.equal(supernet.network.get_parameter("head.classifier.weight"), before)


def test_a_checkpoint_is_evaluated_by_the_average_of_its_weights(data: Few, tmp_path: Path) -> None:
    supernet, seen = new_supernet(), []
    start = supernet.network.get_parameter("head.classifier.weight").detach().clone()

    def look(progress: TrainingProgress) -> None:
        seen.append(supernet.network.get_parameter("head.classifier.weight").detach().clone())

    settings = dataclasses.replace(SETTINGS, epochs=1, ema_decay=0.2)
    result = train_supernet(supernet, data, settings, tmp_path, callbacks=Callbacks(progress=look))
    expected = start
    for step, weights in enumerate(seen):
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    averaged, _ = load_supernet(result.checkpoint)
    assert torch.allclose(averaged.network.get_parameter("head.classifier.weight"), expected, atol=1e-7)
    assert torch.equal(supernet.network.get_parameter("head.classifier.weight"), seen[-1])


# -- shares ----------------------------------------------------------------------------------------------------------


def test_shares_give_each_architecture_its_own_images(data: Few) -> None:
    supernet = Supernet(get_space("asvit-mini", 2)).double()
    networks = [supernet.space.largest, supernet.space.smallest]
    shared = [Assignment(network, "labels", Share(index, 2)) for index, network in enumerate(networks)]
    found = stepped(supernet, data, *shared, learning_rate=1e-12)
    images, labels = next(data.train_batches(8, 0, 0))
    supernet.zero_grad()
    losses = [
        label_loss(supernet(images[index::2].double(), network), labels[index::2], SETTINGS.label_smoothing)
        for index, network in enumerate(networks)
    ]
    (sum(losses) / 2).backward()  # type: ignore[union-attr]
    for name, parameter in supernet.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-9), name


class Hooked(FixedSampler):
    """Notes when it is told of epochs, and shifts a weight and its moment."""

    def __init__(self, *assigned: Assignment) -> None:
        super().__init__(*assigned)
        self.calls: list[tuple[int, float, int]] = []

    def before_epoch(
        self,
        epoch: int,
        epochs: float,
        supernet: Supernet,
        moments: Mapping[str, Mapping[str, Tensor]],
        average: Mapping[str, Tensor] | None,
    ) -> None:
        self.calls.append((epoch, epochs, len(moments)))
        for name, states in moments.items():
            assert set(states) == {"exp_avg", "exp_avg_sq"}
            assert {state.shape for state in states.values()} == {supernet.get_parameter(name).shape}


class HookedPolicy(SamplingPolicy):
    def __init__(self) -> None:
        self.samplers: list[Hooked] = []
        self.batch_sizes: list[int | None] = []

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> Hooked:
        self.batch_sizes.append(batch_size)
        self.samplers.append(Hooked(Assignment(space.smallest, "labels")))
        return self.samplers[-1]


def test_a_sampler_is_told_before_every_epoch(data: Few, tmp_path: Path) -> None:
    policy = HookedPolicy()
    register_policy("hooked", policy)
    settings = dataclasses.replace(SETTINGS, policy="hooked", accumulate=2)
    train_supernet(new_supernet(), data, settings, tmp_path)
    assert policy.batch_sizes == [4]
    (first, second) = policy.samplers[0].calls
    assert first == (0, 2.0, 0)
    assert second[:2] == (1, 2.0)
    assert second[2] > 0


# -- what is learnt --------------------------------------------------------------------------------------------------

LABELS_B = torch.tensor([0, 1, 1])
LOGITS_BK = torch.tensor([[1.0, 2.0], [0.0, 0.5], [-1.0, 1.0]])
SOFT_BK = torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]])


def cross_entropy(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    return -(targets_BK * logits_BK.log_softmax(-1)).sum(-1).mean()


def test_two_teachers_replace_the_labels_and_one_stands_beside_them() -> None:
    taught = cross_entropy(LOGITS_BK, SOFT_BK)
    two, one = (ImageTargets(LABELS_B, teacher_BK=SOFT_BK, label_share=share) for share in (0.0, 0.5))
    assert torch.allclose(supervised_loss(LOGITS_BK, two, 0.1), taught)
    expected = 0.5 * taught + 0.5 * label_loss(LOGITS_BK, LABELS_B, 0.1)
    assert torch.allclose(supervised_loss(LOGITS_BK, one, 0.1), expected)


def test_patches_learn_their_own_targets_or_those_of_their_image() -> None:
    patches_BPK = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    repeated_BPK = SOFT_BK[:, None].expand(-1, 4, -1)
    mixed = ImageTargets(LABELS_B, SOFT_BK)
    assert torch.allclose(patch_loss(patches_BPK, mixed, 0.1), cross_entropy(patches_BPK, repeated_BPK))
    own_BPK = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(1)).softmax(-1)
    exact = ImageTargets(LABELS_B, SOFT_BK, own_BPK)
    assert torch.allclose(patch_loss(patches_BPK, exact, 0.1), cross_entropy(patches_BPK, own_BPK))
    hard = ImageTargets(LABELS_B)
    smooth_BPK = (torch.nn.functional.one_hot(LABELS_B, 2) * 0.9 + 0.05)[:, None].expand(-1, 4, -1)
    assert torch.allclose(patch_loss(patches_BPK, hard, 0.1), cross_entropy(patches_BPK, smooth_BPK))
    output = TokenLogits(LOGITS_BK, patches_BPK)
    both = target_loss("labels", output, exact, [], 0.1, supervised_loss)
    assert torch.allclose(both, cross_entropy(LOGITS_BK, SOFT_BK) + patch_loss(patches_BPK, exact, 0.1))
    assert torch.equal(class_logits(output), LOGITS_BK)


def test_a_lesson_is_cut_as_its_images_are() -> None:
    targets = ImageTargets(LABELS_B, SOFT_BK, None, SOFT_BK, 0.5).part(1, 2)
    assert targets.labels_B.tolist() == [1]
    assert targets.classes_BK is not None
    assert targets.classes_BK.tolist() == SOFT_BK[1:2].tolist()
    assert targets.label_share == 0.5


def test_teachers_are_asked_once_a_step_about_the_images_that_are_trained_on(
    data: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []

    def teach(images_BCHW: Tensor) -> Tensor:
        asked.append(images_BCHW)
        return torch.tensor([[0.0, 1.0]]).expand(len(images_BCHW), -1)

    monkeypatch.setattr(target_module, "make_teacher", lambda *_: teach)
    monkeypatch.setattr("supernets.training.trainer.make_teacher", lambda *_: teach)
    settings = dataclasses.replace(SETTINGS, epochs=8, policy="sandwich", teachers=("a", "b"), learning_rate=4e-3)
    supernet = new_supernet()
    result = train_supernet(supernet, data, settings, tmp_path)
    assert len(asked) == result.steps
    images, _ = next(data.batches("search", 8))
    with torch.no_grad():  # every image is what the teacher says, whatever its label
        assert supernet.extract(supernet.space.largest).train()(images).argmax(dim=1).float().mean() > 0.9


def test_tokens_are_mixed_by_the_patches_of_the_last_stage(data: Few, tmp_path: Path) -> None:
    supernet = Supernet(training_form(get_space("resnas-mini", 2), drop_path=0.1, patch_classifier=True)).train()
    settings = dataclasses.replace(SETTINGS, mixing="token", policy="multi-architecture", drop_path=0.1)
    mix = make_mix(supernet, settings, ProcessGroup())
    assert mix is not None
    images, labels = next(data.train_batches(8, 0, 0))
    mixed, targets = mix(images, labels, 0)
    again, _ = mix(images, labels, 0)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, mix(images, labels, 1)[0])
    output = supernet(images, supernet.space.largest)
    assert isinstance(output, TokenLogits)
    assert targets.patches_BPK is not None
    assert targets.patches_BPK.shape == output.patches_BPK.shape
    result = train_supernet(supernet, data, settings, tmp_path)
    assert math.isfinite(result.loss)
    loaded, _ = load_supernet(result.checkpoint)
    trained = supernet.state_dict()
    assert loaded.state_dict().keys() < trained.keys()  # the classifier of patches has done its work
    assert all(torch.equal(tensor, trained[name]) for name, tensor in loaded.state_dict().items())


def test_tokens_of_networks_without_a_map_cannot_be_mixed() -> None:
    supernet = Supernet(get_space("timm:vit_tiny_patch16_224?img_size=32", 2))
    with pytest.raises(TrainingError, match=r"networks of `timm:vit_tiny_\S+` do not end with a map"):
        make_mix(supernet, dataclasses.replace(SETTINGS, mixing="token"), ProcessGroup())


def test_scores_are_taken_on_images_that_are_not_mixed(data: Few) -> None:
    supernet = new_supernet()
    seen: list[tuple[Architecture, float]] = []

    class Learning(FixedSampler):
        learns = True

        def observe(self, architecture: Architecture, score: float) -> None:
            seen.append((architecture, score))

        def stale(self) -> tuple[Architecture, ...]:
            return (supernet.space.largest,)

    images, labels = next(data.train_batches(8, 0, 0))
    sampler = Learning(Assignment(supernet.space.largest, "labels"), Assignment(supernet.space.smallest, "mean"))
    train_step(supernet, lambda images, labels, _: (images.flip(0), ImageTargets(labels))).run(
        dataclasses.replace(CONTEXT, rate=0.0), (images, labels), sampler
    )
    with torch.no_grad():  # in training mode, as the score
        expected = -label_loss(supernet(images, supernet.space.largest), labels).item()
    assert seen == [(supernet.space.largest, pytest.approx(expected, abs=1e-5))]


# -- uneven classes --------------------------------------------------------------------------------------------------

LONG_TAIL = dataclasses.replace(
    SETTINGS, teacher_target="hard", class_weights="effective", deferred=0.5, augmentation="elasticvit"
)


class Uneven(Few):
    """The same, said to be uneven."""

    @property
    def labels(self) -> Any:
        return np.arange(2000) % 3 // 2


def told(images_BCHW: Tensor) -> Tensor:
    """A teacher that tells every other image dark."""
    return torch.eye(2)[torch.arange(len(images_BCHW)) % 2]


class Crashed(Exception):
    pass


def test_classes_are_weighted_from_the_deferred_step_on(tmp_path: Path) -> None:
    """Until then it is plain hard distillation, to the bit; a training that is stopped goes on across the step."""

    def weights_at(step: int, name: str, **changes: Any) -> Tensor:
        def crash(progress: TrainingProgress) -> None:
            if progress.step == step:
                raise Crashed

        settings, supernet = dataclasses.replace(LONG_TAIL, **changes), new_supernet()
        with pytest.raises(Crashed):
            train_supernet(
                supernet, Uneven(), settings, tmp_path / name, callbacks=Callbacks(crash), teacher=told, resume=True
            )
        return supernet.network.get_parameter("head.classifier.weight").detach().clone()

    plain = {"class_weights": "none"}
    assert torch.equal(weights_at(3, "long tail"), weights_at(3, "plain", **plain))
    whole = weights_at(5, "whole")
    assert not torch.equal(whole, weights_at(5, "wholly plain", **plain))
    assert torch.equal(weights_at(5, "long tail"), whole)


def test_images_are_not_mixed_where_classes_are_weighted() -> None:
    mixed = []
    step = TrainStep(
        new_supernet().train(), LONG_TAIL, ProcessGroup(), Path("nowhere"),
        lambda images, labels, _: mixed.append(len(images)) or (images, ImageTargets(labels)),
        weights_K=torch.tensor([0.5, 1.5]),
    )  # fmt: skip
    batch = next(Few().train_batches(8, 0, 0))
    for progress in (0.4, 0.5):
        step.run(
            dataclasses.replace(CONTEXT, progress=progress),
            batch,
            FixedSampler(Assignment(step.supernet.space.smallest, "labels")),
        )
        assert mixed == [8]


def test_a_class_without_training_images_has_no_weight(data: Few) -> None:
    class Missing(Few):
        @property
        def labels(self) -> Any:
            return np.zeros(2000, dtype=np.int64)

    with pytest.raises(DataError, match="class `light` has no training images, so that it can have no weight"):
        class_weights(LONG_TAIL, Missing(), torch.device("cpu"))
    assert class_weights(SETTINGS, data, torch.device("cpu")) is None


def test_soft_teachers_have_no_class_to_weigh() -> None:
    with pytest.raises(TrainingError, match="`teacher_target`: found soft, expected `hard` beside `class_weights`"):
        dataclasses.replace(LONG_TAIL, teacher_target="soft", teachers=("resnet18",))


# -- validation ------------------------------------------------------------------------------------------------------


def test_validation_sees_the_average_and_stands_in_the_log(data: Few, tmp_path: Path) -> None:
    supernet, told = new_supernet(), []

    def validate(judged: Supernet) -> dict[str, float]:
        averaged = judged.network.get_parameter("head.classifier.weight").detach().clone()
        told.append(averaged)
        judged.eval()
        return {"smallest": 0.5}

    notified: list[object] = []
    settings = dataclasses.replace(SETTINGS, ema_decay=0.5, validate_every_epochs=1)
    result = train_supernet(
        supernet, data, settings, tmp_path, callbacks=Callbacks(notify=notified.append, validate=validate)
    )
    assert notified == [Validation(3, 1.0, {"smallest": 0.5}), Validation(6, 2.0, {"smallest": 0.5})]
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation" in line] == [3, 6]
    averaged, _ = load_supernet(result.checkpoint)
    assert torch.equal(averaged.network.get_parameter("head.classifier.weight"), told[-1])
    unvalidated = new_supernet()
    train_supernet(unvalidated, data, settings, tmp_path / "without")
    state = supernet.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in unvalidated.state_dict().items())
