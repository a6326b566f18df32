"""Connecting: a broken path to one address does not delay mail to the other, and the limits hold."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from angarium.delivery import dial
from angarium.delivery.dial import Dialler, by_name, families_of
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.source import Source, SourceFailure
from angarium.delivery.target import Host
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


def can_use_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not can_use_ipv6(), reason="this machine has no ::1")


class BlackHole:
    """Takes no connection and refuses none: its queue is full, so that the kernel is silent."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(self.family, socket.SOCK_STREAM)
        self.socket.bind((address, port))
        self.socket.listen(0)
        self.port = self.socket.getsockname()[1]
        self.fillers = []
        for _ in range(3):
            filler = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            filler.connect_ex((address, self.port))
            self.fillers.append(filler)

    def close(self) -> None:
        for each in (*self.fillers, self.socket):
            each.close()


@pytest.fixture
def hole() -> Iterator[BlackHole]:
    hole = BlackHole("::1", free_port())  # which 127.0.0.1 has free, too
    yield hole
    hole.close()


@pytest.fixture
def listener(hole: BlackHole) -> Iterator[socket.socket]:
    """Answers at 127.0.0.1, on the port of the black hole."""
    with socket.create_server(("127.0.0.1", hole.port)) as listener:
        yield listener


def make(**options: object) -> Dialler:
    given = {"loopback_only": False, "stagger_s": 0.05} | options
    return Dialler(**given)  # type: ignore[arg-type]


def hosts(port: int, *addresses: str) -> list[Host]:
    return [Host("mx.example", address, port) for address in addresses]


@needs_ipv6
async def test_the_next_address_does_not_wait_for_one_that_is_silent(hole: BlackHole, listener: socket.socket) -> None:
    left = hosts(hole.port, "::1", "127.0.0.1")
    host, connected = await make().dial(left, timeout_s=30.0, probe=False)
    with connected:
        assert host.address == "127.0.0.1"
        assert connected.getpeername() == listener.getsockname()
    assert [each.address for each in left] == ["::1"], "it has not failed, and may be tried when the other is of no use"


@needs_ipv6
async def test_a_family_that_keeps_losing_goes_behind_the_other(
    hole: BlackHole, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    dialler = make()
    connect = dialler._connect

    async def note(host: Host, timeout_s: float, probe: bool, source: Source | None) -> socket.socket:
        tried.append(host.address)
        return await connect(host, timeout_s, probe, source)

    monkeypatch.setattr(dialler, "_connect", note)
    for _ in range(dial.LOSSES + 2):
        _, connected = await dialler.dial(hosts(hole.port, "::1", "127.0.0.1"), timeout_s=30.0, probe=False)
        connected.close()
    assert tried == ["::1", "127.0.0.1"] * dial.LOSSES + ["127.0.0.1"] * 2


async def test_an_address_that_is_refused_is_passed_over_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        left = hosts(port, "127.0.0.9", "127.0.0.1")
        host, connected = await make(stagger_s=60.0).dial(left, timeout_s=30.0, probe=False)
        connected.close()
    assert (host.address, left) == ("127.0.0.1", [])


async def test_when_all_fail_the_last_one_is_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    left = hosts(port, "127.0.0.8", "127.0.0.9")
    with pytest.raises(ConnectFailure, match=r"^mx\.example\[127\.0\.0\.9\]:\d+: Connection refused$"):
        await make().dial(left, timeout_s=30.0, probe=False)
    assert left == []


async def test_a_connection_begins_where_its_source_says() -> None:
    source = Source("s", {socket.AF_INET: "127.0.0.5"}, "s.example")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for left in (hosts(port, "127.0.0.1"), hosts(port, "127.0.0.9", "127.0.0.1")):
            _, connected = await make().dial(left, timeout_s=30.0, probe=False, source=source)
            with connected:
                assert connected.getsockname()[0] == "127.0.0.5"


async def test_a_source_that_cannot_be_bound_is_no_failure_of_the_host() -> None:
    source = Source("s", {socket.AF_INET: "192.0.2.1"}, "s.example")
    for left in (hosts(25, "127.0.0.1"), hosts(25, "127.0.0.1", "127.0.0.2")):
        with pytest.raises(SourceFailure, match=r"source s: 192\.0\.2\.1: Cannot assign requested address"):
            await make().dial(left, timeout_s=30.0, probe=False, source=source)
    assert set(source.down) == {socket.AF_INET}
    with pytest.raises(SourceFailure, match="source s has no IPv6 address"):
        await make().dial(hosts(25, "::1"), timeout_s=30.0, probe=False, source=source)


@needs_ipv6
async def test_what_a_host_says_counts_before_what_a_source_cannot_do() -> None:
    source = Source("s", {socket.AF_INET: "127.0.0.5", socket.AF_INET6: "2001:db8::1"}, "s.example")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for addresses in (("::1", "127.0.0.1"), ("127.0.0.1", "::1")):
        with pytest.raises(ConnectFailure, match="Connection refused") as failure:
            await make(stagger_s=60.0).dial(hosts(port, *addresses), timeout_s=30.0, probe=False, source=source)
        assert not isinstance(failure.value, SourceFailure)
    with socket.create_server(("127.0.0.1", port)):
        host, connected = await make().dial(hosts(port, "::1", "127.0.0.1"), timeout_s=30.0, probe=False, source=source)
        connected.close()
        assert host.address == "127.0.0.1"


async def test_the_sandbox_reaches_this_machine_only() -> None:
    with pytest.raises(ConnectFailure, match="the sandbox delivers on this machine only"):
        await make(loopback_only=True).dial(hosts(25, "192.0.2.1"), timeout_s=30.0, probe=False)


@pytest.mark.parametrize(("probe", "limit"), [(False, "MOST_OPENING"), (True, "MOST_PROBING")])
async def test_every_address_that_is_tried_counts(probe: bool, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, limit, 3)
    hole = BlackHole("127.0.0.1")
    opening = peak = 0
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    connect = loop.sock_connect

    async def count(sock: socket.socket, address: tuple[str, int]) -> None:
        nonlocal opening, peak
        opening += 1
        peak = max(peak, opening)
        if opening == 3:
            enough.set()
        try:
            await connect(sock, address)
        finally:
            opening -= 1

    monkeypatch.setattr(loop, "sock_connect", count)
    dialler = make(stagger_s=0.0)
    calls = [
        asyncio.create_task(dialler.dial(hosts(hole.port, "127.0.0.1", "127.0.0.1"), timeout_s=30.0, probe=probe))
        for _ in range(4)
    ]
    await enough.wait()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    hole.close()
    assert (peak, opening) == (3, 0)


async def test_names_of_the_configuration_are_looked_up_in_the_wanted_order() -> None:
    for preference in ("ipv4-first", "ipv4-only"):
        dialler = make(families=families_of(preference))
        found = await dialler.addresses_of(Host("localhost", "localhost", 2525))
        assert (found[0].address, found[0].name, found[0].port) == ("127.0.0.1", "localhost", 2525)
        assert preference == "ipv4-first" or {host.address for host in found} == {"127.0.0.1"}
    literal = Host("192.0.2.1", "192.0.2.1")
    assert await make(families=families_of("ipv6-only")).addresses_of(literal) == [literal], "the operator's own choice"
    assert await make().addresses_of(Host("x", "no such name.invalid")) == []


def test_the_addresses_of_one_host_are_tried_together() -> None:
    one, two, other = Host("a", "192.0.2.1"), Host("a", "2001:db8::1"), Host("b", "192.0.2.2")
    assert by_name([one, two, other]) == [[one, two], [other]]
