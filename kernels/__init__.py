"""The numerics: pure tensor functions over torch. No config, no files, no network; `bench*.py` are programs."""

from kernels.choice import Click, choose_click

__all__ = ["Click", "choose_click"]
