"""What people see of a run: progress on the console, and the curves, gallery and HTML report in the run's folder."""

import logging

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "artifacts": ["draw_run"],
        "console_reporter": ["ConsoleReporter", "Reporter"],
        "curves": ["draw_curves"],
        "gallery": ["draw_gallery"],
        "sample_predictions": ["choose_images", "predict_sample"],
        "html_report": ["render_report"],
    },
)


def _concerns_no_user(record: logging.LogRecord) -> bool:
    """Where HOME cannot be written, matplotlib says that it keeps what it knows of fonts in a temporary folder."""
    said = ("mkdir -p failed", "is not a writable directory", "created a temporary cache directory")
    return not any(each in record.getMessage() for each in said)


logging.getLogger("matplotlib").addFilter(_concerns_no_user)  # before matplotlib is imported
