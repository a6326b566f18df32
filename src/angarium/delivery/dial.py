"""TCP to a mail host: its addresses, one after the other, each given up within seconds when nothing answers.

Input: a Host. Output: a connected socket. Bounds: connections that one worker opens at a time, and of these those to
next hops that could not be reached before, which may take long while others must not wait.

Fails: ConnectFailure of the connect phase, with the host, the address and the system's own words."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket

from angarium._core.client_session import Phase
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.target import Host

__all__ = ["Dialler", "addresses_of"]

MOST_OPENING = 256  # TCP connections being opened by one worker at a time
MOST_PROBING = 32  # of them to next hops that could not be reached before


class Dialler:
    """Opens the sockets of one worker."""

    def __init__(self, *, loopback_only: bool) -> None:
        """loopback_only: the sandbox, from which nothing leaves the machine."""
        self._loopback_only = loopback_only
        self._slots = asyncio.Semaphore(MOST_OPENING)
        self._probes = asyncio.Semaphore(MOST_PROBING)

    async def dial(self, host: Host, where: str, *, timeout_s: float, probe: bool) -> socket.socket:
        """A socket that is connected to the host; `probe`: it could not be reached before."""
        if self._loopback_only and not ipaddress.ip_address(host.address).is_loopback:
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: refused, the sandbox delivers on this machine only")
        family = socket.AF_INET6 if ":" in host.address else socket.AF_INET
        opening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        opening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # uvloop does so for its own sockets only
        try:
            async with self._probes if probe else self._slots, asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(opening, (host.address, host.port))
        except TimeoutError as failure:
            opening.close()
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: timed out connecting") from failure
        except OSError as failure:
            opening.close()
            why = os.strerror(failure.errno) if failure.errno else str(failure)
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: {why}") from failure
        except asyncio.CancelledError:
            opening.close()
            raise
        return opening


async def addresses_of(host: Host) -> list[Host]:
    """The host at each of its addresses;

    a name that the configuration gives is looked up by the system (hosts file, DNS).
    """
    try:
        ipaddress.ip_address(host.address)
    except ValueError:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host.address, host.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # the latter for what can be no name
            return []
        return [Host(host.name, str(address[0]), host.port) for *_, address in found]
    return [host]
