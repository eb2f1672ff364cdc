"""Remote shards: HTTP (with and without ranges, and breaking), S3, commands."""

import functools
import hashlib
import http.server
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from evaluator.photos.manifest import ShardError
from trainer.data import tar_stream, url_openers
from trainer.data.loader import ShardLoader, photos_from
from trainer.data.tar_stream import ByteStream, expand, is_photo_member, read_url


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
    monkeypatch.setattr(tar_stream, "FIRST_PAUSE_S", 0.0)


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


def test_a_server_that_keeps_failing_is_named_with_the_number_of_tries(numbered_shards: Path, serve, range_server):
    url = serve(numbered_shards, range_server)
    range_server.failures = 99
    with pytest.raises(ShardError, match=r"set-000\.tar: cannot read byte 0 in 5 tries: .*503"):
        read_url(f"{url}/set-000.tar")
    assert len(range_server.requests) == 5


def test_a_missing_remote_shard_is_named_and_not_tried_again(
    tmp_path: Path, make_shards: Callable, serve, range_server
):
    folder = make_shards(tmp_path, [4])
    url = serve(folder, range_server)
    (folder / "set-000.tar").unlink()
    with pytest.raises(ShardError, match=r"set-000\.tar: the server answers 404"):
        batches(f"{url}/manifest.json")
    assert sum(".tar" in request for request in range_server.requests) == 1


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


def test_a_failing_command_is_named_with_its_exit_code(numbered_shards: Path, tmp_path: Path):
    (tmp_path / "pipes.json").write_text(with_new_hash(pipes(numbered_shards, "exit 3; cat")))
    with pytest.raises(ShardError, match=r"pipe:exit 3.*the command failed with exit code 3"):
        batches(str(tmp_path / "pipes.json"))


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


def test_s3_gives_the_same_batches_as_the_disk(bucket: str, numbered_shards: Path):
    local = batches(str(numbered_shards))
    assert equal(batches(f"{bucket}/set-{{000..002}}.tar"), local)
    assert equal(batches(f"{bucket}/manifest.json", count=2, seen=16), local[4:])
    with pytest.raises(ShardError, match=r"set/nothing\.tar: .*check the URL"):
        read_url(f"{bucket}/nothing.tar")


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
    [("a/1.jpg", True), ("1.JPEG", True), ("1.seg.png", False), ("1.json", False), ("README", False)],
)
def test_photos_are_told_by_webdataset_s_rule(name: str, photo: bool):
    assert is_photo_member(name) is photo


def test_nothing_can_be_unpickled_on_the_way():
    from webdataset import utils

    assert vars(utils)["enforce_security"] is True
    assert set(url_openers.OPENERS) == {"file", "http", "https", "s3", "pipe"}
