"""One server of S3 for all tests of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_servers import FaultPlan, FaultProxy, s3_server


@pytest.fixture(scope="package")
def running_server() -> Iterator[FaultProxy]:
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running_server: FaultProxy) -> FaultProxy:
    running_server.plan = FaultPlan()
    return running_server
