"""TCP to a mail host: its addresses, side by side when the first does not answer at once. Or a Unix socket.

Input: the addresses of one Host, in the order in which to try them. Output: a connected socket, and which address it
is. A path that is broken must not delay mail (RFC 8305): the next address is tried when the one before has failed, or
after STAGGER_S without waiting for it; the first that answers is used, the others are given up. A family of address
that was too slow LOSSES times in a row, while the other answered, goes behind it for REST_S.

Bounds: connections that one worker opens at a time, and of these those to next hops that could not be reached before,
which may take long while others must not wait. Each address that is tried counts.

Fails: ConnectFailure of the connect phase, with the host, the address and the system's own words; SourceFailure when no
host was tried, for the source that the connection is to begin at cannot be bound."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Slot
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.source import SourceFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from angarium.config.model import AddressFamily
    from angarium.delivery.source import Source
    from angarium.delivery.target import Host

__all__ = ["FAMILIES", "Dialler", "by_name", "families_of", "family_of", "is_address", "where_of"]

MOST_OPENING = 256  # TCP connections being opened by one worker at a time
MOST_PROBING = 32  # of them to next hops that could not be reached before
STAGGER_S = 0.5
LOSSES = 3
REST_S = 600.0

FAMILIES = (socket.AF_INET6, socket.AF_INET)
FAMILIES_OF: dict[AddressFamily, tuple[socket.AddressFamily, ...]] = {
    "ipv6-first": FAMILIES,
    "ipv4-first": FAMILIES[::-1],
    "ipv6-only": FAMILIES[:1],
    "ipv4-only": FAMILIES[1:],
}


class Dialler:
    """Opens the sockets of one worker."""

    def __init__(
        self,
        *,
        loopback_only: bool,
        families: Sequence[socket.AddressFamily] = FAMILIES,
        stagger_s: float = STAGGER_S,
        took: Callable[[Slot, float], None] | None = None,
    ) -> None:
        """loopback_only: the sandbox, from which nothing leaves the machine. families: those of names that are looked
        up here, the preferred one first. took: told how many seconds a connection that came about took."""
        self._took = took
        self._loopback_only = loopback_only
        self._families = tuple(families)
        self._stagger_s = stagger_s
        self._slots = asyncio.Semaphore(MOST_OPENING)
        self._probes = asyncio.Semaphore(MOST_PROBING)
        self._losses = dict.fromkeys((*FAMILIES, socket.AF_UNIX), 0)
        self._rests_until = dict.fromkeys((*FAMILIES, socket.AF_UNIX), 0.0)

    async def addresses_of(self, host: Host) -> list[Host]:
        """The host at each of its addresses.

        A name that the configuration gives is looked up by the system (hosts file, DNS).
        """
        if host.is_local:
            return [host]
        try:
            ipaddress.ip_address(host.address)
        except ValueError:
            loop = asyncio.get_running_loop()
            try:
                found = await loop.getaddrinfo(host.address, host.port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):  # the latter for what can be no name
                return []
            usable = [entry for entry in found if entry[0] in self._families]
            usable.sort(key=lambda entry: self._families.index(socket.AddressFamily(entry[0])))
            return [replace(host, address=str(address[0])) for *_, address in usable]
        return [host]

    async def dial(
        self, left: list[Host], *, timeout_s: float, probe: bool, source: Source | None = None
    ) -> tuple[Host, socket.socket]:
        """A socket that is connected to one of a host's addresses, each given up after timeout_s.

        What has been tried is taken out of `left`: when the connection turns out to be of no use, the rest can be tried
        with another call. `probe`: the host could not be reached before. `source`: where it begins; None: the system's
        choice.
        """
        if len(left) == 1:
            host = left.pop()
            return host, await self._connect(host, timeout_s, probe, source)
        waiting = self._in_order(left)
        trying: dict[asyncio.Task[socket.socket], Host] = {}
        failure: ConnectFailure | None = None
        try:
            while waiting or trying:
                if waiting:
                    host = waiting.pop(0)
                    connecting = self._connect(host, timeout_s, probe, source)
                    trying[asyncio.get_running_loop().create_task(connecting)] = host
                stagger_s = self._stagger_s if waiting else None
                done, _ = await asyncio.wait(trying, timeout=stagger_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    host = trying[task]
                    left.remove(host)
                    try:
                        connected = task.result()
                    except ConnectFailure as why:
                        if failure is None or not isinstance(why, SourceFailure):
                            failure = why
                        del trying[task]
                        continue
                    del trying[task]
                    self._note(host, trying.values())
                    return host, connected
        finally:
            await _give_up(trying)
        assert failure is not None, "there was an address"
        raise failure

    def _in_order(self, hosts: list[Host]) -> list[Host]:
        """As given, but for a family that is left in peace."""
        now = asyncio.get_running_loop().time()
        return sorted(hosts, key=lambda host: self._rests_until[family_of(host)] > now)

    def _note(self, winner: Host, late: Iterable[Host]) -> None:
        """Remember which family answered while another had been asked before it and had not."""
        family = family_of(winner)
        self._losses[family] = 0
        self._rests_until[family] = 0.0
        for other in {family_of(host) for host in late} - {family}:
            self._losses[other] += 1
            if self._losses[other] >= LOSSES:
                self._rests_until[other] = asyncio.get_running_loop().time() + REST_S

    async def _connect(self, host: Host, timeout_s: float, probe: bool, source: Source | None) -> socket.socket:
        where = where_of(host)
        address: str | tuple[str, int] = host.address if host.is_local else (host.address, host.port)
        if self._loopback_only and not (host.is_local or ipaddress.ip_address(host.address).is_loopback):
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: refused, the sandbox delivers on this machine only")
        opening = socket.socket(family_of(host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if not host.is_local:
                opening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # uvloop does so for its own sockets only
                if source is not None:
                    source.bind(opening, where)
            async with self._probes if probe else self._slots, asyncio.timeout(timeout_s):
                loop = asyncio.get_running_loop()
                began = loop.time()
                await loop.sock_connect(opening, address)
                if self._took is not None:
                    self._took(Slot.DELIVERY_ATTEMPT_CONNECT, loop.time() - began)
        except TimeoutError as failure:
            opening.close()
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: timed out connecting") from failure
        except OSError as failure:
            opening.close()
            why = os.strerror(failure.errno) if failure.errno else str(failure)
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: {why}") from failure
        except (asyncio.CancelledError, SourceFailure):
            opening.close()
            raise
        return opening


def families_of(preference: AddressFamily) -> tuple[socket.AddressFamily, ...]:
    """The families that the configuration wants, the one to try first in front."""
    return FAMILIES_OF[preference]


def is_address(text: str) -> bool:
    """Whether it is an IP address or the path of a Unix socket, and no name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text.startswith("/")
    return True


def where_of(host: Host) -> str:
    """How a host is named to people: `mx.example.org[192.0.2.1]:25`."""
    return str(host)


def by_name(hosts: Sequence[Host]) -> list[list[Host]]:
    """The addresses of each host together, in order."""
    return [list(group) for _, group in groupby(hosts, key=lambda host: (host.name, host.port))]


def family_of(host: Host) -> socket.AddressFamily:
    """Of a host at an address."""
    if host.is_local:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host.address else socket.AF_INET


async def _give_up(trying: dict[asyncio.Task[socket.socket], Host]) -> None:
    """Close what has not been used, also what was connected in the same moment."""
    for task in trying:
        task.cancel()
    for result in await asyncio.gather(*trying, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()
