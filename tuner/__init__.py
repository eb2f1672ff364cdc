"""Hyperparameter search over the trainer's settings with Ray Tune."""
