"""How fast each part is, beside what else a user could pick; what every number means stands in docs/performance.md.

Each loader runs in a process of its own and takes its turns in rounds with the others. Before it is timed, what it
delivers is checked against ours: every sample exactly once, the same masks, the same pictures within a tolerance.
Nothing is exported for use from Python: the commands are ``petseg-bench loader``, ``train``, ``build``, ``compare``,
``show`` and ``figures``.
"""
