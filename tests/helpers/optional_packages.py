"""Tests of packages that need not be installed, and that only those tests import: that takes seconds."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(package: str, *, extra: str) -> pytest.MarkDecorator:
    """Skip tests without a package, which the project installs with ``extra``."""
    reason = f"{package} is not installed: pip install 'petseg[{extra}]'"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)
