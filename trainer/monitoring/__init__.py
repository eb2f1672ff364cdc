"""Monitoring of a training: MLflow, terminal, Prometheus, profiler traces, slow and hanging ranks."""
