"""The addresses that connections leave by, and which of them a message takes.

Input: the [[source]] and [[source_pool]] tables, messages with the outlet that compiled code has assigned to them
(angarium._core.source_pool), and their routes. Output: a Choice: the sources that may carry a message, the assigned one
first and the others of its pool behind it, in the order of the pool; none: the system chooses the address.

A message's own pool, which its record names, goes before that of its route. Mail whose own pool the configuration does
not have goes as mail that has none. A route's pool is known when the way of a message is looked for: then the message
is assigned to an outlet of it, and compiled code is told that mail to the domain is (`Choice.detour`).

Fails: an address that cannot be bound makes its source, or a family of it, count as down; SourceFailure says so to who
wanted a connection, and `look_again` finds out when it can be bound after all. Nothing waits for a source that is down
while its pool has another that will do.

Bounds: what is kept is of the size of the configuration.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Slot
from angarium.delivery.failure import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from angarium._core.counters import Counters
    from angarium._core.dispatch import Dispatcher
    from angarium._core.record import Message
    from angarium._core.source_pool import Outlet, SourcePool, SourcePools
    from angarium.config.model import Source as SourceConfig
    from angarium.config.model import SourcePool as PoolConfig

__all__ = ["NO_CHOICE", "Choice", "Source", "SourceFailure", "Sources", "can_be_bound", "change_pools"]

IP_BIND_ADDRESS_NO_PORT = 24  # <linux/in.h>: the port is chosen with the connection, and may serve many hosts at once
FAMILY_NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


class SourceFailure(ConnectFailure):
    """No connection can be made from the source; the host was not tried."""


class Source:
    """One source, and whether its addresses can be bound.

    `hostname`: what it says in EHLO. `down`: by family, why its address cannot be bound.
    """

    def __init__(self, name: str, addresses: dict[socket.AddressFamily, str], hostname: str) -> None:
        self.name = name
        self.addresses = addresses
        self.hostname = hostname
        self.down: dict[socket.AddressFamily, str] = {}

    def __repr__(self) -> str:
        return f"<Source {self.name}>"

    def bind(self, opening: socket.socket, where: str) -> None:
        """Have a connection begin at the address of its family; SourceFailure when it cannot."""
        family = socket.AddressFamily(opening.family)
        address = self.addresses.get(family)
        if address is None:
            raise SourceFailure(Phase.PHASE_CONNECT, f"{where}: {self.without(family)}")
        with contextlib.suppress(OSError):
            opening.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        try:
            opening.bind((address, 0))
        except OSError as failure:
            why = os.strerror(failure.errno) if failure.errno else str(failure)
            self.down[family] = f"source {self.name}: {address}: {why}"
            raise SourceFailure(Phase.PHASE_CONNECT, f"{where}: {self.down[family]}") from failure

    def without(self, family: socket.AddressFamily) -> str:
        """What is said when it has no address of a family."""
        return f"source {self.name} has no {FAMILY_NAMES[family]} address"

    def why_not(self, families: Sequence[socket.AddressFamily]) -> str:
        """Why it cannot reach hosts that have addresses of these families only; empty when it can."""
        if any(family in self.addresses and family not in self.down for family in families):
            return ""
        return "; ".join(self.down.get(family) or self.without(family) for family in families)

    def look_again(self) -> list[socket.AddressFamily]:
        """Try what could not be bound; which families can be now."""
        found = [family for family in self.down if can_be_bound(self.addresses[family], family) is None]
        for family in found:
            del self.down[family]
        return found


def change_pools(dispatcher: Dispatcher, pools: Sequence[PoolConfig]) -> None:
    """From now on mail is assigned to these pools. Call it before there is mail, too."""
    found = dispatcher.schedule.pools
    found.change(
        [
            (pool.name.encode("ascii"), [(member.source.encode("ascii"), member.weight) for member in pool.members])
            for pool in pools
        ]
    )
    for outlet in found.outlets:
        if outlet is not None:
            outlet.down = False
    dispatcher.note_suspended_sources()


def _missing(pools: SourcePools) -> dict[int, bytes]:
    """Outlets whose pool is not there, and its name."""
    return {outlet.number: outlet.pool for outlet in pools.outlets if outlet is not None and outlet.missing}


def can_be_bound(address: str, family: socket.AddressFamily) -> str | None:
    """Why a connection cannot begin at the address; None when it can."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trying:
            trying.bind((address, 0))
    except OSError as failure:
        if failure.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            return None  # no word about the address
        return os.strerror(failure.errno) if failure.errno else str(failure)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """By what some mail leaves. `number`: the outlet for which its way is remembered.

    `detour`: mail of that outlet first goes to that pool, which may be remembered of its domain.
    """

    number: int
    pool: str = ""
    candidates: tuple[tuple[Outlet, Source], ...] = ()
    detour: tuple[int, SourcePool] | None = None

    def usable(self) -> Iterator[Source]:
        """The assigned source, and then those that may stand in for it."""
        for position, (outlet, source) in enumerate(self.candidates):
            if position == 0 or not outlet.suspended:
                yield source


NO_CHOICE = Choice(0)


@dataclass
class Sources:
    """Those of one configuration, in one worker."""

    dispatcher: Dispatcher
    counters: Counters
    sources: tuple[SourceConfig, ...]
    pools: tuple[PoolConfig, ...]
    hostname: str
    _by_name: dict[str, Source] = field(init=False)
    _plain: dict[int, Choice] = field(default_factory=dict, init=False)
    _said: set[tuple[str, str]] = field(default_factory=set, init=False)
    _down: set[tuple[Source, socket.AddressFamily]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._by_name = {
            source.name: Source(source.name, source.addresses, source.hostname or self.hostname)
            for source in self.sources
        }

    def take_over(self) -> None:
        """From now on mail is assigned to these; what waits follows."""
        pools = self.dispatcher.schedule.pools
        before = _missing(pools)
        change_pools(self.dispatcher, self.pools)
        gone = {number: name for number, name in _missing(pools).items() if number not in before}
        waiting: dict[bytes, int] = {}
        for queue in self.dispatcher.schedule.queues if gone else ():
            if queue is not None and queue.outlet in gone:
                name = gone[queue.outlet]
                waiting[name] = waiting.get(name, 0) + queue.members
        self._say_missing(waiting)

    # -------------------------------------------------------------- which

    def choose(self, message: Message, pool_of_route: str | None, *, leaves: bool) -> Choice:
        """By what a message goes; `leaves`: its next hop is reached over a network."""
        pools = self.dispatcher.schedule.pools
        outlet = pools.outlets[message.outlet]
        if outlet is not None and outlet.instead is not None:
            self.dispatcher.change_outlet(message, outlet.instead.take())
            outlet = pools.outlets[message.outlet]
        if not leaves:
            return self._without(message.outlet)
        if outlet is not None and not outlet.by_route and not outlet.missing:
            return self._by(outlet.number, outlet)
        if pool_of_route is None:
            if outlet is None or not outlet.by_route:
                return self._without(message.outlet)
            detour = (outlet.number, pools.none)  # its route had a pool, and has none now
            if message.recipients == 1:
                self.dispatcher.change_outlet(message, 0)
            return Choice(0, detour=detour)
        pool = pools.of_routes[pool_of_route.encode("ascii")]
        if outlet is not None and outlet.by_route and outlet.pool == pool.name:
            return self._by(outlet.number, outlet)
        taken = pools.outlets[pool.take()]
        if taken is None:
            return self._without(message.outlet)
        if outlet is not None and outlet.missing:
            return self._by(outlet.number, taken)
        before = message.outlet
        if message.recipients == 1:
            self.dispatcher.change_outlet(message, taken.number)
        return self._by(taken.number, taken, detour=(before, pool))

    def of_pool(self, pool: str | None) -> Choice:
        """What mail of a pool would go by; nothing is assigned."""
        found = self.dispatcher.schedule.pools.own.get((pool or "").encode("utf-8"))
        return NO_CHOICE if found is None or not found.outlets else self._by(0, found.outlets[0])

    def _without(self, number: int) -> Choice:
        """The system chooses the address."""
        if number == 0:
            return NO_CHOICE
        return self._plain.setdefault(number, Choice(number))

    def _by(self, number: int, outlet: Outlet, *, detour: tuple[int, SourcePool] | None = None) -> Choice:
        pools = self.dispatcher.schedule.pools
        pool = (pools.of_routes if outlet.by_route else pools.own)[outlet.pool]
        at = pool.outlets.index(outlet)
        candidates = tuple(
            (each, self._by_name[each.source.decode("ascii")]) for each in pool.outlets[at:] + pool.outlets[:at]
        )
        return Choice(number, pool.name.decode("ascii"), candidates, detour)

    # -------------------------------------------------------------- what cannot be used

    def note_down(self) -> None:
        """Say what is new of sources that cannot be bound, and assign no new mail to one without an address."""
        before = len(self._down)
        for source in self._by_name.values():
            for family, why in source.down.items():
                if (source, family) not in self._down:
                    self._down.add((source, family))
                    self.dispatcher.events.event(
                        "source_down", {"source": source.name, "address": source.addresses[family], "why": why}
                    )
        if len(self._down) > before:
            self._mark()

    def replaced(self, choice: Choice, by: Source, why: str) -> None:
        """Another source of the pool took the place of the assigned one."""
        _, first = choice.candidates[0]
        self.counters.add(Slot.DELIVERY_SOURCE_REPLACED, 1)
        if (first.name, by.name) not in self._said:
            self._said.add((first.name, by.name))
            self.dispatcher.events.event(
                "source_replaced", {"source": first.name, "pool": choice.pool, "by": by.name, "why": why}
            )

    def look_again(self) -> bool:
        """Try what is down; whether something can be used again. Call it about once a second."""
        self.note_down()
        back = False
        for source, family in tuple(self._down):
            if family not in source.down or family in source.look_again():
                back = True
                self._down.discard((source, family))
                self.dispatcher.events.event("source_up", {"source": source.name, "address": source.addresses[family]})
        if back:
            self._said.clear()
            self._mark()
        return back

    def _mark(self) -> None:
        for outlet in self.dispatcher.schedule.pools.outlets[1:]:
            source = None if outlet is None else self._by_name.get(outlet.source.decode("utf-8", "replace"))
            if outlet is not None and source is not None:
                outlet.down = len(source.down) == len(source.addresses)

    # -------------------------------------------------------------- pools that are not there

    def tell_missing(self) -> None:
        """Say of which pools mail has come that are not there. Call it about once a second."""
        pools = self.dispatcher.schedule.pools
        if pools.missed:
            self._say_missing(pools.take_missed())

    def _say_missing(self, messages: dict[bytes, int]) -> None:
        for name, count in messages.items():
            self.counters.add(Slot.DELIVERY_SOURCE_POOL_MISSING, count)
            self.dispatcher.events.event(
                "source_pool_missing", {"pool": name.decode("utf-8", "replace"), "messages": count}
            )
