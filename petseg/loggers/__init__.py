"""Where the metrics of a run go: metrics.jsonl, and on request TensorBoard, Weights & Biases and MLflow."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "metrics_logger": ["LoggedRun", "MetricsLogger", "epoch_values"],
        "run_loggers": ["RunLoggers", "make_loggers"],
    },
)
