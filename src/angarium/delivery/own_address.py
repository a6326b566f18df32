"""Which addresses are this relay's own: to send mail by MX there would be to send it in a circle (RFC 5321 §5.1).

Input: where it listens, and the networks that the configuration says lead to it (behind NAT or a load balancer it
cannot see them itself). Output: yes or no for an address as text. A listener on another port than MX delivery goes to
does not count: something else may take the domain's mail at port 25 of this machine. A listener on all addresses
stands for those of the machine's interfaces, which are read again every LOOK_S.

Fails: never; interfaces that cannot be read have no addresses. Bounds: interfaces looked at."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from angarium.config.address import ListenAddress, Network

__all__ = ["OwnAddresses", "interface_addresses"]

SMTP_PORT = 25
LOOK_S = 60.0
MOST_INTERFACES = 1024
SIOCGIFCONF = 0x8912  # <linux/sockios.h>
IFREQ_OCTETS = 40  # struct ifreq of a 64-bit Linux; the name, then a sockaddr
NAME_OCTETS = 16


class OwnAddresses:
    """Knows the addresses at which this relay takes mail on port 25."""

    def __init__(
        self,
        listeners: Iterable[ListenAddress],
        networks: Iterable[Network],
        monotonic: Callable[[], float],
        interfaces: Callable[[], frozenset[str]] | None = None,
    ) -> None:
        hosts = {listen.host for listen in listeners if listen.port == SMTP_PORT}
        self._addresses = frozenset(hosts - {"0.0.0.0", "::"})  # noqa: S104  (compared with, not bound)
        self._everywhere = len(hosts) > len(self._addresses)
        self._networks = tuple(networks)
        self._monotonic = monotonic
        self._interfaces = interfaces or interface_addresses
        self._seen: frozenset[str] = frozenset()
        self._look_at = 0.0

    def __contains__(self, address: str) -> bool:
        if address in self._addresses:
            return True
        if self._networks and any(address in network for network in self._networks):
            return True
        if not self._everywhere:
            return False
        if self._monotonic() >= self._look_at:
            self._seen = self._interfaces()
            self._look_at = self._monotonic() + LOOK_S
        return address in self._seen or ipaddress.ip_address(address).is_loopback


def interface_addresses() -> frozenset[str]:
    """The addresses of this machine's interfaces."""
    return frozenset((*_of_version_4(), *_of_version_6()))


def _of_version_4() -> list[str]:
    room = bytearray(MOST_INTERFACES * IFREQ_OCTETS)
    wanted = struct.pack("iP", len(room), _address_of(room))  # struct ifconf
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            used, _ = struct.unpack("iP", fcntl.ioctl(probe, SIOCGIFCONF, wanted))
    except OSError:
        return []
    # struct sockaddr_in: family and port in front of the address
    begins = range(NAME_OCTETS + 4, used, IFREQ_OCTETS)
    return [socket.inet_ntop(socket.AF_INET, room[begin : begin + 4]) for begin in begins]


def _address_of(room: bytearray) -> int:
    import ctypes  # noqa: PLC0415  # nothing else here needs it

    return ctypes.addressof(ctypes.c_char.from_buffer(room))


def _of_version_6(table: Path = Path("/proc/net/if_inet6")) -> list[str]:
    try:
        lines = table.read_text("ascii").splitlines()
    except OSError:  # no IPv6 here
        return []
    return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in lines]
