"""A client as infra/README.md asks for: what a dying or full service did not answer is sent again."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx

WORTH_ANOTHER_TRY = (429, 500, 502, 503, 504)
"""500: Ray's answer for the requests that a replica took with it. Sending one again changes nothing else."""


@dataclass(frozen=True)
class Answered:
    """An answer, and what it took."""

    response: httpx.Response
    tries: int
    seconds: float


def ask(client: httpx.Client, path: str, content: dict[str, Any], deadline: float) -> Answered:
    """Send until there is an answer that will not change, at most `deadline` seconds.

    Raises:
        TimeoutError: there was none; the message has what came instead.
    """
    started, tries, last = time.monotonic(), 0, "nothing"
    while (left := started + deadline - time.monotonic()) > 0:
        tries += 1
        pause = 0.1
        try:
            response = client.post(path, json=content, timeout=left)
        except httpx.TransportError as error:  # also a connection that broke in the middle
            last = repr(error)
        else:
            if response.status_code not in WORTH_ANOTHER_TRY:
                return Answered(response, tries, time.monotonic() - started)
            last = f"{response.status_code} {response.text[:200]}"
            pause = float(response.headers.get("Retry-After", pause))
        threading.Event().wait(min(pause, left))
    raise TimeoutError(f"no answer within {deadline} s in {tries} tries; the last one gave {last}")
