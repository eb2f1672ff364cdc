"""Numerics as pure tensor functions over torch: no configuration, no files, no network access."""

from kernels.choose_click import Click, choose_click

__all__ = ["Click", "choose_click"]
