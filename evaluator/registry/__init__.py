"""Exported networks: their contract, their loading, and the MLflow registry or folder that they come from."""
