"""The worker process of the local executor: builds its evaluator, then answers chunks until it is told to end.

It ends at once when its parent does, in the middle of an evaluation too, so that a killed search leaves nothing behind.
"""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from nas.executors.base import EvaluatorBlueprint, evaluate_tasks
from nas.executors.pool import Chunk


def main(descriptor: int) -> None:
    """Run until the other end of the connection is closed.

    The other end sends an `EvaluatorBlueprint`, then chunks. It is answered ``("ready",)`` or ``("unfit", reason)``,
    then ``("done", chunk, [(number, evaluation)])`` for each evaluation, or ``("error", reason)`` before the process
    ends.
    """
    connection = Connection(descriptor)
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    blueprint: EvaluatorBlueprint = inbox.get()
    try:
        evaluator = blueprint.build()
    except Exception as error:
        connection.send(("unfit", describe_error(error)))
        return
    connection.send(("ready",))
    while True:
        chunk: Chunk = inbox.get()
        try:
            for number, evaluation in evaluate_tasks(evaluator, chunk.tasks):
                connection.send(("done", chunk.number, [(number, evaluation)]))
        except Exception as error:
            connection.send(("error", describe_error(error)))
            return


def describe_error(error: BaseException) -> str:
    """Kind and message of an error in one line."""
    return f"{type(error).__name__}: {error}".strip().replace("\n", " ")


def _listen(connection: Connection, inbox: SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)
