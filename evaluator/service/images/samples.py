"""Sample photos, from scikit-image."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image


class SampleMissing(ValueError):
    """Raised when there is no sample photo of that name."""


@dataclass(frozen=True)
class _Sample:
    file: str
    title: str
    credit: str


_SAMPLES = {
    "chelsea": _Sample("chelsea.png", "Chelsea the cat", "Stéfan van der Walt, CC0"),
    "coffee": _Sample("coffee.png", "A cup of coffee", "Rachel Michetti, CC0"),
    "astronaut": _Sample("astronaut.png", "Eileen Collins", "NASA, public domain"),
    "rocket": _Sample("rocket.jpg", "A rocket launch", "SpaceX, public domain"),
    "motorcycle": _Sample("motorcycle_left.png", "A motorcycle", "Middlebury 2014 stereo benchmark"),
    "camera": _Sample("camera.png", "The photographer (grey)", "Lav Varshney, CC0"),
}


def listed() -> list[dict[str, object]]:
    """Name, title, width, height and credit of each sample that is installed."""
    return [dict(about) for about in _listed()]


@cache
def _listed() -> tuple[dict[str, object], ...]:
    found = []
    for name, sample in _SAMPLES.items():
        path = _folder() / sample.file
        if path.is_file():
            with Image.open(path) as image:
                size = {"width": image.width, "height": image.height}
            found.append({"name": name, "title": sample.title, **size, "credit": sample.credit})
    return tuple(found)


@cache
def read(name: str) -> bytes:
    """Bytes of a sample's file: JPEG or PNG.

    Raises:
        SampleMissing: no such sample.
    """
    known = [str(about["name"]) for about in _listed()]
    if name not in known:
        raise SampleMissing(f"there is no sample {name[:40]!r}; there are {', '.join(known) or 'none'}")
    return (_folder() / _SAMPLES[name].file).read_bytes()


def _folder() -> Path:
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SampleMissing("scikit-image is not installed; reinstall chromaclick")
    return Path(spec.submodule_search_locations[0]) / "data"
