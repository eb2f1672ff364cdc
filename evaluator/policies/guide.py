"""Policy that follows a learned guide."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from evaluator.policies.base import State, needed
from evaluator.registry.networks import Guide, reads_features, run_network
from kernels.clicks import clicked, masked_argmax


@dataclass(frozen=True, kw_only=True)
class GuidePolicy:
    """The unclicked pixel with the guide's (EditNet's) largest logit."""

    guide: Guide
    blind: bool
    """Whether the guide does without the truth; a blind guide is called with `truth_ab=None`."""
    autocast: torch.dtype | None = None
    """Run the guide under autocast in this dtype."""
    needs_prediction = True
    needs_colorizer = False

    @property
    def needs_truth(self) -> bool:
        """True for an oracle guide."""
        return not self.blind

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Ask the guide; ties go to the first pixel."""
        truth = None if self.blind else needed(state.truth_ab, "truth_ab")
        seen = needed(state.predicted_ab, "predicted_ab")
        more = {"features": needed(state.features, "features")} if reads_features(self.guide) else {}
        logits = run_network(
            self.guide, state.lightness, seen, state.clicks, truth, autocast=self.autocast, **more
        )
        return masked_argmax(logits, clicked(state.clicks))
