"""What was measured: records, goals, comparison of runs, and their tables, figure and documents.

Nothing here measures, and nothing here imports :mod:`bench.core` or :mod:`bench.peers`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Comparison", "compare_results"],
        "goals": ["GOALS", "Verdict", "verdicts"],
        "records": ["Results", "read_results"],
        "result_page": ["markdown", "update_document"],
    },
)
