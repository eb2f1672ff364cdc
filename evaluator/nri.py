"""NRI, the number of required interactions: clicks until a photo is good (GuidingPainter 2023, section 4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64


@dataclass(frozen=True, eq=False)
class Nri:
    """Clicks that each photo needed."""

    clicks: Int64[np.ndarray, " n"]
    """A photo that never became good counts as the largest budget + 1."""
    failed: Bool[np.ndarray, " n"]
    """Photos that never became good."""

    @property
    def mean(self) -> float:
        """The NRI; NaN without photos. With many failures it mostly says what the largest budget was."""
        return float(self.clicks.mean()) if len(self.clicks) else float("nan")

    @property
    def failures(self) -> float:
        """Share of photos that never became good, in [0, 1]; NaN without photos."""
        return float(self.failed.mean()) if len(self.failed) else float("nan")


def nri(
    values: Float[np.ndarray, "n budgets"],
    budgets: Sequence[int],
    level: float,
    *,
    higher_is_better: bool = True,
) -> Nri:
    """The first budget at which each photo's metric reaches a level.

    Between two budgets nothing is known, so a photo that needs 6 clicks counts as 10 on the grid 0, 1, 2, 5, 10:
    compare only numbers from one grid, and ask for every budget (0, 1, 2, ..., 30) to hold them against the
    paper's. A later fall below the level does not count. An undefined value (NaN) has not reached it.

    Args:
        values: a metric per photo and budget.
        budgets: numbers of clicks, rising.
        level: reached by a value that equals it.
        higher_is_better: whether the level is a floor (PSNR) or a ceiling (LPIPS).

    Raises:
        ValueError: budgets do not rise or are not as many as the columns, or the level is NaN.
    """
    if not budgets or list(budgets) != sorted(set(budgets)) or len(budgets) != values.shape[1]:
        raise ValueError(
            f"budgets is {list(budgets)} for {values.shape[1]} columns; give one rising budget per column"
        )
    if np.isnan(level):
        raise ValueError("level is NaN; give the value of the metric that counts as good")
    reached = np.asarray(values >= level if higher_is_better else values <= level)
    failed = np.logical_not(reached.any(axis=1))
    clicks = np.asarray(budgets, dtype=np.int64)[reached.argmax(1)]
    return Nri(np.where(failed, budgets[-1] + 1, clicks), failed)
