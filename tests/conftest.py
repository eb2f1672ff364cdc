"""Settings and small data sets for all tests.

Without a GPU, Triton's kernels run under its interpreter, which must be chosen before they are defined. The data
sets are made with the standard library, NumPy and Pillow alone, so that they can check our own writers.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import ROOT

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # threads that wait for each other on busy cores take many times as long
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def alexnet_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME that holds AlexNet's convolutions, from the weights beside the repository."""
    install = ROOT.parent / "shared" / "weights" / "install.py"
    if not install.exists():
        pytest.skip("AlexNet's weights are not here (../shared/weights); nothing may be downloaded in tests")
    home = tmp_path_factory.mktemp("torch_home")
    subprocess.run([sys.executable, str(install), str(home)], check=True, capture_output=True)
    return home


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """`jpeg(seed, width, height)`: a gradient with noise."""

    def make(seed: int, width: int = 48, height: int = 40, quality: int = 90) -> bytes:
        noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
        rows, cols = np.mgrid[0:height, 0:width]
        ramp = np.stack((rows * 255 / height, cols * 255 / width, (rows + cols + 40 * seed) % 256), axis=-1)
        file = io.BytesIO()
        Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        return file.getvalue()

    return make


def plain_jpeg(number: int) -> bytes:
    """A photo of one color that tells its number (0 ... 1023), whatever the crop."""
    color = (number % 8 * 32 + 16, number // 8 % 8 * 32 + 16, number // 64 * 16 + 8)
    file = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


@pytest.fixture(scope="session")
def numbers_of() -> Callable[..., list[int]]:
    """`numbers_of(batch.rgb)`: the numbers of one-colored photos."""

    def read(rgb) -> list[int]:
        means = rgb.float().mean(dim=(2, 3))
        red, green, blue = (means / means.new_tensor([32, 32, 16])).int().unbind(1)
        return (red + 8 * green + 64 * blue).tolist()

    return read


def write_shards(folder: Path, shards: Sequence[Sequence[tuple[str, bytes]]]) -> Path:
    """Tars and their manifest, as `tarfile` itself sees them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, members in enumerate(shards):
        path = folder / f"set-{number:03d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in members:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        with tarfile.open(path) as tar:
            found = tar.getmembers()
        content = path.read_bytes()
        entries.append(
            {
                "name": path.name,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "starts": [member.offset_data for member in found],
                "sizes": [member.size for member in found],
            }
        )
    # The hash is documented as sha256 of the shards' sorted JSON.
    canonical = json.dumps(entries, sort_keys=True)
    manifest = {
        "format": 1,
        "samples": sum(map(len, shards)),
        "image_sizes": {"short_side": [16, 16, 16], "long_side": [20, 20, 20]},
        "hash": hashlib.sha256(canonical.encode()).hexdigest(),
        "shards": [entry | {"samples": len(entry["starts"])} for entry in entries],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., Path]:
    """`make_shards(folder, counts, broken=())`: numbered one-colored photos; those in `broken` are cut short."""

    def make(folder: Path, counts: Sequence[int], broken: Sequence[int] = ()) -> Path:
        shards, number = [], 0
        for count in counts:
            numbers = range(number, number + count)
            photos = [(f"photo{n:04d}.jpg", plain_jpeg(n)) for n in numbers]
            shards.append(
                [
                    (name, data[:200] if n in broken else data)
                    for n, (name, data) in zip(numbers, photos, strict=True)
                ]
            )
            number += count
        return write_shards(folder, shards)

    return make


@pytest.fixture(scope="session")
def numbered_shards(tmp_path_factory: pytest.TempPathFactory, make_shards: Callable[..., Path]) -> Path:
    """Three shards of 7, 12 and 4 photos."""
    return make_shards(tmp_path_factory.mktemp("numbered"), [7, 12, 4])
