"""Processes that Ray started end with Ray.

Ray's workers look whether the process id of their node's daemon is still there. Where nobody collects dead
processes, as in a container without an init, it is there for ever: a sweep that was killed would go on training in
the background, in the folders that `--resume` continues.
"""

import os
import threading
import time

_SECONDS = 1.0


def end_with_parent() -> None:
    """Watch this process's parent from now on, and end at once when it has ended; a second call does nothing."""
    name = "parent-watch"
    if all(thread.name != name for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(os.getppid(),), name=name, daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # the system gives orphans another parent, whether or not theirs was collected
        time.sleep(_SECONDS)
    os._exit(1)
