"""Executors by name."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from nas.errors import UsageError
from nas.executors.base import EvaluatorBlueprint, Executor
from nas.executors.in_process import InProcessExecutor
from nas.executors.local import LocalPool
from nas.executors.pool import PoolExecutor
from nas.executors.ray import RayPool

ExecutorName: TypeAlias = Literal["in-process", "local", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)


def make_executor(
    name: ExecutorName,
    blueprint: EvaluatorBlueprint,
    workers: int | None = None,
    ray_address: str | None = None,
    gpus_per_trial: float = 0.0,
) -> Executor:
    """The executor of that name; workers are started with its first tasks.

    Args:
        name: One of `EXECUTORS`.
        blueprint: What workers build their evaluator from.
        workers: Processes that evaluate at the same time; None for one per processor of this machine, or for as many
            as the cluster has room for.
        ray_address: Cluster to join, for example ``auto`` or ``ray://head:10001``; None for a cluster of this machine
            alone.
        gpus_per_trial: Share of a GPU that each worker gets, for Ray alone.

    Raises:
        UsageError: A value is out of range, or is of no use to this executor.
    """
    if name not in EXECUTORS:
        raise UsageError(f"executor is `{name}`, expected one of {', '.join(f'`{known}`' for known in EXECUTORS)}")
    if workers is not None and workers < 1:
        raise UsageError(f"`workers` is {workers}, expected 1 or more")
    if name != "ray" and (ray_address is not None or gpus_per_trial):
        option = "--ray-address" if ray_address is not None else "--gpus-per-trial"
        raise UsageError(f"`{option}` is of no use to executor `{name}`", hint="add `--executor ray`, or leave it out")
    if name == "in-process":
        if workers not in (None, 1):
            raise UsageError(
                f"`workers` is {workers}, but executor `in-process` has one", hint="name executor `local` or `ray`"
            )
        return InProcessExecutor(blueprint.build())
    if name == "local":
        return PoolExecutor(LocalPool(blueprint, workers))
    return PoolExecutor(RayPool(blueprint, workers, ray_address, gpus_per_trial))
