"""How fast each part is, compared with what else a user could pick; what every number means stands in
docs/performance.md. The command is ``petseg-bench``; from Python, see ``run_loader_benchmark`` and ``compare_results``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loader_benchmark": ["run_loader_benchmark"],
        "settings": ["LoaderSettings"],
        "results.comparison": ["compare_results"],
        "results.records": ["Results", "read_results"],
    },
)
