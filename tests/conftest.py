"""Fixtures that tests of several folders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.peers import SinkServer
from tests.support.relay import Relay, SandboxRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

# they have hosts at port 25 of addresses of their own, and a bench has one at all addresses
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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, a module is one process's, and so are all that want the same ports of the machine."""
    for item in items:
        same = item.path.parent.name == "bench" or item.path.name in WANT_PORT_25
        item.add_marker(pytest.mark.xdist_group("port 25" if same else item.path.as_posix()))


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
