"""A tail of new names beside slow name servers: bounded, and in nobody's way."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.resolver import Limits, Resolver
from tests.support.dns import NameServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KNOWN = 20
TAIL = 20_000
NEVER_S = 3600.0  # what depends on it ends with pytest's own timeout
ZONE = "\n".join(f"known{number} 60 IN MX 10 mx\n" for number in range(KNOWN)) + "mx 600 IN A 192.0.2.1\n"


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        server.zone("known.test.", ZONE)
        server.zone("tail.test.", "* 60 IN MX 10 mx.known.test.")
        yield server


def make(server: NameServer, clock: FakeClock, **limits: object) -> Resolver:
    given: dict[str, object] = {"timeout_s": NEVER_S, "rounds": 1, "on_the_wire": 50, "known_on_the_wire": 5} | limits
    return Resolver(
        hostnames=["relay.example.net"],
        monotonic=clock,
        random=random.Random(1),
        servers=[server.address],
        families=("A",),
        limits=Limits(**given),  # type: ignore[arg-type]
    )


async def test_known_names_do_not_wait_for_a_tail_of_new_ones(server: NameServer) -> None:
    clock = FakeClock()
    resolver = make(server, clock, questions=500, stale_after_s=NEVER_S)
    for number in range(KNOWN):
        await resolver.mail_hosts(f"known{number}.known.test")
    server.hold(below="tail.test")
    refused = 0
    waiting = []
    for number in range(TAIL):
        task = asyncio.create_task(resolver.mail_hosts(f"d{number}.tail.test"))
        waiting.append(task)
        if number % 1000 == 999:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            refused += sum(task.done() for task in waiting)
            for task in waiting:
                if task.done():
                    with pytest.raises(ResolutionFailure, match="451"):
                        task.result()
            waiting = [task for task in waiting if not task.done()]
    await server.wait_for_queries(KNOWN + 1 + 50)
    assert resolver.under_way <= 500
    assert refused >= TAIL - 500 - 1000
    # all that is known has expired, and every place on the wire for new names is taken by a silent one
    clock.time += 61
    before = len(server.queries)
    found = await asyncio.gather(*(resolver.mail_hosts(f"known{number}.known.test") for number in range(KNOWN)))
    assert [each.hosts[0].name for each in found] == ["mx.known.test"] * KNOWN
    assert all(each.expires == clock() + 60 for each in found), "fresh answers, not stale ones"
    asked = [name for name, _, _ in server.queries[before:]]
    assert sorted(asked) == sorted(f"known{number}.known.test" for number in range(KNOWN))
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await resolver.close()


async def test_a_name_that_is_known_is_not_waited_for(server: NameServer) -> None:
    clock = FakeClock()
    resolver = make(server, clock, stale_after_s=0.02)
    first = await resolver.mail_hosts("known0.known.test")
    server.hold()
    clock.time += 61
    stale = await resolver.mail_hosts("known0.known.test")
    assert (stale.hosts, stale.expires) == (first.hosts, clock() + 30)
    assert resolver.stale_answers == 1
    server.release()
    while resolver.under_way:
        await asyncio.sleep(0)
    assert (await resolver.mail_hosts("known0.known.test")).expires == clock() + 60, "the question went on meanwhile"
    assert len(server.queries) == 3
    await resolver.close()


async def test_what_was_known_survives_the_tail(server: NameServer) -> None:
    """The cache has room for far fewer names than come by."""
    clock = FakeClock()
    resolver = make(server, clock, entries=100)
    for _ in range(2):
        for number in range(KNOWN):
            await resolver.mail_hosts(f"known{number}.known.test")
    asked = len(server.queries)
    server.zone("tail.test.", "\n".join(f"d{number} 60 IN MX 10 mx.known.test." for number in range(500)))
    for number in range(500):
        await resolver.mail_hosts(f"d{number}.tail.test")
    assert len(server.queries) == asked + 500
    for number in range(KNOWN):
        await resolver.mail_hosts(f"known{number}.known.test")
    assert len(server.queries) == asked + 500
    await resolver.close()
