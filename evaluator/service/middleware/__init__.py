"""Middleware of every request: security, logs and Prometheus metrics."""
