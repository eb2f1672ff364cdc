"""The papers' experiments by name: the protocol that repeats each, and its printed figures beside ours."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from evaluator.metrics import METRICS
from evaluator.protocol.results import Record


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One printed number."""

    label: str
    """Whose it is, in the paper's words."""
    metric: str
    """A name in `evaluator.metrics.METRICS`, or "nri"."""
    value: float
    clicks: int | None = None
    beside: str = ""
    """Our policy that it belongs beside; empty where there is none."""
    level: float | None = None
    """What the NRI counts clicks to, in dB."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A paper's table, and what to know before comparing with it."""

    source: str
    """Which table of which paper."""
    dataset: str
    protocol: str
    note: str = ""
    figures: tuple[Figure, ...]


def _rows(table: Mapping[int, Sequence[float]], columns: Sequence[tuple[str, str, str]]) -> tuple[Figure, ...]:
    """Figures by clicks; columns are (label, metric, our policy)."""
    return tuple(
        Figure(label=label, metric=metric, value=value, clicks=clicks, beside=beside)
        for clicks, values in table.items()
        for (label, metric, beside), value in zip(columns, values, strict=True)
    )


_RANDOM, _GUIDE = ("Random", "random"), ("ArgmaxSTE", "guide-oracle")

THESIS_4_1 = PaperTable(
    source="Thesis, Table 4.1",
    dataset="COCO 2017 validation",
    protocol="256 x 256 px, hint size 1; PSNR and SSIM on ab, LPIPS (AlexNet) on RGB",
    note=(
        "Random is ahead on PSNR and SSIM at every budget of the printed table, whatever its text says; the "
        "ranges of PSNR and SSIM are not stated."
    ),
    figures=_rows(
        {
            1: (30.54, 30.48, 0.3220, 0.2974, 0.1408, 0.1420),
            5: (32.64, 32.59, 0.3931, 0.3378, 0.1208, 0.1159),
            10: (33.07, 33.04, 0.4234, 0.3491, 0.1141, 0.1077),
            20: (33.66, 33.54, 0.4574, 0.3695, 0.1048, 0.0988),
            30: (34.11, 33.79, 0.4737, 0.3822, 0.0997, 0.0938),
            50: (34.48, 34.06, 0.4890, 0.3907, 0.0940, 0.0895),
        },
        [
            (label, metric, policy)
            for metric in ("ab_psnr", "ab_ssim", "lpips")
            for label, policy in (_RANDOM, _GUIDE)
        ],
    ),
)

_CYCLES = {
    "Gumbel-Softmax": ((30.22, 0.371), (30.34, 0.379), (30.50, 0.384), (30.62, 0.391)),
    "Straight-Through Estimator": ((30.55, 0.361), (30.84, 0.370), (31.17, 0.377), (31.41, 0.383)),
}

THESIS_4_2 = PaperTable(
    source="Thesis, Table 4.2",
    dataset="COCO 2017 validation",
    protocol="after each ping-pong cycle, 10 clicks",
    note=(
        "The table's third column, EditNet's loss, is a sum with weights that the thesis does not print. At 10 "
        "clicks Table 4.1 has 33.04 dB for what is 31.41 dB after the last cycle here."
    ),
    figures=tuple(
        Figure(label=f"{estimator}, cycle {cycle}", metric=metric, value=value, clicks=10)
        for estimator, cycles in _CYCLES.items()
        for cycle, values in enumerate(cycles, start=1)
        for metric, value in zip(("ab_psnr", "ab_ssim"), values, strict=True)
    ),
)

NRI_LEVELS = {"Yumi's Cells": 20.5, "Tag2pix": 17.5, "CelebA": 19.5}
"""RGB PSNR in dB that GuidingPainter counts hints to, by data set (section 4.2)."""
_NRI = {
    "AlacGAN": (31.00, 31.00, 31.00),
    "RTUG": (13.82, 14.79, 11.64),
    "GuidingPainter": (11.08, 11.39, 6.98),
}

GUIDINGPAINTER_1 = PaperTable(
    source="GuidingPainter, Table 1, NRI",
    dataset="Yumi's Cells, Tag2pix and CelebA, as sketches",
    protocol="256 x 256 px, up to 30 hints, a failure counts as 31; RGB PSNR",
    note="Their inputs are sketches, ours grey photos with their lightness: only the way of counting is shared.",
    figures=tuple(
        Figure(label=f"{system}, {dataset}", metric="nri", value=value, level=level)
        for system, values in _NRI.items()
        for (dataset, level), value in zip(NRI_LEVELS.items(), values, strict=True)
    ),
)

RTUG_SWEEP = PaperTable(
    source="RTUG (Zhang et al., SIGGRAPH 2017), number of points against PSNR",
    dataset="1,000 ImageNet photos",
    protocol="256 x 256 px, hints of 6 x 6 patch means, Gaussian-centred; RGB PSNR (uint8), per-image mean",
    figures=_rows(
        {
            clicks: (value,)
            for clicks, value in {
                0: 24.43,
                1: 25.37,
                2: 26.20,
                5: 27.39,
                10: 28.42,
                20: 29.34,
                50: 30.42,
                100: 31.13,
                200: 31.70,
                501: 32.14,
            }.items()
        },
        [("RTUG", "rgb_psnr", "gaussian")],
    ),
)


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


_COCO_VALIDATION = 5000
_COCO_NAME = re.compile(r"(.*/)?\d{12}\.jpg")


def is_coco_validation(names: Sequence[str]) -> bool:
    """Whether photos are those of COCO 2017's validation, by their number and names."""
    return len(names) == _COCO_VALIDATION and all(map(_COCO_NAME.fullmatch, names))


def beside(
    table: PaperTable, records: Sequence[Record], nri: Sequence[Mapping[str, Any]], coco: bool
) -> dict[str, Any]:
    """A table of the paper's figures, each with ours where we have one.

    Args:
        table: the paper's.
        records: our means.
        nri: our clicks to a level.
        coco: whether our photos are COCO's validation.

    Returns:
        source, dataset, protocol, note, another_dataset, columns, rows (text), and figures (numbers).
    """
    ours = {(one.policy, one.clicks, one.metric): one for one in records}
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
    records: Mapping[tuple[str, int, str], Record],
    nri: Sequence[Mapping[str, Any]],
) -> list[str]:
    if figure.metric == "nri":
        ours = "; ".join(f"{row['policy']} {row['mean']:.2f}" for row in nri if row["level"] == figure.level)
        return [figure.label, f"NRI to {figure.level:g} dB", "", f"{figure.value:.2f}", ours]
    metric = METRICS[figure.metric]
    found = records.get((figure.beside, figure.clicks or 0, figure.metric))
    return [
        figure.label,
        metric.label,
        "" if figure.clicks is None else str(figure.clicks),
        f"{figure.value:.{metric.decimals}f}",
        f"{found.policy} {found.value:.{metric.decimals}f}" if found else "",
    ]


_CONFIG, _RESULTS = "config.json", "results.json"


def cycles_of(run: Path, clicks: int) -> list[dict[str, Any]]:
    """Means after each cycle, by policy.

    A training validates after each of its stages; a cycle is two of them, ping and pong, and the last ones are
    those of the cycles.

    Args:
        run: folder of a finished training.
        clicks: the number of clicks, which the training must have validated at.

    Returns:
        One row per cycle and policy: cycle (from 1), policy, clicks, images_seen, and each metric.

    Raises:
        ValueError: no finished training there, one without cycles, or one that did not validate at that number.
    """
    config, curve = _read(run / _CONFIG), _read(run / _RESULTS).get("curve", [])
    cycles = int(config.get("recipe.rounds.cycles", 0))
    if any("stage" not in one for one in curve):
        raise ValueError(f"{run} is of an earlier version, with another layout of {_RESULTS}; train again")
    stages = sorted({one["stage"] for one in curve})
    if not 0 < 2 * cycles <= len(stages):
        raise ValueError(f"{run} has {cycles} cycles and {len(stages)} validations; give a training with cycles")
    rows = []
    for cycle, stage in enumerate(stages[len(stages) - 2 * cycles + 1 :: 2], start=1):
        found: dict[str, dict[str, Any]] = {}
        for one in curve:
            if one["stage"] == stage and one["clicks"] == clicks:
                head = {
                    "cycle": cycle,
                    "policy": one["policy"],
                    "clicks": clicks,
                    "images_seen": one["images_seen"],
                }
                found.setdefault(one["policy"], head)[one["metric"]] = one["value"]
        if not found:
            raise ValueError(
                f"{run} was not validated at {clicks} clicks; train with --validation.clicks ... {clicks}"
            )
        rows += found.values()
    return rows


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is missing; --run takes the folder of a finished training, such as runs/NAME")
    return json.loads(file.read_text())
