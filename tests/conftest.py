"""Fixtures that tests of several folders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.peers import SinkServer
from tests.support.relay import Relay, SandboxRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

WANT_THE_SAME_ADDRESSES = {"test_lookup.py", "test_mx.py"}

# How long an example takes says what else the machine does. What never ends, pytest's own timeout ends.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, a module is one process's, and so are the benches, and those that want the same addresses."""
    for item in items:
        group = item.path
        if group.parent.name == "bench":
            group = group.parent
        elif group.name in WANT_THE_SAME_ADDRESSES:
            group = group.with_name("the same addresses")
        item.add_marker(pytest.mark.xdist_group(group.as_posix()))


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
