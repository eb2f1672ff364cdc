"""One process at a time in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold the folder's lock while the block runs; the system frees it when this process ends, however it ends.

    Args:
        folder: made where it is missing.
        otherwise: what to say where another process holds it.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(otherwise) from None
        yield
