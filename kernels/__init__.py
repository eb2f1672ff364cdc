"""The numerics: pure tensor functions over torch. No config, no files, no network."""

from kernels.choose_click import Click, choose_click

__all__ = ["Click", "choose_click"]
