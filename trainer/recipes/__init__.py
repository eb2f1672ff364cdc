"""Recipes: phases over named networks, and their losses. Imports networks and kernels."""
