"""The parser of uploads with weak spots: files that make it hang, die, fill its memory or fail, as decoders do."""

import os
import signal

from evaluator.service.images import parser

_parse = parser.parse


def parse(data: bytes, *rest):
    if data == b"hang":
        signal.pause()
    if data == b"die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"memory":
        bytearray(2**33)
    if data == b"variables":
        raise parser.Broken(" ".join(sorted(os.environ)))
    if data == b"surprise":
        raise ZeroDivisionError
    if data == b"print":
        os.write(1, b'{"error": "OSError", "detail": "printed"}\n')
        raise parser.NotAPhoto("printed something first")
    return _parse(data, *rest)


if __name__ == "__main__":
    parser.parse = parse
    parser.main()
