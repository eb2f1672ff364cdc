"""How the next trial is chosen: spaces, Optuna's samplers, population-based training, and sweeps to start from."""
