"""What every request passes: security, logs and Prometheus figures."""
