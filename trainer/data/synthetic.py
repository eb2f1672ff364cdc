"""Procedural color scenes with known truth, for the embedded default data, and what they are painted with."""

import colorsys
import math
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LARGEST_SIZE = 512
"""Largest side of a canvas in pixels: the side of the tileable noise that textures come from."""

Array = NDArray[np.floating]
T = TypeVar("T")


class Painter:
    """A canvas in [0, 1] coordinates (x to the right, y down), a light, and the dice."""

    def __init__(self, dice: np.random.Generator, size: int):
        self._draw = dice.random
        self._size = size
        self.pixels: Array = np.empty((3, size, size), np.float32)
        self.axis: Array = (np.arange(size, dtype=np.float32) + 0.5) / size
        angle = self.between(-0.9, 0.9)
        self._light = (math.sin(angle), -0.55, 0.8 * math.cos(angle))

    # The dice.

    def between(self, low: float, high: float) -> float:
        """A number in low ... high."""
        return low + (high - low) * self._draw()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._draw() < probability

    def count(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int((high - low + 1) * self._draw())

    def one_of(self, *options: T) -> T:
        """One of the options, each as likely as the others."""
        return options[int(len(options) * self._draw())]

    def hue(self, low: float, high: float, saturation: tuple[float, float], value: tuple[float, float]) -> Array:
        """A color with hue (in turns), HSV saturation and value drawn from these ranges; shape (3, 1, 1)."""
        rgb = colorsys.hsv_to_rgb(self.between(low, high) % 1.0, self.between(*saturation), self.between(*value))
        return np.array(rgb, np.float32).reshape(3, 1, 1)

    def any_hue(self) -> Array:
        """A paint: nobody can tell its hue from a grey picture."""
        return self.hue(0.0, 1.0, (0.35, 0.9), (0.45, 0.95))

    def texture(self, height: int, width: int, steepness: float = 1.0) -> Array:
        """A random window of noise with mean 0 and deviation 1; a steeper one is softer."""
        return self._window_of(_smooth_noise(steepness), height, width)

    def _window_of(self, atlas: Array, height: int, width: int) -> Array:
        top, left = self.count(0, LARGEST_SIZE - 1), self.count(0, LARGEST_SIZE - 1)
        return atlas[top : top + height, left : left + width]

    # The brushes. Each paints inside the box x +- half_width, y +- half_height.

    def box(self, x: float, y: float, half_width: float, half_height: float) -> tuple[Array, Array, Array]:
        """The canvas inside a box, and its coordinates in -1 ... 1: `(view, across (1,w), down (h,1))`."""
        size = self._size
        left, right = max(0, round((x - half_width) * size)), min(size, round((x + half_width) * size))
        top, bottom = max(0, round((y - half_height) * size)), min(size, round((y + half_height) * size))
        right, bottom = max(left, right), max(top, bottom)
        across = (self.axis[None, left:right] - x) / half_width
        down = (self.axis[top:bottom, None] - y) / half_height
        return self.pixels[:, top:bottom, left:right], across, down

    def rectangle(
        self, x: float, y: float, half_width: float, half_height: float, color: Array, shade: float = 0.0
    ) -> None:
        """A flat rectangle, darker by `shade` from its lit to its other side."""
        view, across, _ = self.box(x, y, half_width, half_height)
        view[:] = color * (1.0 - shade * (0.5 - 0.5 * math.copysign(1.0, self._light[0]) * across))

    def triangle(self, x: float, y: float, half_width: float, half_height: float, color: Array) -> None:
        """A triangle that stands on its base."""
        view, across, down = self.box(x, y, half_width, half_height)
        coverage = ((down + 1.0) * 0.5 - np.abs(across)) * (half_width * self._size) + 0.5
        mix(view, coverage, color)

    def disc(self, x: float, y: float, radius: float, color: Array, flatten: float = 1.0) -> None:
        """A flat disc, or an ellipse `flatten` times as high as wide."""
        view, across, down = self.box(x, y, radius * 1.1, radius * 1.1 * flatten)
        distance = np.sqrt(across * across + down * down) * 1.1
        mix(view, (1.0 - distance) * (radius * self._size) + 0.5, color)

    def ball(
        self,
        x: float,
        y: float,
        radius: float,
        color: Array,
        *,
        stretch: float = 1.0,
        rough: float = 0.0,
        gloss: float = 0.0,
    ) -> None:
        """A shaded ellipsoid `stretch` times as high as wide, with a rough surface or a highlight."""
        view, across, down = self.box(x, y, radius * 1.1, radius * 1.1 * stretch)
        across, down = across * 1.1, down * 1.1
        squared = across * across + down * down
        light_x, light_y, light_z = self._light
        facing = across * light_x + down * light_y + np.sqrt(np.maximum(1.0 - squared, 0.0)) * light_z
        shade = 0.5 + 0.5 * facing
        if rough:
            shade += rough * self.texture(*shade.shape)
        coverage = (1.0 - np.sqrt(squared)) * (radius * self._size) + 0.5
        paint = color * shade
        if gloss:
            paint += gloss * np.maximum(facing, 0.0) ** 16
        mix(view, coverage, paint)

    def petals(self, x: float, y: float, radius: float, color: Array, count: int) -> None:
        """A blossom of `count` petals, darker towards its center."""
        view, across, down = self.box(x, y, radius * 1.1, radius * 1.1)
        across, down = across * 1.1, down * 1.1
        distance = np.sqrt(across * across + down * down)
        outline = 0.75 + 0.25 * np.cos(count * np.arctan2(down, across) + self.between(0.0, 6.3))
        mix(view, (outline - distance) * (radius * self._size) + 0.5, color * (0.65 + 0.4 * distance))

    def shadow(self, x: float, y: float, half_width: float, half_height: float, depth: float = 0.5) -> None:
        """A soft dark ellipse on the ground."""
        view, across, down = self.box(x, y, half_width, half_height)
        view *= 1.0 - depth * np.clip(1.2 - across * across - down * down, 0.0, 1.0)

    def ridge(self, height: float, roughness: float, color: Array, grain: float) -> Callable[[float], float]:
        """Fill the canvas below a wavy line around y = `height`; returns the line as a function of x."""
        waves = [(self.between(1.0, 3.0) * n, self.between(0.0, 6.3), roughness / n) for n in (1, 2, 5)]
        profile = np.full_like(self.axis, height)
        for frequency, phase, amplitude in waves:
            profile += amplitude * np.sin(frequency * math.pi * self.axis + phase)
        top = max(0, int(float(profile.min()) * self._size) - 1)
        view = self.pixels[:, top:]
        below = self.axis[top:, None] - profile[None]
        paint = color * (0.95 + 0.5 * below + grain * self.texture(*below.shape))
        mix(view, below * self._size + 0.5, paint)
        return lambda x: height + sum(a * math.sin(f * math.pi * x + phase) for f, phase, a in waves)

    def gradient(self, top: Array, bottom: Array, end: float = 1.0) -> None:
        """Fill the canvas from `top` to `bottom`, which is reached at y = `end`."""
        down = np.minimum(self.axis[:, None] / end, 1.0)
        self.pixels[:] = top + (bottom - top) * down

    def develop(self) -> NDArray[np.uint8]:
        """Expose with a slight cast, unevenness and sensor noise, and round to uint8."""
        exposure, cast, grain = self.between(0.85, 1.1), self.between(-0.04, 0.04), self.between(0.005, 0.025)
        gains = np.array([1.0 + cast, 1.0, 1.0 - cast], np.float32).reshape(3, 1, 1) * exposure
        picture = self.pixels * gains
        for channel in picture:
            channel += grain * self._window_of(_white_noise(), self._size, self._size)
        picture += 0.02 * self.texture(self._size, self._size)
        return (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def mix(view: Array, coverage: Array, paint: Array) -> None:
    """Lay `paint` over the canvas where `coverage`, clipped to [0, 1], says so."""
    view += np.clip(coverage, 0.0, 1.0) * (paint - view)


@cache
def _smooth_noise(steepness: float) -> Array:
    """Noise with amplitude frequency ** -steepness, tileable, stored 2x2 so that windows never wrap."""
    noise = np.fft.rfft2(np.random.default_rng(1).standard_normal((LARGEST_SIZE, LARGEST_SIZE)))
    frequency = np.hypot(np.fft.fftfreq(LARGEST_SIZE)[:, None], np.fft.rfftfreq(LARGEST_SIZE)[None])
    # Waves longer than a few dozen pixels would only brighten or darken the whole of a small window.
    amplitude = np.maximum(frequency, 1 / 32) ** -steepness
    amplitude[0, 0] = 0.0
    smooth = np.fft.irfft2(noise * amplitude, s=(LARGEST_SIZE, LARGEST_SIZE))
    return np.tile(smooth / smooth.std(), (2, 2)).astype(np.float32)


@cache
def _white_noise() -> Array:
    """White noise, stored 2x2 so that windows never wrap."""
    noise = np.random.default_rng(2).standard_normal((LARGEST_SIZE, LARGEST_SIZE), np.float32)
    return np.tile(noise, (2, 2))


SIZES = range(8, LARGEST_SIZE + 1)
"""Sides of a scene in pixels."""


def scene(key: int, size: int) -> NDArray[np.uint8]:
    """The picture number `key`: uint8 (3, size, size) sRGB.

    Args:
        key: any integer in 0 ... 2**64 - 1.
        size: side in pixels, 8 ... 512. Another size shows the same scene, apart from its fine texture.

    Raises:
        ValueError: the key or the size is out of range.
    """
    if size not in SIZES:
        raise ValueError(f"a scene's size is {size}; it must be in {SIZES[0]} ... {SIZES[-1]} pixels")
    if not 0 <= key < 2**64:
        raise ValueError(f"a scene's key is {key}; it must be in 0 ... 2**64 - 1")
    painter = Painter(np.random.Generator(np.random.Philox(key=key)), size)
    painter.one_of(_landscape, _landscape, _street, _still_life, _flowers)(painter)
    return painter.develop()


def _landscape(p: Painter) -> None:
    """Sky, sun, clouds, ridges, and houses and trees on the hills."""
    horizon = p.between(0.35, 0.6)
    _sky(p, horizon)
    p.ridge(horizon, 0.05, p.hue(0.55, 0.68, (0.15, 0.4), (0.45, 0.7)), grain=0.04)
    season = p.between(0.0, 1.0)
    for step in range(2):
        line = p.ridge(horizon + 0.12 + 0.2 * step, 0.05, _meadow(p, season), grain=0.1)
        for _ in range(p.count(1, 3)):
            x, scale = p.between(0.05, 0.95), p.between(0.06, 0.1) * (1 + step)
            ground = line(x) + p.between(0.02, 0.12)
            if p.chance(0.5):
                _tree(p, x, ground, scale, season)
            else:
                _house(p, x, ground, scale)
    for _ in range(p.count(1, 3) if p.chance(0.4) else 0):
        _balloon(p, p.between(0.1, 0.9), p.between(0.08, horizon), p.between(0.04, 0.1))


def _sky(p: Painter, horizon: float) -> None:
    """A blue day or a sunset, with a sun and clouds."""
    day = p.chance(0.65)
    if day:
        p.gradient(p.hue(0.55, 0.63, (0.5, 0.8), (0.6, 0.95)), p.hue(0.53, 0.6, (0.1, 0.3), (0.85, 1.0)), horizon)
    else:
        p.gradient(p.hue(0.62, 0.85, (0.3, 0.6), (0.3, 0.6)), p.hue(0.98, 1.12, (0.5, 0.8), (0.85, 1.0)), horizon)
    if p.chance(0.6):
        low = 0.1 if day else horizon - 0.15
        x, y, radius = p.between(0.1, 0.9), p.between(low, low + 0.15), p.between(0.04, 0.09)
        p.disc(x, y, radius, p.hue(0.1, 0.16, (0.1, 0.6), (1.0, 1.0)))
    if p.chance(0.7):
        view = p.pixels[:, : max(1, int(horizon * p.pixels.shape[1]))]
        cover = 0.5 * p.texture(*view.shape[1:], steepness=2.2) + p.between(-0.3, 0.2)
        mix(view, np.minimum(cover, 0.8), p.hue(0.95, 1.1, (0.0, 0.12 if day else 0.35), (0.85, 1.0)))


def _meadow(p: Painter, season: float) -> Array:
    """Grass in summer, dry grass in autumn, or a field in bloom, which may have any color."""
    if p.chance(0.2):
        return p.hue(0.0, 1.0, (0.35, 0.7), (0.5, 0.85))
    low = 0.22 if season < 0.65 else 0.08
    return p.hue(low, low + 0.1, (0.45, 0.8), (0.3, 0.7))


def _tree(p: Painter, x: float, ground: float, scale: float, season: float) -> None:
    """A trunk with a round or a pointed crown; green, or red to yellow in autumn."""
    low = 0.24 if season < 0.65 else 0.0
    crown = p.hue(low, low + 0.13, (0.5, 0.85), (0.3, 0.65))
    p.shadow(x, ground, scale, scale * 0.25)
    p.rectangle(x, ground - scale * 0.5, scale * 0.12, scale * 0.5, p.hue(0.05, 0.09, (0.4, 0.6), (0.2, 0.4)))
    if p.chance(0.35):
        for level in range(3):
            p.triangle(x, ground - scale * (1 + 0.6 * level), scale * (0.8 - 0.18 * level), scale * 0.5, crown)
    else:
        p.ball(x, ground - scale * 1.6, scale * 0.9, crown, stretch=1.1, rough=0.12)


def _house(p: Painter, x: float, ground: float, scale: float) -> None:
    """Walls of any hue, a roof, a door and windows."""
    height = scale * p.between(0.6, 0.9)
    p.rectangle(x, ground - height, scale, height, p.any_hue(), shade=0.25)
    roof = p.hue(0.98, 1.08, (0.4, 0.8), (0.35, 0.65)) if p.chance(0.7) else p.any_hue()
    p.triangle(x, ground - height * 2 - scale * 0.4, scale * 1.2, scale * 0.42, roof)
    glass = p.hue(0.5, 0.65, (0.1, 0.4), (0.3, 0.5)) if p.chance(0.7) else p.hue(0.1, 0.15, (0.4, 0.6), (0.9, 1.0))
    for side in (-0.55, 0.55):
        p.rectangle(x + side * scale, ground - height * 1.2, scale * 0.2, height * 0.3, glass)
    p.rectangle(x, ground - height * 0.4, scale * 0.16, height * 0.4, p.any_hue())


def _balloon(p: Painter, x: float, y: float, radius: float) -> None:
    """A hot-air balloon of any hue with a band of another."""
    p.rectangle(x, y + radius * 1.8, radius * 0.2, radius * 0.2, p.hue(0.06, 0.1, (0.5, 0.7), (0.35, 0.5)))
    p.ball(x, y, radius, p.any_hue(), stretch=1.25, gloss=0.2)
    p.ball(x, y, radius * 0.4, p.any_hue(), stretch=3.0)


def _street(p: Painter) -> None:
    """A row of facades of any hue behind a grey road with cars."""
    _sky(p, 0.5)
    road = p.between(0.7, 0.82)
    x = -0.05
    while x < 1.0:
        half_width, top = p.between(0.09, 0.2), p.between(0.12, 0.45)
        _facade(p, x + half_width, top, half_width, road)
        x += 2 * half_width
    p.ridge(road, 0.0, p.hue(0.55, 0.7, (0.0, 0.08), (0.3, 0.5)), grain=0.06)
    for _ in range(p.count(1, 3)):
        _car(p, p.between(0.1, 0.9), p.between(road + 0.06, 0.93), p.between(0.1, 0.16))
    for _ in range(p.count(0, 2)):
        _tree(p, p.between(0.05, 0.95), road + 0.02, p.between(0.07, 0.13), season=p.between(0.0, 1.0))


def _facade(p: Painter, x: float, top: float, half_width: float, road: float) -> None:
    """A house front with a grid of windows."""
    p.rectangle(x, (top + road) / 2, half_width, (road - top) / 2, p.any_hue(), shade=0.15)
    p.rectangle(x, top, half_width, 0.015, p.hue(0.0, 0.1, (0.1, 0.3), (0.7, 0.9)))
    glass = p.hue(0.5, 0.65, (0.15, 0.4), (0.25, 0.5))
    columns = p.count(2, 3)
    step = 2 * half_width / columns
    for row in range(int((road - top) / 0.14)):
        for column in range(columns):
            center = x - half_width + step * (column + 0.5)
            p.rectangle(center, top + 0.09 + 0.14 * row, step * 0.27, 0.038, glass)


def _car(p: Painter, x: float, y: float, scale: float) -> None:
    """A car of any hue, seen from its side."""
    paint, rubber = p.any_hue(), p.hue(0.6, 0.7, (0.0, 0.1), (0.08, 0.15))
    p.shadow(x, y + scale * 0.3, scale * 1.1, scale * 0.18)
    p.ball(x, y - scale * 0.22, scale * 0.6, paint, stretch=0.55)
    p.ball(x, y - scale * 0.24, scale * 0.45, p.hue(0.52, 0.6, (0.1, 0.3), (0.5, 0.8)), stretch=0.45)
    p.rectangle(x, y + scale * 0.06, scale, scale * 0.22, paint, shade=0.3)
    for side in (-0.55, 0.55):
        p.disc(x + side * scale, y + scale * 0.25, scale * 0.2, rubber)
        p.disc(x + side * scale, y + scale * 0.25, scale * 0.09, rubber * 5)


def _still_life(p: Painter) -> None:
    """Fruit, balls, boxes and vases on a table in front of a wall."""
    edge = p.between(0.35, 0.55)
    wall = p.hue(0.0, 1.0, (0.05, 0.5), (0.4, 0.85))
    p.gradient(wall * p.between(0.7, 1.0), wall)
    p.ridge(edge, 0.0, p.hue(0.04, 0.1, (0.4, 0.7), (0.35, 0.7)) if p.chance(0.65) else p.any_hue(), grain=0.07)
    things = p.count(3, 6)
    for index in range(things):
        ground = edge + (0.97 - edge) * (index + 0.7) / things
        size = p.between(0.08, 0.13) * (0.6 + ground * 0.6)
        x = p.between(0.08, 0.92)
        p.shadow(x, ground, size * 1.4, size * 0.35)
        p.one_of(_orange, _apple, _lemon, _ball, _vase, _package)(p, x, ground, size)


def _orange(p: Painter, x: float, ground: float, size: float) -> None:
    p.ball(x, ground - size, size, p.hue(0.06, 0.09, (0.8, 0.95), (0.85, 0.98)), rough=0.05)


def _apple(p: Painter, x: float, ground: float, size: float) -> None:
    """Red, yellow or green: the grey picture does not tell which."""
    hue = p.one_of(0.98, 0.14, 0.25)
    p.ball(x, ground - size * 0.95, size, p.hue(hue, hue + 0.04, (0.7, 0.9), (0.6, 0.85)), stretch=0.95, gloss=0.4)
    p.rectangle(x, ground - size * 1.85, size * 0.08, size * 0.2, p.hue(0.07, 0.1, (0.5, 0.6), (0.2, 0.3)))


def _lemon(p: Painter, x: float, ground: float, size: float) -> None:
    p.ball(x, ground - size * 0.7, size, p.hue(0.14, 0.17, (0.7, 0.9), (0.9, 1.0)), stretch=0.7, rough=0.03)


def _ball(p: Painter, x: float, ground: float, size: float) -> None:
    p.ball(x, ground - size * 1.1, size * 1.1, p.any_hue(), gloss=0.6)
    if p.chance(0.4):
        p.ball(x, ground - size * 1.1, size * 1.08, p.any_hue(), stretch=0.3, gloss=0.3)


def _vase(p: Painter, x: float, ground: float, size: float) -> None:
    glaze = p.any_hue()
    p.rectangle(x, ground - size * 2.3, size * 0.3, size * 0.6, glaze, shade=0.6)
    p.ball(x, ground - size * 1.2, size * 0.8, glaze, stretch=1.5, gloss=0.5)
    if p.chance(0.6):
        for _ in range(3):
            blossom_x, blossom_y = x + size * p.between(-0.8, 0.8), ground - size * p.between(2.9, 3.8)
            _blossom(p, blossom_x, blossom_y, size * 0.5, p.any_hue())


def _package(p: Painter, x: float, ground: float, size: float) -> None:
    height = size * p.between(0.6, 1.4)
    p.rectangle(x, ground - height, size, height, p.any_hue(), shade=0.4)
    if p.chance(0.6):
        ribbon = p.any_hue()
        p.rectangle(x, ground - height, size * 0.14, height, ribbon)
        p.rectangle(x, ground - height, size, height * 0.14, ribbon)


def _flowers(p: Painter) -> None:
    """Blossoms of a few random hues in front of leaves."""
    p.gradient(p.hue(0.22, 0.38, (0.4, 0.7), (0.15, 0.4)), p.hue(0.2, 0.36, (0.4, 0.7), (0.3, 0.55)))
    p.ridge(-0.2, 0.0, p.hue(0.24, 0.36, (0.5, 0.8), (0.2, 0.4)), grain=0.25)
    for _ in range(p.count(5, 9)):
        leaf = p.hue(0.2, 0.4, (0.5, 0.85), (0.25, 0.6))
        p.ball(
            p.between(0.0, 1.0),
            p.between(0.0, 1.0),
            p.between(0.06, 0.2),
            leaf,
            stretch=p.between(0.3, 1.6),
            rough=0.06,
        )
    kinds = [p.any_hue() for _ in range(p.count(1, 3))]
    radius = p.between(0.07, 0.15)
    for _ in range(p.count(5, 11)):
        _blossom(p, p.between(0.05, 0.95), p.between(0.05, 0.95), radius * p.between(0.7, 1.3), p.one_of(*kinds))


def _blossom(p: Painter, x: float, y: float, radius: float, color: Array) -> None:
    p.petals(x, y, radius, color, count=p.count(4, 7))
    p.disc(x, y, radius * 0.28, p.hue(0.08, 0.16, (0.6, 0.9), (0.5, 0.95)))
