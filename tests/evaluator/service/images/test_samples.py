import hashlib
import io
from pathlib import Path

import pytest
import skimage
from PIL import Image

from evaluator.service.images import samples


def test_the_samples_are_there_with_their_sizes():
    listed = {str(about["name"]): about for about in samples.listed()}
    assert {"chelsea", "coffee", "astronaut", "rocket"} <= set(listed)
    for name, about in listed.items():
        with Image.open(io.BytesIO(samples.read(name))) as image:
            assert (image.width, image.height) == (about["width"], about["height"])
            assert image.format in ("JPEG", "PNG")
        assert about["title"]
        assert about["credit"]


def test_a_sample_is_scikit_image_s_file():
    path = Path(skimage.__file__).parent / "data" / "chelsea.png"
    assert hashlib.sha256(samples.read("chelsea")).digest() == hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("name", ["", "nothing", "../chelsea", "chelsea.png"])
def test_an_unknown_sample_is_told(name):
    with pytest.raises(samples.SampleMissing, match="chelsea"):
        samples.read(name)


def test_samples_that_are_not_installed_are_not_listed(monkeypatch, tmp_path):
    (tmp_path / "chelsea.png").write_bytes(samples.read("chelsea"))
    monkeypatch.setattr(samples, "_folder", lambda: tmp_path)
    samples._listed.cache_clear()
    try:
        assert [about["name"] for about in samples.listed()] == ["chelsea"]
    finally:
        samples._listed.cache_clear()
