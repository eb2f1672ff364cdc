"""What is said in a line: a step's losses beside the progress bar, a validation after its stage."""

from collections.abc import Mapping

from evaluator.protocol.results import Results
from trainer.recipes import Stage
from trainer.validation import middle_budget


def first_losses(stage: Stage, losses: Mapping[str, float]) -> dict[str, float]:
    """The first term of each phase, named shortly enough for a progress bar."""
    found: dict[str, float] = {}
    for phase in stage.phases:
        terms = [name for name in losses if name.startswith(f"{phase.name}/")]
        if terms:
            alone = len(stage.phases) == 1
            label = terms[0].partition("/")[2] if alone else phase.name.rpartition("-")[2]
            found[label] = losses[terms[0]]
    return found


def headline(results: Results) -> str:
    """Each policy's mean ab PSNR at the middle of the curve, in a line."""
    middle = middle_budget(results.protocol.clicks)
    found = {s.policy: s.mean for s in results.table() if s.metric == "ab_psnr" and s.clicks == middle}
    return f"ab PSNR at {middle} clicks: " + ", ".join(f"{name} {value:.2f} dB" for name, value in found.items())
