"""The report's tables and sentences: how it was measured, and what was found."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import CONFIDENCE, RESAMPLES, mean_of
from evaluator.protocol.finished import Finished
from evaluator.protocol.results import BASELINE, RULER, RULER_WORDS, Protocol, Record
from evaluator.protocol.simulated_user import SimulatedUser

_VERDICTS = ("better", "worse", "no different")


def protocol_sentences(finished: Finished) -> list[str]:
    """What a reader must know to hold the numbers against others, one paragraph."""
    protocol, photos = finished.about["protocol"], finished.about["photos"]
    skipped, enlarged = len(photos.get("skipped", [])), int(photos.get("enlarged", 0))
    left_out = f"; {_count(skipped, 'photo')} left out, see below" if skipped else ""
    larger = f"; {enlarged} of them enlarged to it" if enlarged else ""
    sentences = [
        f"{_count(len(finished.photos), 'photo')} of {photos.get('source', 'an unnamed set')}, measured at "
        f"{_sizes(finished)} (width x height){larger}{left_out}.",
        f"For each photo and each policy, a simulated user places clicks one at a time where the policy says. "
        f"{_click(finished.protocol)}",
        f"After {_listed([str(budget) for budget in finished.budgets])} clicks, {finished.name} "
        f"({finished.about['colorizer'].get('source', 'no source stated')}) colours the photo and the result is "
        "compared with the original.",
        "Every mean is over per-photo values, never over pooled pixels, of the photos for which a metric is "
        "defined; ranges and units stand with each metric.",
        f"Intervals are percentile bootstraps ({100 * CONFIDENCE:.0f} %) over photos with {RESAMPLES} resamples. "
        f"Differences are paired: a photo under one policy minus the same photo under {BASELINE} clicks. "
        "“Better” and “worse” mean that the interval leaves out zero. They are not corrected for the number of "
        "comparisons: of twenty between equals, one is expected to look different.",
        f"Seed {protocol['seed']}{_precision(protocol)}. Digest of the protocol: {finished.digest()}; only "
        "results with the same one compare.",
    ]
    if RULER in finished.policies:
        sentences.append(RULER_WORDS)
    exact = sum(record.exact for record in finished.records)
    if exact:
        sentences.append(
            f"{exact} values of photos without any error are infinite and count as a ceiling (100 dB)."
        )
    if preset := finished.about.get("preset"):
        changed = f", with other {_listed(preset['changed'])}" if preset.get("changed") else ""
        sentences.append(f"Preset {preset['name']}{changed}.")
    return sentences


def findings(finished: Finished) -> list[str]:
    """For each policy: on which metrics it beats random clicks at the most clicks, and on which it does not."""
    last = [one for one in finished.records if one.clicks == finished.budgets[-1] and one.verdict]
    sentences = []
    for policy in finished.policies:
        mine = [one for one in last if one.policy == policy]
        groups = {
            verdict: [METRICS[s.metric].label for s in mine if s.verdict == verdict] for verdict in _VERDICTS
        }
        parts = [f"{verdict} on {_listed(labels)}" for verdict, labels in groups.items() if labels]
        if parts:
            clicks = _count(finished.budgets[-1], "click")
            sentences.append(f"{policy} against {BASELINE} after {clicks}: {'; '.join(parts)}.")
    return sentences


def direction(metric: str) -> str:
    """Which way a metric is better."""
    words = {True: "higher is better", False: "lower is better", None: "more is neither better nor worse"}
    return words[METRICS[metric].higher_is_better]


def _click(protocol: Protocol) -> str:
    """What a click carries."""
    robot, hint = protocol.robot, protocol.hint_size
    patch = (
        f"the mean true colour of its {hint} x {hint} pixel patch" if hint > 1 else "the true colour of its pixel"
    )
    if robot == SimulatedUser():
        return f"A click carries {patch} (hint size {hint}) and hits its place exactly."
    return f"A click carries {patch} (hint size {hint}), with {robot.words}."


def _precision(protocol: dict[str, Any]) -> str:
    return f"; networks in {protocol['precision']}" if "precision" in protocol else ""


def _sizes(finished: Finished) -> str:
    low, high = finished.sizes.min(0), finished.sizes.max(0)
    size = f"{low[1]} x {low[0]}"
    return f"{size} px" if (low == high).all() else f"{size} to {high[1]} x {high[0]} px"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_MARKS = {"better": "▲ better", "worse": "▼ worse", "no different": "= no different"}


@dataclass(frozen=True)
class Cell:
    """A number, what it is compared with, and the verdict in words."""

    value: str
    gain: str = ""
    """With its interval; empty where nothing is compared."""
    verdict: str = ""
    style: str = ""
    """Class of the style sheet: "better", "worse" or nothing."""


@dataclass(frozen=True)
class Table:
    """Rows under one heading each."""

    caption: str
    corner: str
    """Heading of the rows' headings."""
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def metric_table(finished: Finished, metric: str) -> Table:
    """Means, differences to random with intervals, and verdicts: policies downwards, clicks to the right."""
    of = {(one.policy, one.clicks): one for one in finished.records if one.metric == metric}
    fewer = {one.photos for one in of.values()} - {0, len(finished.photos)}
    partly = f" Defined for {min(fewer)} photos at least." if fewer else ""
    return Table(
        caption=f"{METRICS[metric].title}: mean over photos, below it the difference to random clicks.{partly}",
        corner="clicks",
        columns=[str(budget) for budget in finished.budgets],
        rows=[
            (policy, [_cell(of[policy, budget]) for budget in finished.budgets]) for policy in finished.policies
        ],
    )


def glance_table(finished: Finished, budget: int) -> Table | None:
    """The verdicts on all metrics after one number of clicks; None where nothing is compared."""
    of = {(one.policy, one.metric): one for one in finished.records if one.clicks == budget and one.verdict}
    policies = [policy for policy in finished.policies if any(name == policy for name, _ in of)]
    if not policies:
        return None
    metrics = [metric for metric in finished.metrics if any(name == metric for _, name in of)]
    return Table(
        caption=f"Differences to random clicks after {budget} clicks, with their 95 % intervals",
        corner="policy",
        columns=[METRICS[metric].label for metric in metrics],
        rows=[
            (
                policy,
                [_difference(of[policy, metric]) if (policy, metric) in of else Cell("–") for metric in metrics],
            )
            for policy in policies
        ],
    )


def seconds_table(finished: Finished) -> Table | None:
    """Milliseconds per click: what a policy costs."""
    rows = []
    for policy in finished.policies:
        means = [mean_of(1000 * column) for column in finished.values(policy, "seconds_per_click").T]
        rows.append((policy, [Cell(f"{mean:.3g}" if math.isfinite(mean) else "–") for mean in means]))
    if all(cell.value == "–" for _, cells in rows for cell in cells):
        return None
    columns = [str(budget) for budget in finished.budgets]
    return Table("Milliseconds per click and photo: choosing, clicking and colouring", "clicks", columns, rows)


def nri_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Clicks to a level, and the share of photos that never reach it."""
    rows = [
        (
            e["policy"],
            [
                Cell(level_words(e["metric"], e["level"])),
                Cell(f"{e['mean']:.2f}", _interval(e["low"], e["high"], "", 2)),
                Cell(f"{100 * e['failures']:.1f} %"),
            ],
        )
        for e in entries
    ]
    columns = ["level", "clicks, mean with 95 % interval", "never reached"]
    return Table(
        "NRI: clicks to reach a level; a failure counts as one more than the most", "policy", columns, rows
    )


def fid_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Policies downwards, clicks to the right."""
    of = {(e["policy"], e["clicks"]): e["value"] for e in entries}
    budgets = sorted({e["clicks"] for e in entries})
    rows = []
    for policy in dict.fromkeys(e["policy"] for e in entries):
        values = [of.get((policy, budget)) for budget in budgets]
        rows.append((policy, [Cell("–" if value is None else f"{value:.2f}") for value in values]))
    columns = [str(budget) for budget in budgets]
    return Table("FID of the set of coloured photos to the originals; lower is better", "clicks", columns, rows)


def paper_table(paper: Mapping[str, Any]) -> Table:
    """A paper's figures beside ours, as `results.json` has them."""
    first, *columns = paper["columns"]
    rows = [(heading, [Cell(text or "–") for text in cells]) for heading, *cells in paper["rows"]]
    return Table(f"{paper['source']}, beside this benchmark", first, columns, rows)


def cycles_table(cycles: Sequence[Mapping[str, Any]]) -> Table:
    """A training's validation after each ping-pong cycle."""
    metrics = [metric for metric in METRICS if any(metric in cycle for cycle in cycles)]
    rows = []
    for cycle in cycles:
        values = [cycle.get(metric) for metric in metrics]
        cells = [Cell(cycle["policy"]), Cell(str(cycle["clicks"])), Cell(f"{cycle['images_seen']:,}")]
        cells += [
            Cell("–" if value is None else f"{value:.{METRICS[metric].decimals}f}")
            for metric, value in zip(metrics, values, strict=True)
        ]
        rows.append((str(cycle["cycle"]), cells))
    columns = ["policy", "clicks", "photos seen", *(METRICS[metric].title for metric in metrics)]
    return Table("Validation of this training after each cycle", "cycle", columns, rows)


def level_words(metric: str, level: float) -> str:
    """Such as "ab PSNR of 30 dB"."""
    unit = f" {METRICS[metric].unit}" if METRICS[metric].unit else ""
    return f"{METRICS[metric].label} of {level:g}{unit}"


def _cell(record: Record) -> Cell:
    decimals = METRICS[record.metric].decimals
    value = f"{record.value:.{decimals}f}" if math.isfinite(record.value) else "–"
    if record.gain is None or not math.isfinite(record.gain):
        return Cell(value)
    difference = _difference(record)
    return Cell(value, f"{difference.value} {difference.gain}", difference.verdict, difference.style)


def _difference(record: Record) -> Cell:
    decimals = METRICS[record.metric].decimals
    style = record.verdict if record.verdict in ("better", "worse") else ""
    gain = f"{record.gain:+.{decimals}f}"
    interval = _interval(record.gain_low, record.gain_high, "+", decimals)
    return Cell(gain, interval, _MARKS.get(record.verdict, ""), style)


def _interval(low: float | None, high: float | None, sign: str, decimals: int) -> str:
    if low is None or high is None or math.isnan(low):
        return ""
    return f"[{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"
