"""The click protocol: what every number means. Imports metrics, policies, registry and baselines."""
