"""Search: spaces, Optuna's samplers, population-based training, presets."""
