"""Grid of photos under clicks: rows of photos, columns of click budgets, every click marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluator.metrics import rgb_psnr
from evaluator.policies import Policy
from evaluator.protocol.rollout import Photos, RolloutStep, before_clicks, rollout
from evaluator.registry.networks import Colorizer
from evaluator.registry.session import PhotoSession
from evaluator.system.threads import each_on_one_core
from kernels.color import lab_to_rgb, to_uint8

CELL = 192
"""Photos are enlarged by a whole number to about this many pixels."""

_GAP, _MARGIN, _GROUP_GAP = 10, 22, 20
_HEADING, _CAPTION, _FOOTER = 32, 30, 34
_PAPER, _INK, _FAINT = "#fbfaf7", "#1d1d1f", "#5c5c62"
_LEGEND = (
    "Dots are clicks in the colour that they carry, large ones since the column to the left. "
    "Below each photo: RGB PSNR (uint8)."
)
_NEW_RADII, _OLD_RADII = (7.5, 6.4, 4.8), (5.2, 4.4, 3.4)
"""Of a marker's black rim, white ring and filling, in pixels."""
_NUMBERED = 2.2
"""A marker with a number in it has a radius larger by this."""
_SMOOTH = 4
"""Markers are drawn this many times larger and shrunk, because PIL draws without anti-aliasing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cell:
    """A photo under one set of clicks."""

    rgb: UInt8[Tensor, "3 h w"]
    caption: str
    positions: Int64[Tensor, " clicks"]
    colors: UInt8[Tensor, "clicks 3"]
    newest: int
    """How many of the clicks came since the cell to the left."""


@torch.no_grad()
def click_grid(
    colorizer: Colorizer,
    policies: Mapping[str, Policy],
    photos: UInt8[Tensor, "n 3 h w"],
    device: torch.device | str = "cpu",
    *,
    clicks: Sequence[int] = (1, 5, 10, 20),
    hint_size: int = 1,
    seed: int = 0,
    first_index: int = 0,
    autocast: torch.dtype | None = None,
    title: str = "",
) -> Image.Image:
    """Draw each photo in grey, after each number of clicks of each policy, and in its true colors.

    Clicks are filled with the color that they carry; those since the column to the left are larger. Under each
    cell stands its RGB PSNR (uint8, peak 255). With the protocol's seed, hint size and `first_index` the clicks
    are those that `evaluator.protocol.evaluate.evaluate` measured.

    Args:
        colorizer: in evaluation mode, on `device`.
        policies: by name; each photo has one row per policy.
        photos: original photos of one size, a handful.
        device: where to compute.
        clicks: rising numbers of clicks, one column each.
        hint_size: side of a hint patch in pixels.
        seed: of the policies' noise.
        first_index: index of `photos[0]` in the whole set.
        autocast: dtype in which to run the colorizer under autocast.
        title: a line at the top.
    """

    def rows_of(number: int) -> dict[str, list[_Cell]]:
        rgb = photos[number : number + 1].to(device)
        batch = Photos.from_rgb(rgb, seed=seed, first_index=first_index + number)
        session = PhotoSession(colorizer, batch.lightness, autocast)
        start = before_clicks(session, batch)
        grey, truth = _grey_cells(batch, rgb), _truth_cells(rgb)
        found = {}
        for name, policy in policies.items():
            steps = rollout(session, policy, batch, start, budgets=clicks, hint_size=hint_size)
            pairs = zip(steps, (0, *clicks[:-1]), strict=True)
            columns = [_colored_cells(batch, rgb, step, placed_before) for step, placed_before in pairs]
            found[name] = [cells[0] for cells in (grey, *columns, truth)]
        return found

    drawn = each_on_one_core(rows_of, range(len(photos)))
    rows = {name: [one[name] for one in drawn] for name in policies}
    headings = ["grey", *(f"{n} click{'s' if n != 1 else ''}" for n in clicks), "truth"]
    return _compose(rows, headings, title)


def _grey_cells(batch: Photos, rgb: Tensor) -> list[_Cell]:
    grey = to_uint8(lab_to_rgb(batch.lightness, torch.zeros_like(batch.truth_ab)))
    return _plain_cells(grey, [_decibel(value) for value in rgb_psnr(grey, rgb).tolist()])


def _truth_cells(rgb: Tensor) -> list[_Cell]:
    return _plain_cells(rgb, [""] * len(rgb))


def _plain_cells(rgb: Tensor, captions: list[str]) -> list[_Cell]:
    none = torch.empty(0, dtype=torch.int64)
    colors = torch.empty(0, 3, dtype=torch.uint8)
    return [
        _Cell(rgb=photo.cpu(), caption=caption, positions=none, colors=colors, newest=0)
        for photo, caption in zip(rgb, captions, strict=True)
    ]


def _colored_cells(batch: Photos, truth: Tensor, step: RolloutStep, placed_before: int) -> list[_Cell]:
    predicted = to_uint8(lab_to_rgb(batch.lightness, step.predicted_ab))
    colors = _click_colors(batch.lightness, step)
    values = rgb_psnr(predicted, truth).tolist()
    return [
        _Cell(
            rgb=predicted[i].cpu(),
            caption=_decibel(values[i]),
            positions=step.positions[i].cpu(),
            colors=colors[i].cpu(),
            newest=step.positions.shape[1] - placed_before,
        )
        for i in range(len(truth))
    ]


def _click_colors(lightness: Float[Tensor, "b 1 h w"], step: RolloutStep) -> UInt8[Tensor, "b clicks 3"]:
    """Displayed color of each click."""
    shown = to_uint8(lab_to_rgb(lightness, step.clicks[:, 1:])).flatten(2)
    index = step.positions[:, None].expand(-1, 3, -1)
    return shown.gather(2, index).transpose(1, 2)


def _decibel(value: float) -> str:
    return f"{value:.2f} dB"


def _compose(rows: Mapping[str, list[list[_Cell]]], headings: Sequence[str], title: str) -> Image.Image:
    """Lay out `rows[policy][photo]`, grouped by photo, between the headings and the legend."""
    photos = len(next(iter(rows.values())))
    height, width = next(iter(rows.values()))[0][0].rgb.shape[-2:]
    scale = max(1, round(CELL / max(height, width)))
    step_x, step_y = width * scale + _GAP, height * scale + _CAPTION
    left = _MARGIN + _GAP + round(max(_font(16).getlength(policy) for policy in rows))
    top = _MARGIN + _HEADING * (2 if title else 1)
    group = len(rows) * step_y + _GROUP_GAP
    bottom = top + photos * group - _GROUP_GAP
    page = Image.new("RGB", (left + len(headings) * step_x + _MARGIN - _GAP, bottom + _FOOTER), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), title, _INK, _font(20), anchor="lt")
    draw.text((left, bottom + 4), _LEGEND, _FAINT, _font(14), anchor="lt")
    for column, heading in enumerate(headings):
        middle = left + column * step_x + width * scale // 2
        draw.text((middle, top - 10), heading, _INK, _font(17), anchor="ms")
    for line, (policy, row) in enumerate(rows.items()):
        for photo, cells in enumerate(row):
            y = top + photo * group + line * step_y
            draw.text((left - _GAP, y + height * scale // 2), policy, _INK, _font(16), anchor="rm")
            for column, cell in enumerate(cells):
                _draw_cell(page, cell, (left + column * step_x, y), scale)
    return page


def marked(
    rgb: UInt8[Tensor, "3 h w"],
    positions: Int64[Tensor, " clicks"],
    colors: UInt8[Tensor, "clicks 3"],
    *,
    newest: int,
    scale: float | int = 1,
    numbered: bool = False,
) -> Image.Image:
    """A photo with its clicks as dots in their colors; later dots cover earlier ones.

    Args:
        rgb: the photo.
        positions: flat indices row * width + col, in the order of the clicks.
        colors: of each click.
        newest: how many of the last clicks get a larger dot.
        scale: size of the picture over that of the photo.
        numbered: write 1, 2, 3, ... into the dots, which are larger then.
    """
    photo = Image.fromarray(rgb.permute(1, 2, 0).numpy())
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    overlay = Image.new("RGBA", (size[0] * _SMOOTH, size[1] * _SMOOTH), (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    for order, (position, color) in enumerate(zip(positions.tolist(), colors.tolist(), strict=True)):
        row, col = divmod(position, photo.width)
        large = order >= len(positions) - newest
        center = ((col + 0.5) * scale * _SMOOTH, (row + 0.5) * scale * _SMOOTH)
        _dot(draw, center, tuple(color), large=large, number=order + 1 if numbered else None)
    page = photo.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    return Image.alpha_composite(page, overlay.resize(size, Image.Resampling.BOX)).convert("RGB")


def _draw_cell(page: Image.Image, cell: _Cell, corner: tuple[int, int], scale: int) -> None:
    photo = marked(cell.rgb, cell.positions, cell.colors, newest=cell.newest, scale=scale)
    page.paste(photo, corner)
    below = (corner[0] + photo.width // 2, corner[1] + photo.height + 4)
    ImageDraw.Draw(page).text(below, cell.caption, _FAINT, _font(14), anchor="mt")


def _dot(
    draw: ImageDraw.ImageDraw,
    center: tuple[float, float],
    filling: tuple[int, ...],
    *,
    large: bool,
    number: int | None,
) -> None:
    """A filled disc with a white ring inside a black rim, visible on any background, and its number."""
    radii, size = (_NEW_RADII, 10) if large else (_OLD_RADII, 8)
    wider = 0.0 if number is None else _NUMBERED
    for radius, color in zip(radii, ((0, 0, 0), (255, 255, 255), filling), strict=True):
        r = (radius + wider) * _SMOOTH
        draw.ellipse((center[0] - r, center[1] - r, center[0] + r, center[1] + r), fill=(*color, 255))
    if number is not None:
        bright = 0.299 * filling[0] + 0.587 * filling[1] + 0.114 * filling[2] > 128  # ITU-R BT.601
        ink = (0, 0, 0, 255) if bright else (255, 255, 255, 255)
        draw.text(center, str(number), ink, _font(size * _SMOOTH), anchor="mm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
