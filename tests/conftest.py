"""Fixtures that tests of several folders share."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.peers import SinkServer
from tests.support.relay import Relay, SandboxRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

# they have hosts at port 25 of addresses of their own, some of them the same
WANT_PORT_25 = {
    "test_dane.py",
    "test_doors.py",
    "test_lookup.py",
    "test_mta_sts.py",
    "test_mta_sts_dane.py",
    "test_mx.py",
}

# How long an example takes says what else the machine does. What never ends, pytest's own timeout ends.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="module", autouse=True)
def port_25(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where tests run in several processes: modules that want the same ports of the machine take turns."""
    module: Path = request.path
    if module.parent.name != "bench" and module.name not in WANT_PORT_25:
        yield
        return
    with (Path(tempfile.gettempdir()) / f"angarium-tests-port-25-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxRelay]:
    """A running sandbox, one for the module."""
    with Relay.sandbox(tmp_path_factory.mktemp("sandbox")) as relay:
        assert isinstance(relay, SandboxRelay)
        yield relay


@pytest.fixture
def sink() -> Iterator[SinkServer]:
    """A next hop that takes everything, until the test scripts it."""
    with SinkServer() as server:
        yield server
