"""What is watched and recorded of a training: MLflow, the terminal, Prometheus, traces, slow and silent ranks."""
