"""Choose a click and place it, as one fused operation; kernels/README.md derives it."""

from kernels.choose_click.op import Click, choose_click, implementation, use

__all__ = ["Click", "choose_click", "implementation", "use"]
