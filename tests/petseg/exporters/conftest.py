"""torch's table of ONNX operators, which each export builds anew in one or two seconds, is built once a process."""

from __future__ import annotations

import functools

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_operator_table() -> None:
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    registry = registration.ONNXRegistry
    if isinstance(vars(registry).get("from_torchlib"), classmethod):  # else each export builds its own
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
