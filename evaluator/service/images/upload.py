"""Uploads are parsed in processes of their own: one that hangs, dies or takes too much is replaced."""

import asyncio
import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from dataclasses import asdict

from evaluator.service.images.decode import Broken, Limits, NotAPhoto, TooLarge
from evaluator.service.images.parser import LENGTH
from evaluator.service.images.store import PhotoStore, StoredPhoto, photo_id
from evaluator.system.environment import import_path
from evaluator.system.threads import Workers

COMMAND = (sys.executable, "-m", "evaluator.service.images.parser")
_START_SECONDS = 120.0
"""For a process to import what it needs."""
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "SYSTEMROOT")
"""What a parser sees of this process's variables: no tokens and no passwords."""
_KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (TooLarge, NotAPhoto, Broken, OSError)}
_log = logging.getLogger("chromaclick")


class UploadWorkers:
    """Some parsing processes, which start with the first upload or with `start`."""

    def __init__(self, limits: Limits, workers: int = 2, most_waiting: int = 8) -> None:
        self.limits = limits
        self._parsers = [_Parser() for _ in range(workers)]
        self._idle: queue.LifoQueue[_Parser] = queue.LifoQueue()
        for parser in self._parsers:
            self._idle.put(parser)
        self._threads = Workers("the upload queue", workers, most_waiting, limits.seconds)

    async def start(self) -> None:
        """Start the processes now, so that the first upload does not wait for them; returns at once."""
        await asyncio.to_thread(lambda: [parser.start() for parser in self._parsers])

    async def parse_into(self, store: PhotoStore, data: bytes, keep_colours: bool) -> StoredPhoto:
        """Parse an upload and store it.

        Raises:
            TooLarge, NotAPhoto: see `evaluator.service.images.decode.parse`.
            Broken: as there; also where the parser took too long or died.
            OSError: the store cannot be written.
            Overloaded: too many uploads wait.
        """
        if len(data) > self.limits.most_bytes:  # no need to ask a worker
            have, may = (f"{count / 2**20:.1f} MiB" for count in (len(data), self.limits.most_bytes))
            raise TooLarge(f"the file has {have}; send one of at most {may}")
        return await self._threads.run(self._parse, store, data, keep_colours)

    async def close(self) -> None:
        """End the processes; an upload under way fails."""
        for parser in self._parsers:
            parser.close()
        await asyncio.to_thread(self._threads.close)

    def _parse(self, store: PhotoStore, data: bytes, keep_colours: bool) -> StoredPhoto:
        identity = photo_id(data, keep_colours)
        request = {
            "id": identity,
            "keep_colours": keep_colours,
            "bytes": len(data),
            "limits": asdict(self.limits),
            "folder": str(store.folder.resolve()),
            "most_bytes": store.most_bytes,
            "working_size": store.working_size,
        }
        parser = self._idle.get_nowait()
        try:
            answer = parser.ask(request, data, self.limits.seconds)
        finally:
            self._idle.put(parser)
        if answer:
            raise _KINDS[answer["error"]](answer["detail"])
        return store.get(identity)


class _Parser:
    """One process. Not for two threads at once, but for `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = self._closed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process, where none runs."""
        with self._lock:
            if self._closed or (self._process and self._process.poll() is None):
                return
            self._forget()
            self._ready = False
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # Ctrl-C ends the service first, which then ends this
            )

    def ask(self, request: dict, data: bytes, seconds: float) -> dict[str, str]:
        """What the process answers; empty when the photo is stored. Broken where it does not answer in time."""
        self.start()
        process = self._process
        if process is None:
            raise Broken("the service is ending; send the photo again in a while")
        if not self._ready:
            if "ready" not in self._talk(process, b"", _START_SECONDS):
                raise RuntimeError("the upload worker did not start; its message stands above in the log")
            self._ready = True
        header = json.dumps(request).encode()
        return self._talk(process, LENGTH.pack(len(header)) + header + data, seconds)

    def close(self) -> None:
        """End the process for good."""
        with self._lock:
            self._closed = True
            self._forget()

    def _talk(self, process: subprocess.Popen[bytes], message: bytes, seconds: float) -> dict:
        """Send, and read a line; the process is killed where that takes too long, which ends both."""
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            process.stdin.write(message)
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):  # ValueError: closed by `close`
            line = b""
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            return json.loads(line)
        return self._lost(process, late.is_set(), seconds)

    def _lost(self, process: subprocess.Popen[bytes], late: bool, seconds: float) -> dict[str, str]:
        process.kill()
        code = process.wait()
        _log.warning("an upload worker %s and is replaced", "took too long" if late else f"died ({code})")
        self.start()
        why = f"decoding took longer than {seconds:g} s" if late else "the decoder crashed"
        detail = f"the photo cannot be read ({why}); save it again, or send a smaller one"
        return {"error": "Broken", "detail": detail}

    def _forget(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # what was not sent is of no use to anybody
                    pipe.close()
        self._process = None


def _environment() -> dict[str, str]:
    given = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**given, "PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
