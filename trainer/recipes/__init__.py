"""Recipes: phases over named networks, with their settings and losses. Imports networks, kernels and metrics."""

from trainer.recipes.base import Recipe, RecipeConfig
from trainer.recipes.pingpong import PingPong

RECIPES: dict[str, type[RecipeConfig]] = {PingPong.name: PingPong}
"""Every system by name."""

__all__ = ["RECIPES", "PingPong", "Recipe", "RecipeConfig"]
