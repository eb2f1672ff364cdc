import hashlib
import io
import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from PIL import Image

from evaluator.photos.decode import decode_square
from evaluator.photos.prefetch import Cut, LeftOut, Ready, read_ahead


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


class InMemory:
    fingerprint = ""

    def __init__(self, photos: Mapping[str, bytes | Exception]):
        self.names, self._photos = list(photos), list(photos.values())
        self.started, self.lock = 0, threading.Lock()

    def read(self, index: int) -> bytes:
        with self.lock:
            self.started += 1
        found = self._photos[index]
        if isinstance(found, Exception):
            raise found
        return found


def load(photos: Mapping[str, bytes | Exception], cut: Cut) -> dict[str, Ready | LeftOut]:
    source = InMemory(photos)
    found = list(read_ahead(source, range(len(photos)), cut, workers=2, depth=3))
    return {source.names[item.index]: item for item in found}


def grey_photo() -> bytes:
    rows = np.linspace(0, 255, 50 * 60).reshape(50, 60).astype(np.uint8)
    return saved(Image.fromarray(np.dstack([rows] * 3)), "JPEG")


def test_what_cannot_be_measured_is_named_with_its_reason(jpeg: Callable):
    found = load(
        {
            "good": jpeg(0),
            "cut short": jpeg(1)[:300],
            "text": b"no photo",
            "gone": OSError("disk gone"),
            "encrypted": RuntimeError("encrypted, password required"),
            "two": saved(Image.new("RGB", (2, 2), "red")),
            "grey": grey_photo(),
        },
        Cut(size=24),
    )
    reasons = {name: item.reason for name, item in found.items() if isinstance(item, LeftOut)}
    assert list(found) == ["good", "cut short", "text", "gone", "encrypted", "two", "grey"]
    assert set(reasons) == set(found) - {"good"}
    assert reasons["text"] == "unreadable: no image in a format that Pillow reads"
    assert reasons["gone"] == "unreadable: disk gone"
    assert reasons["two"] == "tiny: 2 x 2 pixels, a side below 16"
    assert reasons["grey"].startswith("grey: at least 99.9%")


def test_a_good_photo_comes_with_its_square_and_hash(jpeg: Callable):
    item = load({"good": jpeg(0)}, Cut(size=24))["good"]
    assert isinstance(item, Ready)
    assert torch.equal(item.rgb, decode_square(jpeg(0), 24))
    assert item.sha256 == hashlib.sha256(jpeg(0)).hexdigest()
    assert not item.enlarged


def test_grey_and_tiny_photos_are_measured_when_asked_for():
    found = load(
        {"grey": grey_photo(), "two": saved(Image.new("RGB", (2, 2), "red"))},
        Cut(size=24, least_side=2, grey=True),
    )
    assert all(isinstance(item, Ready) for item in found.values())
    assert isinstance(found["two"], Ready)
    assert found["two"].enlarged


def test_a_photo_with_a_little_color_is_no_grey_photo():
    pixels = np.full((100, 100, 3), 90, np.uint8)
    pixels[:10, :10] = (200, 20, 20)
    assert isinstance(load({"dot": saved(Image.fromarray(pixels))}, Cut(size=100))["dot"], Ready)


def test_no_more_photos_wait_than_asked_for(jpeg: Callable):
    source = InMemory({str(number): jpeg(number) for number in range(12)})
    photos = read_ahead(source, range(12), Cut(size=16), workers=2, depth=4)
    next(photos)
    assert source.started <= 4
    photos.close()
    assert source.started <= 4


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="size is 0"):
        Cut(size=0)
