"""`python -m evaluator colorize`: color a photo in full size from the command line, with the service's parts."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from evaluator import weights
from evaluator.photos.reading import MAX_PIXELS
from evaluator.registry.mlflow_registry import default_tracking_uri, load_colorizer, load_guide
from evaluator.registry.networks import LoadedColorizer, LoadedGuide
from evaluator.registry.session import PhotoSession
from evaluator.service.api.schemas import Click, HexColor, Project, ProjectClick
from evaluator.service.api.state import full_pixel, working_pixel
from evaluator.service.errors import Problem
from evaluator.service.images.decode import Limits, parse
from evaluator.service.images.store import PhotoStore, StoredPhoto, photo_id
from evaluator.service.inference.click_map import PlacedClick, click_map
from evaluator.service.inference.gamut import ab_of
from evaluator.service.inference.suggest import peaks
from evaluator.service.rendering.export import ExportFormat, render
from evaluator.system.files import write_atomically
from evaluator.system.threads import use_threads
from kernels.clicks import clicked

FORMATS: dict[str, ExportFormat] = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip
"""By the ending of --out."""
_CLICK = re.compile(r"(\d{1,6}),(\d{1,6}),(#[0-9a-fA-F]{6})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Color a photo of any size from clicks, and say where to click next."""

    photo: tyro.conf.Positional[Path]
    """JPEG, PNG, WebP, TIFF or HEIC. Its own colors are not looked at."""
    out: Path
    """File to write: .png, .jpg, or .tif (CIELab with 16 bits, which keeps the lightness bit by bit)."""
    colorizer: str = weights.SHIPPED
    """What colors: shipped, models:/NAME@ALIAS, models:/NAME/VERSION, a model folder, or a .pt2 file."""
    guide: str = weights.SHIPPED
    """What --suggest asks, as --colorizer; it must be blind."""
    click: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """ROW,COL,#RRGGBB in pixels of the upright photo, after PHOTO; several, or the flag again."""
    clicks: Path | None = None
    """JSON file of clicks before those: a list as /v1/colorize takes it, or a project of the page."""
    suggest: int = 0
    """Print so many places where the next click helps most."""
    working_size: int = 256
    """Long side at which the networks see the photo, in pixels."""
    quality: int = 95
    """Of a JPEG, 1 to 100."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    work: Path = Path("runs")
    """Work folder whose mlflow.db is the registry where MLFLOW_TRACKING_URI is not set."""


class Colored(NamedTuple):
    """Colors of a photo at the working size."""

    clicks: Float[Tensor, "1 3 h w"]
    ab: Float[Tensor, "1 2 h w"]
    features: Tensor | None


def main(words: Sequence[str]) -> int:
    """Color one photo.

    Raises:
        ValueError: a bad photo, click, file name or network; the message says what to do.
        OSError: a file cannot be read or written, or the registry does not answer.
    """
    options = tyro.cli(Options, prog="python -m evaluator colorize", args=list(words))
    check(options)
    use_threads(options.threads)
    clicks = read_clicks(options)
    registry = default_tracking_uri(options.work)
    data = options.photo.read_bytes()
    upright = parse(data, Limits(most_bytes=len(data), most_pixels=MAX_PIXELS), keep_colours=False)
    with tempfile.TemporaryDirectory(prefix="colorize-") as scratch:
        photo = PhotoStore(Path(scratch), 2**40, options.working_size).put(photo_id(data, False), upright)
        pixels = placed(photo, clicks)
        colorizer = load_colorizer(options.colorizer, registry)
        guide = load_guide(options.guide, registry) if options.suggest else None
        if guide is not None:
            guide.check_reads(colorizer)
            if guide.contract.variant != "blind":
                raise ValueError(f"{options.guide} is an oracle guide, which needs the truth; give a blind one")
        colored = color(photo, clicks, pixels, colorizer)
        content = render(photo, colored.ab, FORMATS[options.out.suffix.lower()], options.quality)
    write_atomically(options.out, content)
    print(f"{options.out}: {photo.width} x {photo.height} pixels, {len(clicks)} clicks, by {colorizer.source}")
    if guide is not None:
        print(f"next places by {guide.source}:")
        for row, col, share in suggested(photo, colored, guide, options.suggest):
            print(f"  row {row}, column {col} ({share:.0%})")
    return 0


def placed(photo: StoredPhoto, clicks: Sequence[Click]) -> list[tuple[int, int]]:
    """Row and column of each click at the working size.

    Raises:
        ValueError: one lies outside the photo.
    """
    try:
        return [working_pixel(photo, click.row, click.col, number) for number, click in enumerate(clicks, 1)]
    except Problem as problem:
        raise ValueError(problem.detail) from problem


def color(
    photo: StoredPhoto, clicks: Sequence[Click], pixels: Sequence[tuple[int, int]], colorizer: LoadedColorizer
) -> Colored:
    """Colors of a photo under clicks at these pixels, at the working size."""
    hint_size = colorizer.contract.hint_size
    largest = hint_size if isinstance(hint_size, int) else hint_size[1]
    sized = [
        PlacedClick(*pixel, ab_of(click.colour), click.size or largest)
        for pixel, click in zip(pixels, clicks, strict=True)
    ]
    written = click_map(sized, *photo.working.shape[-2:])
    return Colored(written, *PhotoSession(colorizer, photo.working).look(written))


@torch.no_grad()
def suggested(
    photo: StoredPhoto, colored: Colored, guide: LoadedGuide, count: int
) -> list[tuple[int, int, float]]:
    """Positions (row, col) in the photo and shares of the heat map of the best next clicks."""
    features = colored.features if guide.reads_features else None
    logits = guide(photo.working, colored.ab, colored.clicks, features=features)
    found = peaks(logits[0] / (guide.contract.temperature or 1.0), clicked(colored.clicks)[0], count)
    return [(*full_pixel(photo, place.row, place.col), place.probability) for place in found]


def check(options: Options) -> None:
    """Raise a ValueError for an unusable file name or number."""
    if options.out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out is {options.out}; end it in one of {', '.join(FORMATS)}")
    if not options.photo.is_file():
        raise ValueError(f"there is no photo {options.photo}; name a file")
    if options.out.exists() and options.out.samefile(options.photo):
        raise ValueError(f"--out is the photo itself, {options.out}; name another file")
    for flag, value, least in (("suggest", options.suggest, 0), ("working-size", options.working_size, 16)):
        if value < least:
            raise ValueError(f"--{flag} is {value}; it must be at least {least}")


def read_clicks(options: Options) -> list[Click]:
    """Clicks of the file, then those of the command line.

    Raises:
        ValueError: one that is none.
    """
    read = [] if options.clicks is None else _in_file(options.clicks)
    return [*read, *(_click(word) for words in options.click for word in words)]


def _click(word: str) -> Click:
    if not (found := _CLICK.fullmatch(word)):
        raise ValueError(f"--click is {word[:80]!r}; write ROW,COL,#RRGGBB, such as 120,340,#b5651d")
    return Click(row=int(found[1]), col=int(found[2]), colour=HexColor(hex=found[3]))


def _in_file(file: Path) -> Sequence[Click]:
    if not file.is_file():
        raise ValueError(f"there is no file of clicks {file}; name a JSON file")
    content = file.read_bytes()
    try:
        if content.lstrip().startswith(b"{"):
            return Project.model_validate_json(content).clicks
        return TypeAdapter(list[ProjectClick]).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"]) or "its beginning"
        raise ValueError(f"{file} at {at}: {first['msg']}; give clicks as /v1/colorize takes them") from error
