"""The papers' experiments by name: the protocol that repeats each, and the figures that it printed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evaluator.papers import GUIDINGPAINTER_1, NRI_LEVELS, RTUG_SWEEP, THESIS_4_1, THESIS_4_2, PaperTable

Name = Literal["thesis-table-4.1", "thesis-table-4.2", "guidingpainter-nri", "rtug-sweep"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What an experiment measures. Guides that are given are measured in all of them."""

    policies: tuple[str, ...]
    clicks: tuple[int, ...]
    metrics: tuple[str, ...]
    hint_size: int = 1
    size: int = 256
    nri: tuple[str, ...] = ()
    """As `--nri` takes them."""
    needs_run: bool = False
    """Whether it reads a training's validation after each cycle too (`--run`)."""
    papers: tuple[PaperTable, ...]


PRESETS: Mapping[str, Preset] = {
    "thesis-table-4.1": Preset(
        policies=("random",),
        clicks=(1, 5, 10, 20, 30, 50),
        metrics=("ab_psnr", "ab_ssim", "lpips"),
        papers=(THESIS_4_1,),
    ),
    "thesis-table-4.2": Preset(
        policies=("random",), clicks=(10,), metrics=("ab_psnr", "ab_ssim"), needs_run=True, papers=(THESIS_4_2,)
    ),
    "guidingpainter-nri": Preset(
        policies=("random", "region-centre"),
        clicks=tuple(range(31)),
        metrics=("rgb_psnr",),
        nri=tuple(f"rgb_psnr={level}" for level in NRI_LEVELS.values()),
        papers=(GUIDINGPAINTER_1,),
    ),
    "rtug-sweep": Preset(
        policies=("random", "gaussian"),
        clicks=(0, 1, 2, 5, 10, 20, 50, 100, 200, 501),
        metrics=("rgb_psnr",),
        hint_size=6,
        papers=(RTUG_SWEEP,),
    ),
}
"""Every preset by the name that `--preset` takes."""
