"""How well colors come back from a small photo: the service's way, the guided filter and bilinear, side by side.

    python -m tests.benchmarks upsampling --photos val2017.zip [--working 256 128 64 32] [--limit N] [--json FILE]

Each photo's true ab is made smaller and brought back with the help of its lightness. Delta E 2000 is a mean over
pixels, then over photos; bleeding, across strong edges, a mean over the photos that have some.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.metrics.bleeding import BLEEDING_SIDE, bleeding
from evaluator.metrics.color import delta_e_2000
from evaluator.photos.dataset import open_photos
from evaluator.photos.decode import decode_rgb
from evaluator.service.images.store import fitted
from evaluator.service.rendering.upsample import linear_fit, upsample_ab, window_mean
from kernels.color import AB_SCALE, rgb_to_lab
from tests.benchmarks.harness import Goal, Refused, at_most, report

OURS = "detail"
"""The way that the service takes."""
RADIUS, EPSILON = 2, 1e-3
"""Of the guided filter; found on photos of the training set."""
TOLERANCE = 1e-3
"""In CIE units, of what is checked before anything is measured."""

Found = dict[tuple[int, str], list[tuple[float, float, float, float]]]
"""Delta E, bleeding, seconds per million pixels and enlargement of each photo."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare the ways to enlarge colors."""

    photos: Path
    """Folder or zip of photos, or shards with their manifest."""
    working: tuple[int, ...] = (256, 128, 64, 32)
    """Long sides of the small photos, in pixels; photos that are not larger are left out."""
    limit: int | None = None
    """Take only the first so many photos."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the report to this file."""

    def __post_init__(self) -> None:
        if not self.working or min(self.working) < 2:
            raise ValueError(f"--working is {self.working}; give long sides of at least 2 pixels")


def bilinear(ab: Tensor, small: Tensor, large: Tensor) -> Tensor:
    """Without the help of lightness."""
    return interpolate(ab, size=large.shape[-2:], mode="bilinear", align_corners=False)


def guided(ab: Tensor, small: Tensor, large: Tensor) -> Tensor:
    """The fast guided filter (He and Sun 2015, "Fast Guided Filter", arXiv 1505.00996).

    ab is fitted as a linear function of lightness around each small pixel; the functions are averaged, enlarged,
    and applied to the large photo's lightness. What ab does within a window and lightness does not is lost, which
    costs more than the sharper edges are worth.
    """
    functions = window_mean(torch.cat(linear_fit(ab, small, RADIUS, EPSILON), dim=1), RADIUS)
    slopes, offsets = bilinear(functions, small, large).split(2, dim=1)
    return (offsets + slopes * large).clamp(-1, 1)


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    OURS: upsample_ab,
    "guided": guided,
    "bilinear": bilinear,
}
"""From the small ab and lightness, and the large lightness, to the large ab."""


def lab_photos(source: Path, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Lightness and ab of each photo that is large enough for bleeding."""
    photos = open_photos(source, limit)
    for index in range(len(photos.names)):
        rgb = decode_rgb(photos.read(index))
        if min(rgb.shape[1:]) >= BLEEDING_SIDE:
            yield rgb_to_lab(rgb[None])


def check() -> None:
    """Compare every way with what must come out where that is known.

    Raises:
        Refused: it names a way that is wrong and by how much.
    """
    generator = torch.Generator().manual_seed(0)
    small, large = torch.rand(1, 1, 30, 41, generator=generator), torch.rand(1, 1, 97, 133, generator=generator)
    ab = torch.rand(1, 2, 30, 41, generator=generator) - 0.5
    flat = torch.tensor([0.3, -0.2]).view(1, 2, 1, 1).expand_as(ab)
    level = torch.full_like(small, 0.4), torch.full_like(large, 0.4)
    wrong = {f"{OURS} without detail": _apart(METHODS[OURS](ab, *level), METHODS["bilinear"](ab, *level))}
    for name, method in METHODS.items():
        wrong[f"{name} of one color"] = _apart(method(flat, small, large), flat[..., :1, :1])
    for name, difference in wrong.items():
        if not difference <= TOLERANCE:
            raise Refused(f"{name} is {difference:.3g} CIE units off; nothing is measured")


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() * AB_SCALE)


def measure(arguments: Arguments) -> Found:
    """All photos, sizes and ways."""
    found: Found = defaultdict(list)
    for lightness, ab in lab_photos(arguments.photos, arguments.limit):
        height, width = lightness.shape[-2:]
        for working in arguments.working:
            if max(height, width) <= working:
                continue
            size = fitted(height, width, working)
            small_lightness, small_ab = _smaller(lightness, size), _smaller(ab, size)
            for name, method in METHODS.items():
                started = time.perf_counter()
                back = method(small_ab, small_lightness, lightness)
                seconds = (time.perf_counter() - started) * 1e6 / (height * width)
                apart = float(delta_e_2000(lightness, back, lightness, ab).mean())
                smeared = float(bleeding(back, ab))
                found[working, name].append((apart, smeared, seconds, max(height, width) / working))
    if not found:
        raise ValueError(f"no photo of {arguments.photos} is larger than {min(arguments.working)} px")
    return found


def _smaller(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(planes, size=size, mode="bilinear", antialias=True)


def make_rows(found: Found) -> list[dict[str, object]]:
    """One row for each size and way."""
    rows = []
    for (working, method), values in found.items():
        apart, smeared, seconds, enlarged = np.array(values).T
        plain_apart, plain_smeared = np.array(found[working, "bilinear"]).T[:2]
        edges = ~np.isnan(smeared)
        rows.append(
            {
                "working": working,
                "enlarged": float(np.median(enlarged)),
                "method": method,
                "photos": len(values),
                "delta E 2000": float(apart.mean()),
                "beats bilinear, %": 100 * float((apart < plain_apart).mean()),
                "with edges": int(edges.sum()),
                "bleeding": float(smeared[edges].mean()),
                "less bleeding, %": 100 * float((smeared[edges] < plain_smeared[edges]).mean()),
                "ms per Mpx": 1000 * float(np.median(seconds)),
            }
        )
    return rows


def make_goals(rows: list[dict[str, object]]) -> list[Goal]:
    """The service's way is to be no worse than bilinear in color, and to bleed less, at every size."""
    by_name = {(row["working"], row["method"]): row for row in rows}
    goals = []
    for working in dict.fromkeys(row["working"] for row in rows):
        ours, plain = by_name[working, OURS], by_name[working, "bilinear"]
        for name in ("delta E 2000", "bleeding"):
            share = float(ours[name]) / float(plain[name])  # type: ignore[arg-type]
            goals.append(at_most(f"{name}, {OURS} over bilinear, from {working} px, at most", 1.0, share))
    return goals


def main(args: Sequence[str]) -> int:
    """Check, measure, report."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks upsampling", args=args)
    check()
    rows = make_rows(measure(arguments))
    title = f"colors brought back to the photos of {arguments.photos.name}"
    report(title, rows, make_goals(rows), arguments.json)
    return 0
