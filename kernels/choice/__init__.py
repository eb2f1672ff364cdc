"""Choose a click and place it, as one fused operation (kernels/README.md has the derivation and the byte count)."""

from kernels.choice.operator import Click, choose_click, implementation, use

__all__ = ["Click", "choose_click", "implementation", "use"]
