"""Evaluation and serving of colorizers: metrics, policies, protocol, benchmark, registry, service."""
