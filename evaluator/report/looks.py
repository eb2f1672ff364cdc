"""How the report's figures look: one colour, marker and dash per policy, and a figure's way into HTML."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from PIL import Image

from evaluator.results import BASELINE

PAPER, INK, GRID = "#ffffff", "#1d1d1f", "#e1e1e4"
_BASELINE_COLOUR = "#55555b"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, told apart with colour-blindness; markers and dashes repeat the difference."""
_MARKERS = "os^Dv<>P"
_DASHES = ("-", "--", "-.", ":")
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Look:
    """Of one policy's line."""

    color: str
    marker: str
    linestyle: str


def looks(policies: Sequence[str], baseline: str = BASELINE) -> dict[str, Look]:
    """One look per policy, in the order of the policies; grey is the baseline's."""
    others = [policy for policy in policies if policy != baseline]
    chosen = {
        policy: Look(
            _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i // len(_COLOURS) % len(_DASHES)]
        )
        for i, policy in enumerate(others)
    }
    return {policy: chosen.get(policy, Look(_BASELINE_COLOUR, "x", "-")) for policy in policies}


def new_figure(width: float = 5.4, height: float = 3.9) -> Figure:
    """A figure of its own, outside of pyplot's global list; sizes in inches."""
    return Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")


def dress(panel: Axes, x_label: str, y_label: str) -> None:
    """Axes without a box, with a faint grid."""
    panel.set_facecolor(PAPER)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_xlabel(x_label, color=INK)
    panel.set_ylabel(y_label, color=INK)


def click_axis(panel: Axes, budgets: Sequence[int]) -> None:
    """A tick at every budget, on a scale that is linear up to 1 click and logarithmic above."""
    panel.set_xscale("symlog", linthresh=1, linscale=0.6)
    panel.xaxis.set_major_locator(FixedLocator(budgets))
    panel.xaxis.set_major_formatter(FixedFormatter([str(budget) for budget in budgets]))
    panel.xaxis.set_minor_locator(NullLocator())


def svg(figure: Figure) -> str:
    """The figure as a `data:` address; the same figure gives the same bytes."""
    target = io.BytesIO()
    with rc_context({"svg.hashsalt": "chromaclick"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return _address("image/svg+xml", target.getvalue())


def png(figure: Figure) -> str:
    """The figure as a `data:` address, for what is made of pixels."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=130, metadata={"Software": None})
    return _address("image/png", target.getvalue())


def jpeg(picture: Image.Image) -> str:
    """A photo as a `data:` address."""
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return _address("image/jpeg", target.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
