"""A paper's figures beside ours, as a table to print."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evaluator.metrics import METRICS
from evaluator.papers import Figure, PaperTable
from evaluator.results import Summary

_COCO_VALIDATION = 5000
_COCO_NAME = re.compile(r"(.*/)?\d{12}\.jpg")


def is_coco_validation(names: Sequence[str]) -> bool:
    """Whether photos are those of COCO 2017's validation, by their number and names."""
    return len(names) == _COCO_VALIDATION and all(map(_COCO_NAME.fullmatch, names))


def beside(
    table: PaperTable, summaries: Sequence[Summary], nri: Sequence[Mapping[str, Any]], coco: bool
) -> dict[str, Any]:
    """A table of the paper's figures, each with ours where we have one.

    Args:
        table: the paper's.
        summaries: our means.
        nri: our clicks to a level.
        coco: whether our photos are COCO's validation.

    Returns:
        source, dataset, protocol, note, another_dataset, columns, rows (text), and figures (numbers).
    """
    ours = {(s.policy, s.clicks, s.metric): s for s in summaries}
    another = not (coco and table.dataset == "COCO 2017 validation")
    rows = [_row(figure, ours, nri) for figure in table.figures]
    return {
        "source": table.source,
        "dataset": table.dataset,
        "another_dataset": another,
        "protocol": table.protocol,
        "note": table.note,
        "columns": ["whose", "number", "clicks", "printed", "ours"],
        "rows": rows,
        "figures": [asdict(figure) for figure in table.figures],
    }


def _row(
    figure: Figure,
    summaries: Mapping[tuple[str, int, str], Summary],
    nri: Sequence[Mapping[str, Any]],
) -> list[str]:
    if figure.metric == "nri":
        ours = "; ".join(f"{row['policy']} {row['mean']:.2f}" for row in nri if row["level"] == figure.level)
        return [figure.label, f"NRI to {figure.level:g} dB", "", f"{figure.value:.2f}", ours]
    metric = METRICS[figure.metric]
    found = summaries.get((figure.beside, figure.clicks or 0, figure.metric))
    return [
        figure.label,
        metric.label,
        "" if figure.clicks is None else str(figure.clicks),
        f"{figure.value:.{metric.decimals}f}",
        f"{found.policy} {found.mean:.{metric.decimals}f}" if found else "",
    ]
