"""Images for the page: colored, grey, reference, heat map, uncertainty."""

import io
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.service.images.store import StoredPhoto, fitted
from evaluator.service.rendering.upsample import upsample_ab
from kernels.color import lab_to_uint8

PreviewFormat = Literal["jpeg", "png", "webp"]
_SAVED = {
    "jpeg": {"quality": 90, "subsampling": 0},
    "png": {"compress_level": 1},
    "webp": {"quality": 90, "method": 0},
}
"""What Pillow is told; previews must be quick."""
_HEAT = (255, 64, 0)
"""sRGB of the heat map: one hue; how hot it is shows in its alpha."""
_UNSURE = (64, 32, 255)
"""sRGB of the uncertainty, as of the heat map."""


def encode_preview(
    photo: StoredPhoto, ab: Float[Tensor, "1 2 h w"], long_side: int, format: PreviewFormat = "jpeg"
) -> bytes:
    """The photo with colors, long side at most `long_side` pixels (1024 at most).

    Args:
        photo: gives the lightness, at the size of the preview.
        ab: at the working size, CIE / 128.
        long_side: of the preview.
        format: of the picture.

    Raises:
        ValueError: an unknown format, or a preview that is too large.
    """
    if format not in _SAVED:
        raise ValueError(f"format is {format!r}; take one of {', '.join(_SAVED)}")
    lightness = photo.lightness_at(long_side)
    large = upsample_ab(ab, photo.working, lightness)
    return _saved(_picture(lightness, large), format)


def encode_grey(photo: StoredPhoto, long_side: int) -> bytes:
    """The grey photo as a JPEG."""
    lightness = photo.lightness_at(long_side)
    rgb = lab_to_uint8(lightness, lightness.new_zeros(1, 2, *lightness.shape[-2:]))
    return _saved(Image.fromarray(rgb[0, 0].numpy()), "jpeg")


def encode_reference(photo: StoredPhoto, long_side: int) -> bytes:
    """The photo's own colors as a JPEG.

    Raises:
        ValueError: they were not kept.
        PhotoMissing: the photo has left the store.
    """
    image = Image.fromarray(photo.reference())
    image.thumbnail((long_side, long_side), Image.Resampling.BOX, reducing_gap=None)
    return _saved(image, "jpeg")


def encode_heatmap(photo: StoredPhoto, heat: Float[Tensor, "1 h w"], long_side: int) -> bytes:
    """A heat map as a transparent PNG to lay over the photo: one hue, the hottest place opaque."""
    large = _enlarged(photo, heat, long_side)
    return _overlay(large / large.max().clamp(min=torch.finfo(torch.float32).tiny), _HEAT)


def encode_uncertainty(photo: StoredPhoto, uncertainty: Float[Tensor, "1 h w"], long_side: int) -> bytes:
    """How unsure the colorizer is, 0 to 1, as a transparent PNG to lay over the photo: one hue, opaque at 1.

    Its scale does not depend on the photo: clicks make it paler.
    """
    return _overlay(_enlarged(photo, uncertainty, long_side), _UNSURE)


def _enlarged(photo: StoredPhoto, values: Float[Tensor, "1 h w"], long_side: int) -> Float[Tensor, "H W"]:
    size = fitted(photo.height, photo.width, long_side)
    return interpolate(values[None].float(), size=size, mode="bilinear", align_corners=False)[0, 0]


def _overlay(share: Float[Tensor, "h w"], hue: tuple[int, int, int]) -> bytes:
    """A map in 0 to 1 as the alpha of one hue."""
    picture = np.empty((*share.shape, 4), np.uint8)
    picture[..., :3] = hue
    picture[..., 3] = (share * 255).round().to(torch.uint8).numpy()
    return _saved(Image.fromarray(picture), "png")


def _picture(lightness: Tensor, ab: Tensor) -> Image.Image:
    rgb = lab_to_uint8(lightness, ab)[0].permute(1, 2, 0).contiguous()
    return Image.fromarray(rgb.numpy())


def _saved(image: Image.Image, format: PreviewFormat) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **_SAVED[format])
    return file.getvalue()
