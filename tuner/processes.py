"""Processes of a trial: the GPUs that they see, and their end when the parent dies."""

import os
import threading
import time
from collections.abc import Mapping

from ray.train.v2._internal.exceptions import UserExceptionWithTraceback


class WorkerDied(RuntimeError):
    """Raised when one of a trial's several workers, or its machine, died."""


def hide_gpus() -> None:
    """Hide the machine's GPUs from this process; Ray shows all of them to a process that asked for none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def worker_error(error: Exception) -> Exception:
    """Root error of a trial's workers: that of one that died, else of the lowest rank, as others often follow.

    Returns:
        `WorkerDied` for a worker or its machine that died, or could not be started; `ConnectionError` for one that
        met a server which was down; `RuntimeError` for all else, which is the trial's own.
    """
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        return WorkerDied(_last_line(error))  # of Ray's controller: nothing of the trial's has failed
    own = {rank: error for rank, error in failures.items() if isinstance(error, UserExceptionWithTraceback)}
    died = {rank: error for rank, error in failures.items() if rank not in own}
    rank, failure = min((died or own).items(), key=lambda pair: pair[0])
    line = f"worker {rank}: {_last_line(failure)}"
    if died:
        return WorkerDied(line)
    if any(isinstance(one._base_exc, ConnectionError | TimeoutError) for one in own.values()):
        return ConnectionError(line)
    return RuntimeError(line)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


_SECONDS = 1.0


def end_with_parent() -> None:
    """End this process as soon as its parent has ended; a second call does nothing."""
    name = "parent-watch"
    if all(thread.name != name for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(os.getppid(),), name=name, daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # the system gives orphans another parent, whether or not theirs was collected
        time.sleep(_SECONDS)
    os._exit(1)
