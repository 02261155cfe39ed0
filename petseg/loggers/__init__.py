"""Where the metrics of a run go: metrics.jsonl, and on request TensorBoard, Weights & Biases and MLflow."""
