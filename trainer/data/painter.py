"""What procedural scenes are painted with: a canvas, a light, brushes and dice."""

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
        """A colour with hue (in turns), HSV saturation and value drawn from these ranges; shape (3, 1, 1)."""
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
        self, x: float, y: float, half_width: float, half_height: float, colour: Array, shade: float = 0.0
    ) -> None:
        """A flat rectangle, darker by `shade` from its lit to its other side."""
        view, across, _ = self.box(x, y, half_width, half_height)
        view[:] = colour * (1.0 - shade * (0.5 - 0.5 * math.copysign(1.0, self._light[0]) * across))

    def triangle(self, x: float, y: float, half_width: float, half_height: float, colour: Array) -> None:
        """A triangle that stands on its base."""
        view, across, down = self.box(x, y, half_width, half_height)
        coverage = ((down + 1.0) * 0.5 - np.abs(across)) * (half_width * self._size) + 0.5
        mix(view, coverage, colour)

    def disc(self, x: float, y: float, radius: float, colour: Array, flatten: float = 1.0) -> None:
        """A flat disc, or an ellipse `flatten` times as high as wide."""
        view, across, down = self.box(x, y, radius * 1.1, radius * 1.1 * flatten)
        distance = np.sqrt(across * across + down * down) * 1.1
        mix(view, (1.0 - distance) * (radius * self._size) + 0.5, colour)

    def ball(
        self,
        x: float,
        y: float,
        radius: float,
        colour: Array,
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
        paint = colour * shade
        if gloss:
            paint += gloss * np.maximum(facing, 0.0) ** 16
        mix(view, coverage, paint)

    def petals(self, x: float, y: float, radius: float, colour: Array, count: int) -> None:
        """A blossom of `count` petals, darker towards its centre."""
        view, across, down = self.box(x, y, radius * 1.1, radius * 1.1)
        across, down = across * 1.1, down * 1.1
        distance = np.sqrt(across * across + down * down)
        outline = 0.75 + 0.25 * np.cos(count * np.arctan2(down, across) + self.between(0.0, 6.3))
        mix(view, (outline - distance) * (radius * self._size) + 0.5, colour * (0.65 + 0.4 * distance))

    def shadow(self, x: float, y: float, half_width: float, half_height: float, depth: float = 0.5) -> None:
        """A soft dark ellipse on the ground."""
        view, across, down = self.box(x, y, half_width, half_height)
        view *= 1.0 - depth * np.clip(1.2 - across * across - down * down, 0.0, 1.0)

    def ridge(self, height: float, roughness: float, colour: Array, grain: float) -> Callable[[float], float]:
        """Fill the canvas below a wavy line around y = `height`; returns the line as a function of x."""
        waves = [(self.between(1.0, 3.0) * n, self.between(0.0, 6.3), roughness / n) for n in (1, 2, 5)]
        profile = np.full_like(self.axis, height)
        for frequency, phase, amplitude in waves:
            profile += amplitude * np.sin(frequency * math.pi * self.axis + phase)
        top = max(0, int(float(profile.min()) * self._size) - 1)
        view = self.pixels[:, top:]
        below = self.axis[top:, None] - profile[None]
        paint = colour * (0.95 + 0.5 * below + grain * self.texture(*below.shape))
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
