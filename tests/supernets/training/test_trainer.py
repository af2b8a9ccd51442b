"""Supernet training: it learns, and however it is stopped, it goes on to the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces import UnknownNameError, get_space
from supernets.batch_norm import reestimate_batch_norm
from supernets.checkpoint import load_supernet, read_checkpoint
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.errors import CheckpointError, DataError, TrainingError
from supernets.supernet import Supernet
from supernets.training.events import Callbacks, TrainingProgress, TrainingResult
from supernets.training.optimizer import make_optimizer
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet
from tests.support.forked import fork, kill
from tests.support.processes import wait_for

SETTINGS = TrainingSettings(
    epochs=2, batch_size=8, learning_rate=2e-3, checkpoint_every_seconds=1000, log_every_steps=1
)
STEPS = 6


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


@dataclasses.dataclass(frozen=True)
class Reference:
    result: TrainingResult
    folder: Path
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def uninterrupted(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder, supernet = tmp_path_factory.mktemp("uninterrupted"), new_supernet()
    result = train_supernet(supernet, data, SETTINGS, folder)
    return Reference(result, folder, {name: tensor.clone() for name, tensor in supernet.state_dict().items()})


def new_supernet(classes: int = 2, seed: int = 0) -> Supernet:
    return Supernet(get_space("elastic-mini", classes), seed)


def at_step(step: int, action: Callable[[], Any]) -> Callable[[TrainingProgress], None]:
    def callback(progress: TrainingProgress) -> None:
        if progress.step == step:
            action()

    return callback


def crash() -> None:
    raise Crash


def assert_as_uninterrupted(folder: Path, reference: Reference) -> None:
    found, expected = (read_checkpoint(where / "supernet.safetensors") for where in (folder, reference.folder))
    assert found.metadata["step"] == expected.metadata["step"] == STEPS
    for left, right in ((found.weights, expected.weights), (found.optimizer, expected.optimizer)):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []
    losses = [[line["loss"] for line in read_log(where)] for where in (folder, reference.folder)]
    assert losses[0] == losses[1]


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


# -- learning --------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_checkpoint_holds_what_was_trained(uninterrupted: Reference) -> None:
    log = read_log(uninterrupted.folder)
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    losses = [line["loss"] for line in log]
    assert np.mean(losses[-2:]) < 0.75 * np.mean(losses[:2])
    assert uninterrupted.result.steps == STEPS
    assert uninterrupted.result.epochs == 2
    assert uninterrupted.result.loss == losses[-1]
    loaded, metadata = load_supernet(uninterrupted.result.checkpoint)
    assert all(torch.equal(tensor, uninterrupted.weights[name]) for name, tensor in loaded.state_dict().items())
    assert TrainingSettings.from_dict(metadata["settings"]) == SETTINGS
    assert metadata["data"]["class_names"] == ["dark", "light"]


def test_progress_counts_every_step(data: ImageData, tmp_path: Path) -> None:
    settings, seen = dataclasses.replace(SETTINGS, epochs=1, policy="uniform"), []
    train_supernet(new_supernet(), data, settings, tmp_path, callbacks=Callbacks(progress=seen.append))
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert {progress.total_steps for progress in seen} == {3}
    assert seen[-1].eta_seconds == 0
    assert all(math.isfinite(progress.loss) and progress.images_per_second > 0 for progress in seen)


def test_random_numbers_and_threads_of_the_caller_are_left_alone(data: ImageData, tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    settings = dataclasses.replace(SETTINGS, epochs=1, policy="uniform")
    train_supernet(new_supernet(), data, settings, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_only_matrices_and_kernels_decay() -> None:
    supernet = new_supernet()
    decayed, kept = make_optimizer(supernet, SETTINGS).param_groups
    assert decayed["weight_decay"] == SETTINGS.weight_decay > kept["weight_decay"] == 0
    assert {tensor.ndim for tensor in kept["params"]} == {1}
    assert min(tensor.ndim for tensor in decayed["params"]) == 2
    assert len(decayed["params"]) + len(kept["params"]) == len(list(supernet.parameters()))


# -- stopping and going on -------------------------------------------------------------------------------------------


def go_on(images: Path, folder: Path, every: float) -> None:
    """Train further, and say every step."""
    settings, data = (
        dataclasses.replace(SETTINGS, checkpoint_every_seconds=every),
        load_data(str(images), 32, workers=1),
    )

    def say(step: int) -> None:
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()

    say(0)
    callbacks = Callbacks(progress=lambda progress: say(progress.step))
    train_supernet(new_supernet(seed=1), data, settings, folder, resume=True, callbacks=callbacks)


def killed_after(
    step: int, images: Path, folder: Path, log: Path, moments: np.random.Generator, seconds: float
) -> int | None:
    """The exit code of a process that trains further and is killed within so many seconds of a step."""
    log.write_text("")
    process = fork(partial(go_on, images, folder, float(moments.choice([0, 0.3]))), log)
    wait_for(lambda: any(int(line) >= step for line in log.read_text().split("\n")[:-1]))
    time.sleep(moments.uniform(0, seconds))
    kill(process)
    read_checkpoint(folder / "supernet.safetensors")
    return process.exitcode


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> np.random.Generator:
    """Other moments each time; the report of a test that failed has the seed."""
    seed = time.time_ns()
    request.node.add_report_section("setup", "seed", f"moments = np.random.default_rng({seed})")
    return np.random.default_rng(seed)


def test_killed_twice_it_ends_with_the_same_bits(
    images: Path, data: ImageData, uninterrupted: Reference, moments: np.random.Generator, tmp_path: Path
) -> None:
    with pytest.raises(Crash):  # so that the killed runs start from the weights of the uninterrupted one
        train_supernet(new_supernet(), data, SETTINGS, tmp_path, callbacks=Callbacks(progress=at_step(1, crash)))
    for last in (2, 4):
        assert killed_after(last, images, tmp_path, tmp_path / "log", moments, 0.2) == -signal.SIGKILL
    train_supernet(new_supernet(), data, SETTINGS, tmp_path, resume=True)
    assert_as_uninterrupted(tmp_path, uninterrupted)


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_it_ends_with_the_same_bits(
    images: Path, data: ImageData, uninterrupted: Reference, moments: np.random.Generator, tmp_path: Path
) -> None:
    with pytest.raises(Crash):  # so that the killed runs start from the weights of the uninterrupted one
        train_supernet(new_supernet(), data, SETTINGS, tmp_path, callbacks=Callbacks(progress=at_step(1, crash)))
    for _ in range(10):
        assert killed_after(0, images, tmp_path, tmp_path / "log", moments, 2.0) in (-signal.SIGKILL, 0)
    train_supernet(new_supernet(), data, SETTINGS, tmp_path, resume=True)
    assert_as_uninterrupted(tmp_path, uninterrupted)


def test_a_crash_between_checkpoints_repeats_the_steps_since_the_last(
    data: ImageData, uninterrupted: Reference, tmp_path: Path
) -> None:
    with pytest.raises(Crash):
        train_supernet(new_supernet(), data, SETTINGS, tmp_path, callbacks=Callbacks(progress=at_step(4, crash)))
    assert read_checkpoint(tmp_path / "supernet.safetensors").metadata["step"] == 0
    assert len(read_log(tmp_path)) == 4
    with (tmp_path / "training.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    train_supernet(new_supernet(), data, SETTINGS, tmp_path, resume=True)
    assert_as_uninterrupted(tmp_path, uninterrupted)


def test_ctrl_c_finishes_the_step_and_writes_a_checkpoint(
    data: ImageData, uninterrupted: Reference, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupt = at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_supernet(new_supernet(), data, SETTINGS, tmp_path, callbacks=Callbacks(progress=interrupt))
    assert signal.getsignal(signal.SIGINT) == handler
    assert read_checkpoint(tmp_path / "supernet.safetensors").metadata["step"] == 3
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # the recorded number is used, and this one put back
    try:
        train_supernet(new_supernet(), data, SETTINGS, tmp_path, resume=True)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert_as_uninterrupted(tmp_path, uninterrupted)


def test_a_finished_training_is_not_trained_further(data: ImageData, uninterrupted: Reference, tmp_path: Path) -> None:
    before = (uninterrupted.folder / "supernet.safetensors").read_bytes()
    supernet = new_supernet()
    result = train_supernet(supernet, data, SETTINGS, uninterrupted.folder, resume=True)
    assert result.steps == STEPS
    assert result.loss == uninterrupted.result.loss
    assert (uninterrupted.folder / "supernet.safetensors").read_bytes() == before
    assert all(torch.equal(tensor, uninterrupted.weights[name]) for name, tensor in supernet.state_dict().items())


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_folder_with_a_training_is_not_overwritten(data: ImageData, uninterrupted: Reference) -> None:
    with pytest.raises(TrainingError, match="holds a training already") as caught:
        train_supernet(new_supernet(), data, SETTINGS, uninterrupted.folder)
    assert caught.value.hint == "resume it, or choose another folder"


@pytest.mark.parametrize(("name", "value"), [("batch_size", 4), ("budget_seconds", 60.0), ("policy", "uniform")])
def test_resuming_with_other_settings(data: ImageData, uninterrupted: Reference, name: str, value: Any) -> None:
    settings = dataclasses.replace(SETTINGS, **{name: value})
    with pytest.raises(TrainingError, match=f"training setting `{name}`: found {value}, but the training in"):
        train_supernet(new_supernet(), data, settings, uninterrupted.folder, resume=True)


def test_resuming_with_other_images(uninterrupted: Reference) -> None:
    other = load_data(read_checkpoint(uninterrupted.result.checkpoint).metadata["data"]["source"], 16)
    with pytest.raises(DataError, match="image side changed since the run was started: found 16, expected 32"):
        train_supernet(new_supernet(), other, SETTINGS, uninterrupted.folder, resume=True)


def test_images_with_more_classes_than_the_supernet_tells(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has 2 classes, the supernet of `elastic-mini` tells 10"):
        train_supernet(new_supernet(classes=10), data, SETTINGS, tmp_path)


def test_a_loss_that_is_not_finite_names_step_and_architecture(data: ImageData, tmp_path: Path) -> None:
    supernet = new_supernet()
    start = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    def poison() -> None:
        with torch.no_grad():
            next(supernet.parameters()).fill_(math.nan)

    with pytest.raises(TrainingError) as caught:
        train_supernet(supernet, data, SETTINGS, tmp_path, callbacks=Callbacks(progress=at_step(2, poison)))
    assert f"loss is nan at step 2 with architecture {supernet.space.largest.to_json()}" in str(caught.value)
    assert "lower the learning rate (found 0.002)" in caught.value.hint
    kept, metadata = load_supernet(tmp_path / "supernet.safetensors")
    assert metadata["step"] == 0
    assert all(torch.equal(tensor, start[name]) for name, tensor in kept.state_dict().items())


def test_a_training_that_diverges_leaves_no_checkpoint_with_nan(data: ImageData, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30, checkpoint_every_seconds=0)
    with pytest.raises(TrainingError, match=r"is (nan|inf) at step \d+ with architecture"):
        train_supernet(new_supernet(), data, settings, tmp_path)
    kept = read_checkpoint(tmp_path / "supernet.safetensors")
    assert kept.metadata["step"] > 0
    parameters = dict(new_supernet().named_parameters())
    assert all(tensor.isfinite().all() for name, tensor in kept.weights.items() if name in parameters)


@pytest.fixture
def unlimited() -> Iterator[tuple[int, int]]:
    """The limits of file sizes, put back afterwards."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield limits
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_stops_the_training_which_goes_on_when_there_is_space(
    data: ImageData, uninterrupted: Reference, unlimited: tuple[int, int], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, checkpoint_every_seconds=0)
    fill = at_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, unlimited[1])))
    with pytest.raises(CheckpointError, match="cannot be written: File too large; the last one is intact"):
        train_supernet(new_supernet(), data, settings, tmp_path, callbacks=Callbacks(progress=fill))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["supernet.safetensors", "training.jsonl"]
    assert read_checkpoint(tmp_path / "supernet.safetensors").metadata["step"] == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    train_supernet(new_supernet(), data, SETTINGS, tmp_path, resume=True)
    assert_as_uninterrupted(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("budget_seconds", 0.0), ("batch_size", -1), ("warmup", 1.0), ("seed", -1), ("learning_rate", 0)],
)
def test_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=name):
        TrainingSettings(**{name: value})


def test_settings_that_are_not_known() -> None:
    with pytest.raises(TrainingError, match="training setting `momentum`: not known to this release"):
        TrainingSettings.from_dict({"momentum": 0.9})
    with pytest.raises(UnknownNameError, match="unknown sampling policy: `sandwhich`"):
        TrainingSettings(policy="sandwhich")


# -- time budgets --------------------------------------------------------------------------------------------------


def test_a_budget_becomes_a_number_of_steps_before_the_first_of_them(data: ImageData, tmp_path: Path) -> None:
    supernet, totals = new_supernet(), []
    start = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    def look(progress: TrainingProgress) -> None:
        if progress.step == 1:
            checkpoint = read_checkpoint(tmp_path / "supernet.safetensors")
            assert checkpoint.metadata["step"] == 0
            assert checkpoint.optimizer == {}
            assert all(torch.equal(tensor, start[name]) for name, tensor in checkpoint.weights.items())
            totals.append(checkpoint.metadata["total_steps"])

    settings = dataclasses.replace(SETTINGS, budget_seconds=3.0, policy="uniform")
    result = train_supernet(supernet, data, settings, tmp_path, callbacks=Callbacks(progress=look))
    assert 1 <= result.steps <= totals[0]
    assert result.seconds < 3 * 3.0  # the machine may be busy


@pytest.mark.slow
def test_the_default_recipe_learns_digits_in_three_and_a_half_minutes(tmp_path: Path) -> None:
    digits, supernet = load_data("digits", 32), new_supernet(classes=10)
    result = train_supernet(supernet, digits, TrainingSettings(budget_seconds=210, policy="uniform"), tmp_path)
    assert result.seconds < 1.05 * 210
    for architecture, least in ((supernet.space.largest, 0.98), (supernet.space.middle, 0.98)):
        network = supernet.extract(architecture)
        reestimate_batch_norm(network, (images for images, _ in digits.train_batches(128, seed=1, epoch=0)))
        network.eval()
        with torch.no_grad():
            right = [network(images).argmax(1) == labels for images, labels in digits.batches("search", 100)]
        assert float(torch.cat(right).float().mean()) >= least
