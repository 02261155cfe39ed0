"""How fast each part is, compared with what else a user could pick; what every number means stands in
docs/performance.md. The command is ``petseg-bench``; from Python, ``compare_results(read_results(Path("a.json")), ...)``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loader_benchmark": ["run_loader_benchmark"],
        "loader_plan": ["LoaderSettings"],
        "results.comparison": ["compare_results"],
        "results.records": ["Results", "read_results"],
    },
)
