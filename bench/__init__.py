"""How fast each part is, beside what else a user could pick; what every number means stands in docs/performance.md.

Each loader runs in a process of its own and takes its turns in rounds with the others. Before it is timed, what it
delivers is checked against ours: every sample exactly once, the same masks, the same pictures within a tolerance.
The commands are ``petseg-bench loader``, ``train``, ``build``, ``compare``, ``show`` and ``figures``.

from bench import compare_results, read_results

compare_results(read_results(Path("a.json")), read_results(Path("b.json"))).lines
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.compare import compare_results as compare_results
    from bench.loader_bench import run_loader_bench as run_loader_bench
    from bench.loader_settings import LoaderSettings as LoaderSettings
    from bench.results import Results as Results
    from bench.results import read_results as read_results

_PLACES = {
    "LoaderSettings": "bench.loader_settings",
    "Results": "bench.results",
    "compare_results": "bench.compare",
    "read_results": "bench.results",
    "run_loader_bench": "bench.loader_bench",
}
__all__ = ["LoaderSettings", "Results", "compare_results", "read_results", "run_loader_bench"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
