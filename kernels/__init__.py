"""The numerics: pure tensor functions over torch. No config, no files, no network; `bench*.py` are programs."""

from kernels.choose_click import Click, choose_click

__all__ = ["Click", "choose_click"]
