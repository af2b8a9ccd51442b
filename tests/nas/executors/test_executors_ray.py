"""Executor `ray` on a real cluster of two nodes here: equal results, and nodes and drivers that are killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.events import TrialFinished
from nas.executors import EvaluatorBlueprint, ExecutorError, evaluate_tasks, make_executor
from nas.executors.ray import pack, unpack
from nas.executors.ray_cluster import loopback_only
from nas.searching.loop import SearchLoop
from search_spaces import get_space
from supernets.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
from supernets.supernet import Supernet
from tests.support.executor_evaluators import TroubledEvaluator, troubled
from tests.support.executor_tasks import make_tasks, summary
from tests.support.forked import finish, fork, kill
from tests.support.processes import wait_for
from tests.support.searches import journal_trials, recorded, run_fake_search, timeless

EVALUATIONS, BATCH = 48, 8
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
FAST = {  # a node that does not answer for 2 s is dead, which takes half a minute else, and workers are not at nice 15
    "worker_niceness": 0,
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with room for one worker, and a node with room for another."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    with loopback_only():
        nodes = Cluster(
            initialize_head=True,
            head_node_args={**NODE, "include_dashboard": False, "_system_config": FAST},
        )
        nodes.add_node(**NODE)
        yield nodes
        nodes.shutdown()


@pytest.fixture
def joined(cluster: Any) -> Iterator[Any]:
    """The cluster, which this process has joined."""
    import ray

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()


def search(folder: Path, blueprint: EvaluatorBlueprint | None = None, **options: Any) -> SearchLoop:
    name = "in-process" if blueprint is None else "ray"
    with closing(make_executor(name, blueprint or troubled())) as executor:
        return run_fake_search(folder, evaluations=EVALUATIONS, batch=BATCH, executor=executor, **options)


def drive(folder: Path, address: str) -> None:
    """Go on with a search in the folder, on the cluster at the address."""
    import ray

    with loopback_only():
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    search(folder, troubled(seconds=0.05), resume=True)


def same(trials: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Recorded trials but for the process that evaluated them."""
    return [{**trial, "scores": {}} for trial in trials]


@pytest.mark.ray
def test_results_are_those_of_this_process(joined: Any) -> None:
    tasks = make_tasks(24)
    with closing(make_executor("ray", troubled())) as executor:
        results = list(executor.run(tasks))
        again = dict(executor.run(tasks))
    assert len(results) == len(tasks)
    assert summary(dict(results)) == summary(again) == summary(dict(evaluate_tasks(TroubledEvaluator(), tasks)))
    assert all(found.result is not None and found.result.scores["process"] != os.getpid() for _, found in results)


@pytest.mark.ray
def test_workers_share_the_weights_of_the_object_store(joined: Any, tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    supernet = Supernet(get_space("elastic-mini"), seed=5)
    metadata: CheckpointMetadata = {
        "schema": 1, "space": "elastic-mini", "version": 1, "classes": 10, "step": 0, "total_steps": 1,
        "data": {}, "settings": {}, "training": {},
    }  # fmt: skip
    save_checkpoint(path, supernet, {}, metadata)
    blueprint = EvaluatorBlueprint("tests.support.executor_evaluators:SharedWeights", {}, str(path))
    tasks = make_tasks(2)
    expected = summary(dict(make_executor("in-process", blueprint).run(tasks)))
    with closing(make_executor("ray", blueprint)) as executor:
        assert summary(dict(executor.run(tasks))) == expected


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_weights_are_packed_without_loss(kind: torch.dtype) -> None:
    tensors = {
        "matrix": torch.randn(3, 5).mul(9).to(kind),
        "scalar": torch.tensor(1).to(kind),
        "none": torch.empty(0, 2),
    }
    metadata: Any = {"space": "some"}
    packed = pack(Checkpoint(Path("file"), tensors, {}, metadata))
    for _, array in packed.values():
        array.setflags(write=False)  # as the object store gives it
    found = unpack(packed, Path("file"), metadata)
    assert found.weights.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.weights[name].dtype == tensor.dtype
        assert torch.equal(found.weights[name], tensor)
        assert found.weights[name].data_ptr() == packed[name][1].ctypes.data or not tensor.numel()


@pytest.mark.ray
def test_cluster_without_room_is_refused(joined: Any) -> None:
    with closing(make_executor("ray", troubled(), gpus_per_trial=0.5)) as executor:
        with pytest.raises(ExecutorError, match=r"each needs 1 CPU and 0\.5 GPU, found 2 CPU and 0 GPU"):
            list(executor.run(make_tasks(2)))


@pytest.mark.ray
def test_killed_driver_resumes_on_the_cluster(cluster: Any, tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    folder = tmp_path / "killed"
    work, log = partial(drive, folder, cluster.address), tmp_path / "log"
    driver, lines = fork(work, log), folder / "trials.jsonl"
    try:
        wait_for(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= EVALUATIONS // 3)
    finally:
        kill(driver)
    assert EVALUATIONS // 3 <= lines.read_bytes().count(b"\n") < len(whole.trials)
    finish(work, log)
    check_equal(folder, whole)


@pytest.mark.ray
def test_killed_node_loses_no_trial(joined: Any, tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    node = joined.add_node(**NODE) if len(joined.worker_nodes) == 0 else next(iter(joined.worker_nodes))
    killed: list[int] = []

    def kill_half_way(event: object) -> None:
        if isinstance(event, TrialFinished) and event.evaluated >= EVALUATIONS // 2 and not killed:
            killed.append(event.evaluated)
            joined.remove_node(node, allow_graceful=False)

    notes = tmp_path / "notes"
    blueprint = troubled(notes=str(notes), seconds=0.05, meet=2)
    loop = search(tmp_path / "killed", blueprint, progress=kill_half_way)
    assert killed
    assert len({note.name.split("-")[1] for note in notes.iterdir()}) >= 2, "both nodes evaluated"
    assert same(timeless(loop.trials)) == same(timeless(whole.trials))
    check_equal(tmp_path / "killed", whole)


def check_equal(folder: Path, whole: SearchLoop) -> None:
    """Every trial stands in the record once, in order, and in Optuna's journal as well."""
    assert same(recorded(folder)) == same(timeless(whole.trials))
    assert [trial.params for trial in journal_trials(folder)] == [dict(t.architecture.settings) for t in whole.trials]
