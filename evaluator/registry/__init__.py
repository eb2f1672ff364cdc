"""Exported networks: contracts, loading, and the MLflow registry or folder that holds them."""
