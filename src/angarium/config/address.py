"""Addresses in the configuration: where to listen, which name servers to ask, which networks may relay.

Every `parse` raises ValueError with a sentence that says what is wrong with the text. Nothing here resolves a name: an
address to listen on or a name server is an IP address, so that a reload never waits for DNS.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SPECIAL_PURPOSE",
    "DnsServer",
    "ListenAddress",
    "Network",
    "Peer",
    "covers_everything",
    "parse_host",
    "parse_port",
    "split_host_port",
]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def parse_port(text: str, *, least: int = 0) -> int:
    """A port number."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and least <= int(text) < 65536):
        raise ValueError(f'"{text}" is not a port number from {least} to 65535')
    return int(text)


def split_host_port(text: str) -> tuple[str, str | None]:
    """`host:port`, `host` or `[v6]:port` in two; the port is None when there is none. Brackets are taken off."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'"{text}" is not [IPv6 address]:port')
        try:
            return str(ipaddress.IPv6Address(host)), rest[1:] if rest else None
        except ValueError:
            raise ValueError(f'"{host}" is not an IPv6 address') from None
    if text.count(":") > 1:
        raise ValueError(f'an IPv6 address stands in brackets, as in "[::1]:25", not "{text}"')
    host, colon, port = text.partition(":")
    return host, port if colon else None


def parse_host(text: str) -> str:
    """A host name (RFC 1123 §2.1, underscores let pass) or an IP address, in lower case."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f'"{text}" is not a host name')
    if labels[-1].isdigit():
        raise ValueError(f'"{text}" is neither an IP address nor a host name')
    return name


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


_SOCKET_NAME = re.compile(r"[!-9;-~]{1,255}")  # sd_listen_fds_with_names(3)


class ListenAddress(Struct, frozen=True):
    """A TCP address; a Unix socket when `path` is set; a socket that systemd has opened when `name` is.

    Port 0 lets the system choose, which is for tests.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""  # FileDescriptorName= of the systemd socket unit

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f'"{text}" wants an absolute path, as in "unix:/run/angarium/admin.sock"')
            return cls(path=path)
        if text.startswith("systemd:"):
            name = text.removeprefix("systemd:")
            if not _SOCKET_NAME.fullmatch(name):
                raise ValueError(f'"{text}" wants the FileDescriptorName of a socket unit, as in "systemd:smtp"')
            return cls(name=name)
        host, port = split_host_port(text)
        if port is None or not host:
            raise ValueError(
                f'"{text}" is not an address and a port, as in "0.0.0.0:25", "[::]:25" or "127.0.0.1:2525"'
            )
        if host.lower() == "localhost":
            host = "127.0.0.1"
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(f'"{host}" is not an IP address; names are not looked up here') from None
        return cls(host=host, port=parse_port(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. Of a socket that systemd has opened that is not known."""
        return bool(self.path) or (not self.name and _is_loopback(self.host))

    def __str__(self) -> str:
        if self.path or self.name:
            return f"unix:{self.path}" if self.path else f"systemd:{self.name}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class DnsServer(Struct, frozen=True):
    """A name server: IP address and port, 53 when none is written."""

    host: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> DnsServer:
        try:
            return cls(host=str(ipaddress.ip_address(text)))
        except ValueError:
            host, port = split_host_port(text)
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(f'"{host}" is not an IP address; a name server cannot be named by name') from None
        return cls(host=host, port=53 if port is None else parse_port(port, least=1))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Network(Struct, frozen=True):
    """A network of IP addresses in CIDR notation. `address in network` takes text or an ipaddress object.

    An IPv4 client of an IPv6 socket (`::ffff:192.0.2.1`) counts as the IPv4 address that it is.
    """

    version: int
    base: bytes
    prefix_length: int

    @classmethod
    def parse(cls, text: str) -> Network:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            try:
                near = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError(
                    f'"{text}" is not a network, as in "10.0.0.0/8", "2001:db8::/32" or "192.0.2.7"'
                ) from None
            raise ValueError(f'"{text}" has bits set behind its prefix; the network is "{near}"') from None
        return cls(version=network.version, base=network.network_address.packed, prefix_length=network.prefixlen)

    def __contains__(self, address: str | IPAddress) -> bool:
        if isinstance(address, str):
            address = ipaddress.ip_address(address)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.version != self.version:
            return False
        shift = address.max_prefixlen - self.prefix_length
        return int(address) >> shift == int.from_bytes(self.base, "big") >> shift

    def __str__(self) -> str:
        return f"{ipaddress.ip_address(self.base)}/{self.prefix_length}"


class Peer(Struct, frozen=True):
    """Who may say for whom it speaks: the hosts of a network, or `unix`: who may open the listener's Unix socket."""

    network: Network | None = None

    @classmethod
    def parse(cls, text: str) -> Peer:
        return cls() if text == "unix" else cls(Network.parse(text))

    def __contains__(self, address: str) -> bool:
        """`address`: as text, "" for a client of a Unix socket."""
        if self.network is None or not address:
            return self.network is None and not address
        try:
            return address in self.network
        except ValueError:
            return False

    def __str__(self) -> str:
        return "unix" if self.network is None else str(self.network)


def covers_everything(networks: Sequence[Network]) -> bool:
    """Whether networks of one IP version leave no address out, be it as halves and quarters of the whole."""
    end = 0
    bits = max((len(network.base) for network in networks), default=0) * 8
    for network in sorted(networks, key=lambda network: network.base):
        start = int.from_bytes(network.base, "big")
        if start > end:
            return False
        end = max(end, start + (1 << (bits - network.prefix_length)))
    return bool(networks) and end == 1 << bits


# Not reachable over the Internet, whatever a public domain's records say (RFC 6890 and the registries that it set up).
SPECIAL_PURPOSE = tuple(
    map(
        Network.parse,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/128",
            "::1/128",
            "64:ff9b:1::/48",
            "100::/64",
            "2001:db8::/32",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ),
    )
)
