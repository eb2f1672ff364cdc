"""Worker process that parses uploads, started by `evaluator.service.images.upload`.

It reads requests from its standard input and answers on its standard output, in JSON: whatever a malicious file
does to it, nothing that it sends is code. It ends when its input does.
"""

import json
import logging
import os
import resource
import signal
import struct
import sys
import traceback
from math import ceil
from pathlib import Path
from typing import BinaryIO

import torch

from evaluator.service.images.decode import Broken, Limits, NotAPhoto, TooLarge, parse
from evaluator.service.images.store import PhotoStore

LENGTH = struct.Struct("<I")
"""Of the request that follows: its JSON; then come the photo's bytes."""
_SPARE = 5
"""Seconds beyond the time limit after which the process ends by itself, should nobody have ended it."""
_log = logging.getLogger("chromaclick.parser")


def main() -> None:
    """Answer requests until standard input ends."""
    logging.basicConfig(format="%(name)s: %(message)s")
    torch.set_num_threads(1)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _say(answers, {"ready": True})
    limited = False
    while beginning := requests.read(LENGTH.size):
        request = json.loads(requests.read(LENGTH.unpack(beginning)[0]))
        data = requests.read(request["bytes"])
        limits = Limits(**request["limits"])
        if not limited:
            _limit_memory(limits.most_memory)
            limited = True
        signal.alarm(ceil(limits.seconds) + _SPARE)
        _say(answers, _answer(request, data, limits))
        signal.alarm(0)


def _answer(request: dict, data: bytes, limits: Limits) -> dict[str, str]:
    try:
        photo = parse(data, limits, request["keep_colours"])
        store = PhotoStore(Path(request["folder"]), request["most_bytes"], request["working_size"])
    except (TooLarge, NotAPhoto, Broken) as error:
        return {"error": type(error).__name__, "detail": str(error)}
    except MemoryError:
        return {"error": "TooLarge", "detail": "the photo takes too much memory to decode; send a smaller one"}
    except Exception as error:
        # Decoders raise anything for a damaged file; this process is here so that it stays without consequence.
        _log.error("a photo could not be parsed:\n%s", traceback.format_exc())
        return {"error": "Broken", "detail": f"the photo cannot be read ({type(error).__name__}); save it again"}
    try:
        store.put(request["id"], photo)
    except TooLarge as error:
        return {"error": "TooLarge", "detail": str(error)}
    except OSError as error:
        return {"error": "OSError", "detail": f"the photo cannot be stored: {error}"}
    return {}


def _limit_memory(most: int) -> None:
    """Limit further memory maps to `most` bytes; libraries have mapped gigabytes that they never use."""
    if sys.platform != "linux":
        _log.warning("the memory of the upload workers is bounded on Linux only")
        return
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + most, mapped + most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _say(answers: BinaryIO, answer: dict) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
