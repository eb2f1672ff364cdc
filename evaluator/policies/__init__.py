"""Click policies: small objects with `choose(state) -> choice`."""

from evaluator.policies.base import Policy, State
from evaluator.policies.baseline import FarthestPolicy, GaussianPolicy, GridPolicy, RandomPolicy
from evaluator.policies.catalogue import GUIDES, NAMES, make
from evaluator.policies.greedy import ExpectedReductionPolicy, GreedyPolicy
from evaluator.policies.guide import GuidePolicy
from evaluator.policies.oracle import BlurredErrorPolicy, MaxErrorPolicy, RegionCenterPolicy
from evaluator.policies.uncertainty import Imagination, UncertaintyPolicy

__all__ = [
    "GUIDES",
    "NAMES",
    "BlurredErrorPolicy",
    "ExpectedReductionPolicy",
    "FarthestPolicy",
    "GaussianPolicy",
    "GreedyPolicy",
    "GridPolicy",
    "GuidePolicy",
    "Imagination",
    "MaxErrorPolicy",
    "Policy",
    "RandomPolicy",
    "RegionCenterPolicy",
    "State",
    "UncertaintyPolicy",
    "make",
]
