"""Profiler traces of a few steps of each kind of stage, by torch.profiler."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

FOLDER = "traces"
"""In the run's folder."""
STEPS = 10
"""Steps in a trace, which bounds its size."""
_BEFORE, _WARM_UP = 5, 2
"""Steps before it: kernels are chosen and caches filled in the first ones, the profiler's own in the others."""


class Traces:
    """Writer of `<kind>.json.gz`, a Chrome trace, for the first stage of each kind: ping-2 is of kind ping.

    Args:
        folder: where to; None writes nothing.
        say: told where each trace is.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._done: set[str] = set()
        self._profile: profile | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context that traces some steps of a stage, unless its kind already has a trace."""
        kind = re.sub(r"-\d+$", "", name)
        if self._folder is None or kind in self._done:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{kind}.json.gz"
        steps = schedule(skip_first=_BEFORE, wait=0, warmup=_WARM_UP, active=STEPS, repeat=1)
        activities = supported_activities() & {ProfilerActivity.CPU, ProfilerActivity.CUDA}
        try:
            with profile(
                activities=activities, schedule=steps, on_trace_ready=lambda done: self._write(done, path, kind)
            ) as self._profile:
                yield
        finally:
            self._profile = None
        if kind not in self._done:
            self._say(f"no trace of {kind}: it is shorter than {_BEFORE + _WARM_UP + 1} steps")

    def step(self) -> None:
        """End a step."""
        if self._profile:
            self._profile.step()

    def _write(self, done: profile, path: Path, kind: str) -> None:
        done.export_chrome_trace(str(path))
        self._done.add(kind)
        self._say(f"trace of {kind} for https://ui.perfetto.dev: {path}")
