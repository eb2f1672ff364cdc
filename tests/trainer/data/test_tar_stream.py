"""Remote shards: HTTP (with and without ranges, and breaking), S3, commands."""

import functools
import hashlib
import http.server
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluator.photos.manifest import ShardError
from trainer.data import cache, storage
from trainer.data.cache import ShardCache
from trainer.data.loader import ShardLoader, photos_from
from trainer.data.reader import open_shards, open_source
from trainer.data.sampling import Lane, blocks_from
from trainer.data.storage import ByteStream, expand, is_photo_member, read_url


class PlainServer(http.server.SimpleHTTPRequestHandler):
    """Knows no ranges and sends everything."""

    def log_message(self, format: str, *args: object) -> None: ...


class RangeServer(PlainServer):
    """Answers byte ranges; `breaks` connections are closed half-way, `failures` requests get a 503."""

    requests: list[str]
    breaks = 0
    failures = 0

    def do_GET(self) -> None:
        kind = type(self)
        wanted = self.headers.get("Range")
        kind.requests.append(f"{self.path} {wanted}")
        if kind.failures:
            kind.failures -= 1
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start, stop = 0, len(content)
        if wanted and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            start, stop = int(found[1]), int(found[2] or len(content) - 1) + 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if kind.breaks and stop - start > 2000:
            kind.breaks -= 1
            stop = start + 1500
        self.wfile.write(content[start:stop])


@pytest.fixture
def serve() -> Iterator[Callable[[Path, type], str]]:
    servers = []

    def start(folder: Path, handler: type) -> str:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
        )
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def range_server() -> type[RangeServer]:
    return type("FreshRangeServer", (RangeServer,), {"requests": []})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.0)


def batches(source: str, count: int = 6, seen: int = 0, **more) -> list[torch.Tensor]:
    loader = ShardLoader(source, 8, 4, shuffle_block=5, **more)
    try:
        return [batch.rgb for batch in islice(loader.batches(seen), count)]
    finally:
        loader.close()


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_without_ranges_gives_the_same_batches_as_the_disk(numbered_shards: Path, serve, workers: int):
    url = serve(numbered_shards, PlainServer)
    local = batches(str(numbered_shards), workers=workers)
    assert equal(batches(f"{url}/set-{{000..002}}.tar", workers=workers), local)
    assert equal(batches(f"{url}/manifest.json", count=3, seen=12, workers=workers), local[3:])


def test_only_the_needed_range_is_asked_for(numbered_shards: Path, serve, range_server):
    url = serve(numbered_shards, range_server)
    assert equal(
        batches(f"{url}/manifest.json", rank=1, world_size=2), batches(str(numbered_shards), rank=1, world_size=2)
    )
    tars = [request for request in range_server.requests if ".tar" in request]
    assert tars
    assert all(re.search(r"bytes=\d+-\d+$", request) for request in tars)


def test_broken_connections_are_resumed_where_they_broke(numbered_shards: Path, serve, range_server):
    url = serve(numbered_shards, range_server)
    range_server.breaks = 3
    range_server.failures = 1
    assert equal(batches(f"{url}/manifest.json"), batches(str(numbered_shards)))
    assert range_server.breaks == 0


def test_a_server_that_keeps_failing_is_named_with_the_number_of_tries(
    numbered_shards: Path, serve, range_server, caplog: pytest.LogCaptureFixture
):
    url = serve(numbered_shards, range_server)
    range_server.failures = 99
    for _ in range(2):
        with pytest.raises(ShardError, match=r"set-000\.tar: cannot read byte 0 in 8 tries: .*503"):
            read_url(f"{url}/set-000.tar")
    assert len(range_server.requests) == 16
    (told,) = caplog.messages  # once a minute, however many readers wait
    assert re.fullmatch(rf"{url}/set-000\.tar: .*503.*; trying again, for two minutes at most", told)


def test_no_row_of_tries_outlasts_the_time_that_a_job_has_to_end(
    numbered_shards: Path, serve, range_server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    range_server.failures = 99
    with pytest.raises(ShardError, match="in 2 tries"):
        read_url(f"{serve(numbered_shards, range_server)}/set-000.tar")


class SilentServer(PlainServer):
    """Accepts requests; after `beginning` bytes of each answer nothing more comes until the client leaves."""

    beginning = 0
    requests: list[str]
    reset = False

    def do_GET(self) -> None:
        kind = type(self)
        kind.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(bytes(kind.beginning))
        self.wfile.flush()
        if kind.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self.connection.recv(1)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("beginning", [0, 100])
def test_a_server_that_stalls_or_resets_is_named_after_all_tries(
    tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch, beginning: int, reset: bool
):
    monkeypatch.setattr(storage, "TIMEOUT_S", 0.1)
    silent = type("Silent", (SilentServer,), {"beginning": beginning, "requests": [], "reset": reset})
    url = serve(tmp_path, silent)
    with pytest.raises(ShardError, match=r"a\.tar: cannot read byte \d+ in 8 tries: .*(timed out|reset|closed)"):
        read_url(f"{url}/a.tar")
    assert 0 < len(silent.requests) <= 8  # this server may be later than a client that waits for 0.1 s


def test_a_trickle_counts_as_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One byte a second would pass every timeout of a socket."""
    clock = map(float, range(0, 10**6, 40))
    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=time.sleep))

    class Trickle:
        def read(self, amount: int, /) -> bytes:
            return b"x"

        def close(self) -> None: ...

    opened = storage.Opened(Trickle(), 10**6, whole=False)
    monkeypatch.setitem(storage.OPENERS, "http", lambda url, start, stop: opened)
    with pytest.raises(ShardError, match=r"in [2-4] tries: only \d+ bytes came in \d+ s"):  # 40 s each and more
        read_url("http://host/a.tar")


def test_a_small_file_that_is_cut_short_is_read_on(numbered_shards: Path, serve, range_server):
    url = serve(numbered_shards, range_server)
    range_server.breaks = 1
    assert read_url(f"{url}/set-000.tar") == (numbered_shards / "set-000.tar").read_bytes()
    assert len(range_server.requests) == 2


def test_pauses_double_and_differ_and_are_a_minute_together(
    monkeypatch: pytest.MonkeyPatch, serve, numbered_shards: Path, range_server
):
    pauses: list[float] = []
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
    url = serve(numbered_shards, range_server)
    range_server.failures = 9
    with pytest.raises(ShardError):
        read_url(f"{url}/set-000.tar")
    assert len(pauses) == 7
    assert 30 < sum(pauses) < 100
    assert all(0.25 * 2**n <= pause <= 0.75 * 2**n for n, pause in enumerate(pauses))


def asked(server: type[RangeServer]) -> list[tuple[str, int, int]]:
    """Path, first and last byte of every range of a tar."""
    found = [re.fullmatch(r"(\S+\.tar) bytes=(\d+)-(\d+)", request) for request in server.requests]
    return [(match[1], int(match[2]), int(match[3])) for match in found if match]


def test_a_resumed_training_asks_only_for_what_was_not_seen(tmp_path: Path, make_shards, serve, range_server):
    folder = make_shards(tmp_path, [20, 20])
    shards = open_shards(f"{serve(folder, range_server)}/manifest.json")
    block = next(blocks_from(0, 25, Lane(0, 1), shards.counts, 40))
    row = [(piece.shard, index) for piece in block.pieces for index in range(piece.start, piece.stop)]
    left = {row[place] for place in block.order[25:]}
    source = open_source(shards)
    opened = next(source.opened(iter([block])))
    assert {(sample.shard, sample.index) for sample in map(opened.fetch, block.order[25:])} == left
    source.close()
    sizes = [shards.manifest.shards[shard].sizes[index] for shard, index in left]
    ranges = asked(range_server)
    assert len(ranges) <= len(left)
    # Nothing but the photos, each with its header, and the padding between neighbors.
    assert sum(last + 1 - first for _, first, last in ranges) <= sum(size + 1024 for size in sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_run_reads_cached_shards_from_the_disk(
    numbered_shards: Path, tmp_path: Path, serve, range_server, workers: int
):
    url = serve(numbered_shards, range_server)
    cached = {"cache": str(tmp_path / "cache"), "workers": workers}
    local = batches(str(numbered_shards))
    assert equal(batches(f"{url}/manifest.json", **cached), local)
    assert asked(range_server)
    range_server.requests.clear()
    assert equal(batches(f"{url}/manifest.json", **cached), local)
    assert not asked(range_server)


def test_a_missing_remote_shard_is_named_and_not_tried_again(
    tmp_path: Path, make_shards: Callable, serve, range_server
):
    folder = make_shards(tmp_path, [4])
    url = serve(folder, range_server)
    (folder / "set-000.tar").unlink()
    with pytest.raises(ShardError, match=r"set-000\.tar: the server answers 404"):
        batches(f"{url}/manifest.json")
    tars = [request for request in range_server.requests if ".tar" in request]
    assert len(tars) == len(set(tars))


def test_a_truncated_remote_shard_is_named(tmp_path: Path, make_shards: Callable, serve, range_server):
    folder = make_shards(tmp_path, [4])
    url = serve(folder, range_server)
    content = (folder / "set-000.tar").read_bytes()
    (folder / "set-000.tar").write_bytes(content[:3000])
    with pytest.raises(ShardError, match=rf"has 3000 bytes, its manifest says {len(content)}"):
        batches(f"{url}/manifest.json")


def test_a_replaced_shard_of_the_same_size_is_found_out(tmp_path: Path, make_shards: Callable):
    folder = make_shards(tmp_path, [4])
    content = bytearray((folder / "set-000.tar").read_bytes())
    content[:512] = bytes(512)
    (folder / "set-000.tar").write_bytes(content)
    with pytest.raises(ShardError, match=r"set-000\.tar: photo 0 is not where its manifest says"):
        photos_from(str(folder), 8)


def pipes(folder: Path, command: str) -> str:
    """A manifest whose shards are commands' output."""
    manifest = (folder / "manifest.json").read_text()
    return re.sub(r'"name": "(set-\d+\.tar)"', rf'"name": "pipe:{command} {folder}/\1"', manifest)


def with_new_hash(text: str) -> str:
    content = json.loads(text)
    keys = ("name", "bytes", "sha256", "starts", "sizes")
    shards = [{key: shard[key] for key in keys} for shard in content["shards"]]
    content["hash"] = hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()
    return json.dumps(content)


def test_commands_give_the_same_batches_as_the_disk(numbered_shards: Path, tmp_path: Path):
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(numbered_shards, "cat")))
    assert equal(batches(str(tmp_path / "pipes.json")), batches(str(numbered_shards)))


@pytest.mark.parametrize("room", [10**9, 1])
def test_a_command_is_not_begun_again_for_each_block_where_the_cache_is_full(
    tmp_path: Path, make_shards: Callable, monkeypatch: pytest.MonkeyPatch, room: int
):
    monkeypatch.setattr(cache, "PART", 1000)
    folder = make_shards(tmp_path, [40])
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(folder, f"echo >> {tmp_path}/begun; cat")))
    shards = open_shards(str(tmp_path / "pipes.json"))
    source = open_source(shards, ShardCache(tmp_path / "cache", room, shards.manifest.shards))
    blocks = islice(blocks_from(0, 0, Lane(0, 1), shards.counts, 4), 10)
    assert len(list(source.opened(blocks))) == 10
    source.close()
    assert len((tmp_path / "begun").read_text()) <= 2  # the second time when there turned out to be no room


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [False, True])
def test_a_command_runs_once_for_each_tar(
    tmp_path: Path, make_shards: Callable, monkeypatch: pytest.MonkeyPatch, workers: int, kept: bool
):
    """However many lanes and workers read it, through the cache or without one."""
    monkeypatch.setattr(cache, "PART", 1000)
    folder = make_shards(tmp_path / "set", [20, 20])
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(folder, f"echo >> {tmp_path}/begun; cat")))
    folder_of_cache = str(tmp_path / "cache") if kept else None
    found = batches(str(tmp_path / "pipes.json"), count=20, workers=workers, cache=folder_of_cache)
    assert equal(found, batches(str(folder), count=20))
    assert len((tmp_path / "begun").read_text()) == 2


@pytest.mark.parametrize(
    "command",
    [
        "test -e {once} || {{ touch {once}; exit 7; }}; cat",
        "test -e {once} || {{ touch {once}; head -c 3000 {set}/*0.tar; exit; }}; cat",
    ],
    ids=["fails", "ends early"],
)
def test_a_command_that_breaks_once_is_run_again(tmp_path: Path, make_shards: Callable, command: str):
    folder = make_shards(tmp_path / "set", [12])
    command = command.format(once=tmp_path / "once", set=folder)
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(folder, command)))
    assert equal(batches(str(tmp_path / "pipes.json")), batches(str(folder)))


def test_a_program_that_is_not_there_is_not_tried_again(caplog: pytest.LogCaptureFixture):
    with pytest.raises(ShardError, match=r"exit code 127; check that the program is installed"):
        read_url("pipe:no-such-program-anywhere")
    assert not caplog.messages


def test_a_silent_command_is_ended_and_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "PATIENCE_S", 0.05)
    with pytest.raises(ShardError, match=r"pipe:sleep 60: cannot read byte 0.*wrote nothing"):
        read_url("pipe:sleep 60")


def test_a_failing_command_is_named_with_its_exit_code(numbered_shards: Path, tmp_path: Path):
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(numbered_shards, "exit 3; cat")))
    with pytest.raises(ShardError, match=r"pipe:exit 3.*the command failed with exit code 3"):
        batches(str(tmp_path / "pipes.json"))


def test_a_command_that_fails_before_the_first_byte_wanted_leaves_no_open_pipe(monkeypatch: pytest.MonkeyPatch):
    begun: list[subprocess.Popen] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(ShardError, match="exit code 3"):
        ByteStream("pipe:exit 3", position=100).read(1)
    assert [process.stdout.closed for process in begun if process.stdout] == [True] * storage.ATTEMPTS


def test_a_command_that_ends_early_is_a_shard_cut_short(numbered_shards: Path, tmp_path: Path):
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(numbered_shards, "head -c 1000")))
    with pytest.raises(ShardError, match=r"head -c 1000 .*cut short"):
        batches(str(tmp_path / "pipes.json"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, numbered_shards: Path) -> Iterator[str]:
    boto3 = pytest.importorskip("boto3", reason="s3:// needs the [cluster] extra")
    server_module = pytest.importorskip("moto.server", reason="the S3 test needs moto[server]")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for path in numbered_shards.iterdir():
        client.upload_file(str(path), "photos", f"set/{path.name}")
    yield "s3://photos/set"
    server.stop()


@pytest.mark.training
def test_s3_gives_the_same_batches_as_the_disk(bucket: str, numbered_shards: Path):
    local = batches(str(numbered_shards))
    assert equal(batches(f"{bucket}/set-{{000..002}}.tar"), local)
    assert equal(batches(f"{bucket}/manifest.json", count=2, seen=16), local[4:])
    with pytest.raises(ShardError, match=r"set/nothing\.tar: .*check the URL"):
        read_url(f"{bucket}/nothing.tar")


def test_an_s3_server_that_is_away_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    """It is being started again, say; one whose certificate is wrong stays so."""
    pytest.importorskip("boto3", reason="s3:// needs the [cluster] extra")
    from botocore.exceptions import SSLError

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ShardError, match=r"in 8 tries: Could not connect to the endpoint"):
        read_url("s3://photos/set/a.tar")

    class Distrusted:
        def get_object(self, **options: object) -> None:
            raise SSLError(endpoint_url="https://host", error="certificate verify failed")

    monkeypatch.setattr(storage, "_s3_client", Distrusted)
    with pytest.raises(ShardError, match=r"certificate verify failed"):
        read_url("s3://photos/set/a.tar")


def test_without_boto3_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ShardError, match=r"pip install -e '\.\[cluster\]'"):
        read_url("s3://bucket/key")


def test_a_stream_reads_on_from_any_byte(tmp_path: Path):
    (tmp_path / "file").write_bytes(bytes(range(100)))
    stream = ByteStream(str(tmp_path / "file"), 10)
    assert stream.read(2) == bytes([10, 11])
    stream.skip_to(50)
    assert stream.read(1) == bytes([50])
    with pytest.raises(ShardError, match="ends at byte 100, 1 bytes too early"):
        stream.read(50)
    stream.close()


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ShardError, match="nothing: cannot be opened: No such file"):
        read_url(str(tmp_path / "nothing"))


def test_braces_expand_in_every_url():
    assert expand(["a-{08..10}.tar", "b.tar"]) == ["a-08.tar", "a-09.tar", "a-10.tar", "b.tar"]


@pytest.mark.parametrize(
    ("name", "photo"),
    [
        ("a/1.jpg", True),
        ("1.JPEG", True),
        ("2019.07.04 picnic.jpg", True),
        ("v1.2/a.webp", True),
        ("1.jpg.json", False),
        ("a.jpg/README", False),
        (".jpg", False),
    ],
)
def test_a_photo_is_told_by_its_last_suffix(name: str, photo: bool):
    assert is_photo_member(name) is photo


def test_nothing_can_be_unpickled_on_the_way():
    from webdataset import utils

    assert vars(utils)["enforce_security"] is True
    assert set(storage.OPENERS) == {"file", "http", "https", "s3", "pipe"}
