"""Fixtures that tests of several folders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.peers import SinkServer
from tests.support.relay import Relay, SandboxRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says what else the machine does. What never ends, pytest's own timeout ends.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


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
