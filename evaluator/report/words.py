"""The report's sentences: how it was measured, and what was found."""

from collections.abc import Sequence
from typing import Any

from evaluator.finished import Finished
from evaluator.intervals import CONFIDENCE, RESAMPLES
from evaluator.metrics import METRICS
from evaluator.results import BASELINE, RULER, RULER_WORDS, Summary
from evaluator.robot import Robot

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
        f"For each photo and each policy, a robot user places clicks one at a time where the policy says. "
        f"{_click(protocol)}",
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
    exact = sum(summary.exact for summary in finished.summaries())
    if exact:
        sentences.append(
            f"{exact} values of photos without any error are infinite and count as a ceiling (100 dB)."
        )
    if preset := finished.about.get("preset"):
        changed = f", with other {_listed(preset['changed'])}" if preset.get("changed") else ""
        sentences.append(f"Preset {preset['name']}{changed}.")
    return sentences


def findings(finished: Finished, summaries: Sequence[Summary]) -> list[str]:
    """For each policy: on which metrics it beats random clicks at the most clicks, and on which it does not."""
    last = [one for one in summaries if one.clicks == finished.budgets[-1] and one.verdict]
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


def _click(protocol: dict[str, Any]) -> str:
    """What a click carries."""
    robot = Robot(**protocol["robot"])
    hint = int(protocol["hint_size"])
    stamp = (
        f"the mean true colour of its {hint} x {hint} pixel stamp" if hint > 1 else "the true colour of its pixel"
    )
    if robot == Robot():
        return f"A click carries {stamp} (hint size {hint}) and hits its place exactly."
    return f"A click carries {stamp} (hint size {hint}), with {robot.words}."


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
