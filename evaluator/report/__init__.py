"""Report of a benchmark: `build` writes the HTML page; `choose` and `render` make its gallery."""

from evaluator.report.gallery import Gallery, choose, render
from evaluator.report.page import build, save_figures

__all__ = ["Gallery", "build", "choose", "render", "save_figures"]
