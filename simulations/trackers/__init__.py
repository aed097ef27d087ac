"""A run shown elsewhere while it goes on: TensorBoard, W&B, MLflow, trackio and what users add."""
