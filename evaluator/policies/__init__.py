"""Policies: who says where the next click goes. Each is a small object with `choose(state) -> choice`."""

from evaluator.policies.error import BlurredErrorPolicy, MaxErrorPolicy, RegionCentrePolicy
from evaluator.policies.guide import GuidePolicy
from evaluator.policies.interface import Policy, State
from evaluator.policies.spread import FarthestPolicy, GaussianPolicy, GridPolicy, RandomPolicy

__all__ = [
    "BlurredErrorPolicy",
    "FarthestPolicy",
    "GaussianPolicy",
    "GridPolicy",
    "GuidePolicy",
    "MaxErrorPolicy",
    "Policy",
    "RandomPolicy",
    "RegionCentrePolicy",
    "State",
]
