"""The split colorizer: `embed` encodes a photo once, `color` decodes it for each set of clicks.

A U-Net carries a click's color as one pixel of its input through every level; this network looks it up instead.
Every cell of 4 x 4 pixels attends to the clicked cells. The attention starts as a kernel, near in place and alike
in lightness (`evaluator.baselines`), and learns what else makes two places take one color. A small decoder turns
what was found, with the photo's features, into ab at 1/4 of the resolution; convex upsampling (Teed & Deng
2020) brings it to full resolution along edges, and the clicked colors are copied exactly.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kernels.color import AB_SCALE, rgb_to_lab
from trainer.networks.blocks import GlobalContext, Residual, Separable, cells, conv_norm, double, exact, zero_
from trainer.networks.encoder import Encoder, EncoderName

MULTIPLE = 32
"""Height and width must be multiples of this, in pixels."""
CELL = 4
"""Side of a cell in pixels; everything but the last step works on cells."""
PHOTO_WIDTHS = (48, 80, 128, 192)
"""Channels of the photo's features at 1/4, 1/8, 1/16 and 1/32."""
CLICK_WIDTHS = (32, 48, 80)
"""Channels of the decoder at 1/4, 1/8 and 1/16."""
HEADS, KEY_SIZE = 5, 16
"""Attention heads, and the length of their queries and keys."""
BIN_STEP = 10.0
"""Side of the bins of the color distribution, in CIE units of ab."""
_SPREADS = (0.6, 0.06)
"""Standard deviations in place of the first and the last head's kernel, in sides of the photo, at the start."""
_TONE = 0.13
"""Standard deviation in lightness of every head's kernel at the start."""
_NULL_BIAS = -3.0
"""Logit of the null token, which takes the attention of places that no click explains."""
_COPY_SPREAD, _COPY_TONE = 1.0, 0.08
"""Reach of the copy of a click around it: standard deviations in pixels and in lightness."""
_PALETTE_WIDTH = 128
Part = Literal["attention", "kernel", "copy"]
"""What an ablation can leave out: all attention, its start as a kernel, the copy of clicked colors."""
FEATURE_CHANNELS_BESIDE_WIDTHS = HEADS + 2
"""Of `Coloring.features`: how far clicks explain a cell, by head; entropy and spread of its distribution."""


class Embedding(NamedTuple):
    """Encoding of a photo's lightness, independent of clicks; h and w count cells."""

    features: Float[Tensor, "b c h w"]
    base_ab: Float[Tensor, "b 2 h w"]
    """Colors before any click."""
    convex: Float[Tensor, "b 9 16 h w"]
    """Weights of a cell's 3 x 3 neighbors for each of its pixels; they sum to 1."""
    inject_4: Float[Tensor, "b c4 h w"]
    inject_8: Float[Tensor, "b c8 h8 w8"]
    inject_16: Float[Tensor, "b c16 h16 w16"]
    query: Float[Tensor, "b heads k h w"]
    key: Float[Tensor, "b heads k h w"]


class Coloring(NamedTuple):
    """Colors of a photo, and the features that heads read."""

    ab: Float[Tensor, "b 2 H W"]
    features: Float[Tensor, "b c h w"]
    """For `palette` and guide heads, at cells."""


class Training(NamedTuple):
    """Outputs that the training losses use."""

    ab: Float[Tensor, "b 2 H W"]
    base_ab: Float[Tensor, "p 2 H W"]
    """Of each photo without its clicks."""
    bin_logits: Float[Tensor, "b bins n"]
    """Of the color distribution at n places."""


class SplitColorNet(nn.Module):
    """`colorizer(lightness, clicks) -> ab` in two parts that can be called separately."""

    multiple = MULTIPLE
    bell: Tensor

    def __init__(
        self,
        encoder: EncoderName = "fresh",
        photo_widths: Sequence[int] = PHOTO_WIDTHS,
        click_widths: Sequence[int] = CLICK_WIDTHS,
        without: Collection[Part] = (),
    ) -> None:
        """Build a network.

        Args:
            encoder: see `trainer.networks.encoder`.
            photo_widths: channels of the photo's features at 1/4, 1/8, 1/16 and 1/32.
            click_widths: channels of the decoder at 1/4, 1/8 and 1/16.
            without: what an ablation leaves out.

        Raises:
            ValueError: another number of widths, an unknown encoder, or ImageNet's weights are not installed.
        """
        super().__init__()
        if len(photo_widths) != 4 or len(click_widths) != 3 or min(*photo_widths, *click_widths) < 4:
            raise ValueError(
                f"the widths are {tuple(photo_widths)} and {tuple(click_widths)}; give four and three, each at "
                "least 4"
            )
        self.without = frozenset(without)
        photo, click = photo_widths[0], click_widths[0]
        self.encoder = Encoder(encoder, photo_widths)
        self.base = zero_(nn.Conv2d(photo, 2, 1))
        self.convex = zero_(nn.Conv2d(photo, 9 * CELL**2, 1))
        _begin_as_bilinear(self.convex)
        self.inject = nn.ModuleList(
            conv_norm(a, b, 1, relu=False) for a, b in zip(photo_widths, click_widths, strict=False)
        )
        self.query = zero_(nn.Conv2d(photo, HEADS * KEY_SIZE, 1))
        self.key = nn.Conv2d(photo, HEADS * KEY_SIZE, 1)
        if "kernel" in self.without:
            nn.init.normal_(self.query.weight, std=photo**-0.5)
        narrowest, widest = (math.log10(side) for side in _SPREADS)
        spread = torch.logspace(narrowest, widest, HEADS)
        tone = torch.full_like(spread, _TONE)
        flat = 10.0 if "kernel" in self.without else 1.0
        self.sharpness = nn.Parameter(-torch.log(2 * (flat * torch.stack([spread, tone])) ** 2))
        """Logarithms of 1 / (2 sigma^2) of each head's kernel, in place and in lightness."""
        self.null_key = nn.Parameter(torch.zeros(HEADS, KEY_SIZE))
        self.null_bias = nn.Parameter(torch.full((HEADS,), _NULL_BIAS))
        self.decoder = ClickDecoder(click_widths)
        self.palette_channels = click + photo + HEADS
        self.palette = nn.Sequential(
            nn.Conv2d(self.palette_channels, _PALETTE_WIDTH, 1),
            nn.ReLU(),
            nn.Conv2d(_PALETTE_WIDTH, len(color_bins()), 1),
        )
        """From `Coloring.features` to logits of the color of each cell, over `color_bins`."""
        self.feature_channels = click + photo + FEATURE_CHANNELS_BESIDE_WIDTHS
        self.register_buffer("_bins", color_bins().clone(), persistent=False)
        bell = torch.exp(-(torch.arange(-3, 4).float() ** 2) / (2 * _COPY_SPREAD**2))
        self.register_buffer("bell", bell.repeat(CELL, 1, 1, 1), persistent=False)

    @property
    def bins(self) -> Float[Tensor, "bins 2"]:
        """Colors of the bins of `palette`, ab / 128.

        A property, for Python 3.12's `isinstance` with a protocol looks for it in the class, where no buffer is.
        """
        return self.get_buffer("_bins")

    def embed(self, lightness: Float[Tensor, "b 1 H W"]) -> Embedding:
        """Encode photos, independent of clicks."""
        return self(lightness)

    def color(
        self, embedding: Embedding, lightness: Float[Tensor, "p 1 H W"], clicks: Float[Tensor, "b 3 H W"]
    ) -> Coloring:
        """Decode colors for any number of clicks; every clicked pixel gets exactly its color.

        Args:
            embedding: of these photos; of one photo, it serves any number of click maps.
            lightness: CIE L* / 100, of p photos.
            clicks: mask and ab; b a multiple of p.
        """
        return self(lightness, clicks, embedding, features=True)

    def _embed(self, lightness: Float[Tensor, "b 1 H W"]) -> Embedding:
        """See `embed`.

        Places are measured alike along both axes, in mean sides of the photo, so that a kernel is round on photos
        of any shape.
        """
        features, eighth, sixteenth = self.encoder(lightness)
        batch, _, height, width = features.shape
        base_ab = torch.tanh(exact(self.base(features)))
        convex = exact(self.convex(features)).view(batch, 9, CELL**2, height, width).softmax(1)
        injected = [layer(x) for layer, x in zip(self.inject, (features, eighth, sixteenth), strict=True)]
        query, key = (
            exact(layer(features)).view(batch, HEADS, KEY_SIZE, height, width) for layer in (self.query, self.key)
        )
        query = query / math.sqrt(KEY_SIZE)
        where = _coordinates(features).expand(batch, HEADS, 2, height, width)
        light = (cells(exact(lightness), CELL) / CELL**2)[:, None].expand(-1, HEADS, 1, -1, -1)
        near, alike = (row.exp().view(1, HEADS, 1, 1, 1) for row in self.sharpness)
        distance, one = where.square().sum(2, keepdim=True), torch.ones_like(light)
        # query . key = features' product - near |p - p'|^2 - alike (l - l')^2
        query = torch.cat(
            [
                *(query, 2 * near * where, -near * one, 2 * alike * light, -alike * one),
                -near * distance - alike * light.square(),
            ],
            2,
        )
        key = torch.cat([key, where, distance, light, light.square(), one], 2)
        return Embedding(features, base_ab, convex, *injected, query=query, key=key)

    def forward(
        self,
        lightness: Float[Tensor, "p 1 H W"],
        clicks: Float[Tensor, "b 3 H W"] | None = None,
        embedding: Embedding | None = None,
        *,
        places: Int64[Tensor, "b n"] | None = None,
        features: bool = False,
    ) -> Any:
        """Single entry point for all calls, as engines of several processes hook only into `forward`.

        Args:
            lightness: of p photos.
            clicks: b click maps, b a multiple of p: the first b/p are those of the first photo. None: `embed`.
            embedding: of the p photos, or of the b maps, where it is there already.
            places: flat indices of n cells: return `Training`, with the color distribution there.
            features: return a `Coloring`.

        Returns:
            ab, (b,2,H,W), unless another answer is asked for.
        """
        if embedding is None:
            embedding = self._embed(lightness)
        if clicks is None:
            return embedding
        many, maps = embedding, clicks.shape[0] // lightness.shape[0]
        if maps > 1:
            lightness = lightness.repeat_interleave(maps, 0)
        times = clicks.shape[0] // embedding.base_ab.shape[0]
        if times > 1 and times == clicks.shape[0]:
            many = Embedding(*(part.expand(times, *part.shape[1:]) for part in embedding))
        elif times > 1:
            many = Embedding(*(part.repeat_interleave(times, 0) for part in embedding))
        ab, read = self._decode(many, lightness, clicks)
        if places is not None:
            base_ab = upsample_convex(embedding.base_ab, embedding.convex)
            return Training(ab, base_ab, self.bin_logits(read, places))
        if features:
            return Coloring(ab, torch.cat([read, *self._uncertainty(read)], 1))
        return ab

    def distribution(self, cells: Float[Tensor, "n c"]) -> Float[Tensor, "n bins"]:
        """Probability of each of `bins` as the color of some cells, from their `Coloring.features`."""
        return exact(self.palette(cells[:, : self.palette_channels, None, None])[:, :, 0, 0]).softmax(1)

    def bin_logits(
        self, features: Float[Tensor, "b c h w"], places: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b bins n"]:
        """Logits of the color distribution at some cells, given as flat indices."""
        read = features[:, : self.palette_channels].flatten(2)
        picked = read.gather(2, places[:, None].expand(-1, read.shape[1], -1))
        return exact(self.palette(picked[..., None])[..., 0])

    def _decode(
        self, embedding: Embedding, lightness: Float[Tensor, "b 1 H W"], clicks: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b 2 H W"], Float[Tensor, "b c h w"]]:
        """Colors, and the features from which the color distribution is computed."""
        hint = _hints(clicks)
        found = self._attend(embedding, hint)
        low, x, fine = self.decoder(embedding, hint, found)
        full = upsample_convex(low, embedding.convex) + F.pixel_shuffle(fine, CELL)
        explained = (1 - found.weight[..., -1]).unflatten(-1, low.shape[-2:])
        features = torch.cat([exact(x), exact(embedding.features).expand(x.shape[0], -1, -1, -1), explained], 1)
        if "copy" in self.without:
            return full.clamp(-1, 1), features
        return self._copy(full, exact(lightness), clicks), features

    def _uncertainty(self, features: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Normalised entropy of each cell's color distribution, and its standard deviation in ab.

        For blocks of 2 x 2 cells: a quarter of the arithmetic.
        """
        logits = exact(self.palette(cells(features, 2) / 4))
        probability = logits.softmax(1)
        entropy = -(probability * logits.log_softmax(1)).sum(1, keepdim=True) / math.log(logits.shape[1])
        bins = self.bins.to(logits.dtype)
        mean, square = (torch.einsum("bnhw,nc->bchw", probability, part) for part in (bins, bins.square()))
        spread = (square - mean.square()).sum(1, keepdim=True).clamp(min=0).sqrt()
        return double(entropy), double(spread)

    def _attend(self, embedding: Embedding, hint: "_Hints") -> "Found":
        """Attention of every cell to the clicked cells and its null token, in float32."""
        has = hint.mask
        batch = has.shape[0]
        clicked = (has > 0).flatten(1).to(has.dtype)
        count = _count(clicked)
        valid, index = clicked.topk(count, 1)
        query, key = (part.flatten(3).transpose(2, 3) for part in (embedding.query, embedding.key))
        tokens = key.gather(2, index[:, None, :, None].expand(-1, HEADS, -1, key.shape[3]))
        # The null token is at no place and has no lightness, but a bias.
        null = F.pad(exact(self.null_key) * math.sqrt(KEY_SIZE), (0, query.shape[3] - KEY_SIZE))
        absent = torch.full_like(valid, -1e4) if "attention" in self.without else (valid - 1) * 1e4
        bias = torch.cat(
            [absent[:, None].expand(-1, HEADS, -1), exact(self.null_bias)[None, :, None].expand(batch, -1, -1)], 2
        )
        with _full_precision(query):
            logits = query @ torch.cat([tokens, null[None, :, None].expand(batch, -1, -1, -1)], 2).mT
            weight = (logits + bias[:, :, None]).softmax(-1)
        taken = _Tokens(index, valid)
        ab = taken.of(hint.ab)
        value = torch.cat([ab, ab - taken.of(embedding.base_ab), valid[..., None]], -1)
        return Found(weight, taken, ab, value)

    def _copy(self, ab: Tensor, lightness: Tensor, clicks: Tensor) -> Tensor:
        """Copy clicked colors exactly to their pixels, and partly to pixels nearby of similar lightness."""
        # A map's colors carry its mask: none where it is 0, a share of a color where it is a share. No sum is
        # divided by less than 1. So the first derivative of a click that is not there is what it would change.
        mask, colors = clicks[:, :1], clicks[:, 1:]
        written = torch.cat([mask, colors - mask * ab, mask * lightness], 1)
        reach = self.bell.shape[-1] // 2
        bell = self.bell.to(written.dtype)
        with _full_precision(written):
            written = F.conv2d(written, bell, padding=(0, reach), groups=CELL)
            written = F.conv2d(written, bell.mT, padding=(reach, 0), groups=CELL)
        amount, missing, light = written.split([1, 2, 1], 1)
        light = torch.where(amount > 1e-4, light / amount.clamp(min=1e-4), lightness)
        alike = torch.exp(-((lightness - light) ** 2) / (2 * _COPY_TONE**2))
        ab = ab + alike * missing / amount.clamp(min=1.0)
        ab = torch.where(mask >= 1, colors + 0 * mask, ab + colors - mask * ab)  # a click is copied bit by bit
        return ab.clamp(-1, 1)


class _Hints(NamedTuple):
    """Clicks pooled by cells."""

    mask: Float[Tensor, "b 1 h w"]
    """1 where a cell has a clicked pixel."""
    ab: Float[Tensor, "b 2 h w"]
    """Mean color of a cell's clicked pixels, 0 where it has none."""


class _Tokens(NamedTuple):
    """Clicked cells of each photo as tokens, padded to the largest number."""

    places: Int64[Tensor, "b t"]
    """Flat indices."""
    valid: Float[Tensor, "b t"]
    """1, or 0 for padding."""

    def of(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t c"]:
        """Values of maps at the clicked cells."""
        flat = exact(maps).flatten(2)
        return flat.gather(2, self.places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


class Found(NamedTuple):
    """Result of the attention."""

    weight: Float[Tensor, "b heads places t1"]
    """Of each token, the null token last; they sum to 1."""
    tokens: _Tokens
    ab: Float[Tensor, "b t 2"]
    """The colors of the clicked cells."""
    value: Float[Tensor, "b t 5"]

    def spread(self, value: Float[Tensor, "b t c"]) -> Float[Tensor, "b heads places c"]:
        """Values at the clicked cells, distributed to all cells; the null token's share is lost."""
        with _full_precision(self.weight):
            return self.weight @ F.pad(value, (0, 0, 0, 1))[:, None]


class ClickDecoder(nn.Module):
    """Decoder from attention results and photo features to ab of cells."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.enter = conv_norm(5 + 5 * HEADS, quarter, relu=False)
        self.level_4 = Separable(quarter)
        self.down_8, self.down_16 = (
            conv_norm(a, b, stride=2, relu=False) for a, b in ((quarter, eighth), (eighth, sixteenth))
        )
        self.level_8 = Residual(eighth)
        self.level_16 = nn.Sequential(Residual(sixteenth), Residual(sixteenth))
        self.context = GlobalContext(sixteenth)
        self.up_8, self.up_4 = (
            conv_norm(a, b, 1, relu=False) for a, b in ((sixteenth, eighth), (eighth, quarter))
        )
        self.out_8 = Residual(eighth)
        self.out_4 = nn.Sequential(Separable(quarter), Separable(quarter))
        self.change = zero_(nn.Conv2d(quarter, 2 + HEADS, 1))
        self.fine = zero_(nn.Conv2d(quarter, 2 * CELL**2, 1))

    def forward(self, embedding: Embedding, hint: _Hints, found: Found) -> tuple[Tensor, Tensor, Tensor]:
        """Ab of cells, features of cells, and the full-resolution residual, still folded into cells."""
        base_ab = embedding.base_ab
        batch, _, height, width = base_ab.shape
        looked_up = found.spread(found.value).transpose(2, 3).reshape(batch, 5 * HEADS, height, width)
        seen = torch.cat([hint.mask, hint.ab, hint.mask * (hint.ab - base_ab), looked_up], 1)
        quarter = self.level_4(self.enter(seen) + embedding.inject_4)
        eighth = self.level_8(F.relu(self.down_8(quarter) + embedding.inject_8))
        sixteenth = self.context(self.level_16(F.relu(self.down_16(eighth) + embedding.inject_16)))
        eighth = self.out_8(F.relu(eighth + double(self.up_8(sixteenth))))
        x = self.out_4(quarter + double(self.up_4(eighth)))
        change = exact(self.change(x))
        low = base_ab + change[:, :2]
        # What is still missing at the clicks goes where attention says, as far as the gates let it.
        missing = found.tokens.valid[..., None] * (found.ab - found.tokens.of(low))
        gate = change[:, 2:].softmax(1).flatten(2)[..., None]
        carried = (gate * found.spread(missing)).sum(1).transpose(1, 2)
        return low + carried.reshape(batch, 2, height, width), x, exact(self.fine(x))


@cache
def color_bins() -> Float[Tensor, "bins 2"]:
    """Centers of the color distribution's bins inside the sRGB gamut, in ab / 128; do not modify.

    Of 33 values a channel: all 256 reach two bins more, with their corners.
    """
    values = torch.linspace(0, 1, 33)
    cube = torch.stack(torch.meshgrid(values, values, values, indexing="ij"), -1).reshape(1, -1, 1, 3)
    ab = rgb_to_lab((cube.permute(0, 3, 1, 2) * 255).round().to(torch.uint8))[1][0, :, :, 0].T
    return (ab * AB_SCALE / BIN_STEP).round().unique(dim=0) * BIN_STEP / AB_SCALE


def soft_bins(ab: Float[Tensor, "n 2"], centers: Float[Tensor, "bins 2"]) -> Float[Tensor, "n bins"]:
    """Each color as weights of its five nearest bins, by a Gaussian of half a bin, as in RTUG; they sum to 1."""
    distance, index = (torch.cdist(ab, centers) * AB_SCALE).topk(5, 1, largest=False)
    weight = (-(distance**2) / (2 * (BIN_STEP / 2) ** 2)).softmax(1)
    return torch.zeros(len(ab), len(centers), device=ab.device).scatter_(1, index, weight)


def upsample_convex(
    low: Float[Tensor, "b 2 h w"], weights: Float[Tensor, "b 9 16 h w"]
) -> Float[Tensor, "b 2 H W"]:
    """Convex upsampling by four: every pixel is a weighted mean of its cell's 3 x 3 neighbors.

    Nine slices: unfold exports to a slow gather.
    """
    batch, channels, height, width = low.shape
    padded = F.pad(low, (1, 1, 1, 1), mode="replicate")
    parts = [
        padded[:, :, None, row : row + height, col : col + width] * weights[:, None, 3 * row + col]
        for row in range(3)
        for col in range(3)
    ]
    return F.pixel_shuffle(sum(parts[1:], parts[0]).reshape(batch, channels * CELL**2, height, width), CELL)


def _hints(clicks: Float[Tensor, "b 3 H W"]) -> _Hints:
    """Clicks pooled by cells; gradients stay bounded without clicks, as straight-through estimators need."""
    count, colors = cells(exact(clicks), CELL).split([1, 2], 1)
    return _Hints(count.clamp(max=1.0), colors / count.clamp(min=1.0))


def _count(clicked: Float[Tensor, "b cells"]) -> int | torch.SymInt:
    """Largest number of clicked cells of a photo, computed anew in each call of an exported graph."""
    count = clicked.sum(1).max().long().item()
    torch._check(count >= 0)
    torch._check(count <= clicked.shape[1])
    return count  # pyright: ignore[reportReturnType]: a whole number


def _coordinates(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "1 1 2 h w"]:
    """Row and column of each cell's center, in units of the photo's mean side."""
    height, width = like.shape[-2:]
    side = (height + width) / 2
    rows, cols = (
        (torch.arange(count, device=like.device, dtype=exact(like).dtype) + 0.5) / side
        for count in (height, width)
    )
    return torch.stack([rows[:, None].expand(height, width), cols[None].expand(height, width)])[None, None]


def _full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Context without autocast: a kernel's logits are differences of large numbers, and copies must be exact."""
    if torch.is_autocast_enabled(like.device.type):
        return torch.autocast(like.device.type, enabled=False)
    return nullcontext()


def _begin_as_bilinear(convex: nn.Conv2d) -> None:
    near = torch.tensor([[0.375, 0.625, 0.01], [0.125, 0.875, 0.01], [0.01, 0.875, 0.125], [0.01, 0.625, 0.375]])
    assert convex.bias is not None
    convex.bias.data = torch.einsum("ui,vj->ijuv", near, near).log().flatten()
