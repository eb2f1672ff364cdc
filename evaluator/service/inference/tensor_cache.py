"""Tensors that are kept for later requests, within a bound of memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value", bound=tuple[Any, ...])


class TensorCache(Generic[Value]):
    """Tuples of tensors by key; those that were not used for longest leave. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        """Make an empty one.

        Args:
            max_bytes: of all tensors in it; one value that is larger alone is not kept.

        Raises:
            ValueError: a negative number.
        """
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; it must be at least 0, which keeps nothing")
        self.max_bytes, self.bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """What was put there, which is then the last one used; None where it is not (any more)."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
            return found

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value; others leave where there is no room."""
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self.bytes += bytes_of(value)
            while self.bytes > self.max_bytes:
                self._drop(next(iter(self._values)))

    def forget(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Drop every value whose key is unwanted."""
        with self._lock:
            for key in [key for key in self._values if unwanted(key)]:
                self._drop(key)

    def _drop(self, key: Hashable) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self.bytes -= bytes_of(value)


def bytes_of(value: Iterable[Any]) -> int:
    """Memory of the tensors among some values."""
    return sum(one.numel() * one.element_size() for one in value if isinstance(one, Tensor))
