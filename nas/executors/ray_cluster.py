"""Joining a Ray cluster, or starting one on this machine that nobody else can reach."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from nas.errors import NasError


def join_cluster(
    ray: Any, address: str | None, room: int, *, store_bytes: int | None = None, error: type[NasError] = NasError
) -> bool:
    """Join a cluster, unless this process has joined one.

    Args:
        ray: The module.
        address: As `ray.init` takes it; None starts one of this machine alone, whatever the environment names.
        room: Processors of the cluster that is started here.
        store_bytes: Size of the object store there. Default: as much as Ray takes.
        error: What is raised.

    Returns:
        Whether it was joined now, and is to be left by `ray.shutdown`.

    Raises:
        NasError: It cannot be joined.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "include_dashboard": False, "num_cpus": room}
        options["object_store_memory"] = store_bytes
        options["_system_config"] = {"worker_niceness": 0}  # at Ray's 15 a busy machine lets them starve
    try:
        with loopback_only() if address is None else contextlib.nullcontext():
            ray.init(**options, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as found:
        where = "here" if address is None else f"`{address}`"
        raise error(
            f"Ray cluster {where}: {str(found).splitlines()[0] if str(found) else type(found).__name__}",
            hint="start one with `ray start --head`, or leave `--ray-address` out for one on this machine",
        ) from found
    return True


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Ray nodes that are started within listen to this machine alone.

    Ray has no public option for it: it takes an address of 127.0.0.1 for the machine's own one, except where it holds
    clusters of several machines for impossible, as on macOS.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
