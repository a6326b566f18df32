"""What must hold of the sources and source pools of a configuration.

Beside the checks that angarium.config.check tells of: each source has an address that mail can leave by, each member of
a pool is a source, and whoever names a pool names one that is there. Whether an address is one of this machine is not
asked here: it may come with an interface that is down, and the configuration is the same on the machine next to it.
`angarium doctor` asks.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from angarium.config.address import parse_host
from angarium.config.next_hop import SESSION_KINDS
from angarium.config.problem import nearest
from angarium.config.source import DEFAULT_SOURCE

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Route
    from angarium.config.problem import Findings
    from angarium.config.source import Source, SourcePool

__all__ = ["check_sources"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_sources(config: Config, findings: Findings) -> None:
    """Sources, pools, and everything that names a pool."""
    _check_names([source.name for source in config.source], "source", findings)
    _check_names([pool.name for pool in config.source_pool], "source_pool", findings)
    for index, source in enumerate(config.source):
        _check_source(config, source, findings.element(("source",), index), findings)
    for index, pool in enumerate(config.source_pool):
        _check_pool(config, pool, findings.element(("source_pool",), index), findings)
    for index, tenant in enumerate(config.tenant):
        _check_choice(config, tenant.source_pool, findings.element(("tenant",), index), findings)
    for index, permission in enumerate(config.permission):
        _check_choice(config, permission.source_pool, findings.element(("permission",), index), findings)
    for index, route in enumerate(config.route):
        path = findings.element(("route",), index)
        _check_choice(config, route.source_pool, path, findings)
        _check_has_connections(route, path, findings)


def _check_names(names: list[str], array: str, findings: Findings) -> None:
    for index, name in enumerate(names):
        path = (*findings.element((array,), index), "name")
        if not _NAME.fullmatch(name):
            findings.error(path, f'"{name}" is not a name: letters, digits, ".", "_" and "-", at most 64')
        if array == "source" and name == DEFAULT_SOURCE:
            findings.error(path, f'"{DEFAULT_SOURCE}" is the name of the address that the system chooses')
        if name in names[:index]:
            findings.error(path, f'another {array.replace("_", " ")} is named "{name}" too')


def _check_source(config: Config, source: Source, path: KeyPath, findings: Findings) -> None:
    if findings.sound((*path, "ipv4"), (*path, "ipv6")) and not source.addresses:
        findings.error(path, "has no address: set ipv4, ipv6, or both")
    _check_address(config, source.ipv4, IPv4Address, (*path, "ipv4"), findings)
    _check_address(config, source.ipv6, IPv6Address, (*path, "ipv6"), findings)
    if findings.sound(("delivery", "address_family")):
        family = config.delivery.address_family
        if (family == "ipv4-only" and source.ipv4 is None) or (family == "ipv6-only" and source.ipv6 is None):
            findings.error(path, f'has no address of the family that delivery.address_family = "{family}" leaves')
    if source.hostname is not None and findings.sound((*path, "hostname")):
        try:
            name = parse_host(source.hostname)
        except ValueError as error:
            findings.error((*path, "hostname"), str(error))
            return
        try:
            ip_address(name)
        except ValueError:
            return
        findings.error((*path, "hostname"), f'"{name}" is an address; a name is wanted, such as "mta1.example.org"')


def _check_address(
    config: Config, text: str | None, kind: type[IPv4Address | IPv6Address], path: KeyPath, findings: Findings
) -> None:
    if text is None or not findings.sound(path):
        return
    try:
        address = kind(text)
    except AddressValueError:
        wanted = "192.0.2.1" if kind is IPv4Address else "2001:db8::1"
        findings.error(path, f'"{text}" is not an IPv{4 if kind is IPv4Address else 6} address such as "{wanted}"')
        return
    if address.is_unspecified or address.is_multicast or (isinstance(address, IPv6Address) and address.ipv4_mapped):
        findings.error(path, f"{text} is no address that a connection can be made from")
    elif isinstance(address, IPv6Address) and (address.scope_id or address.is_link_local):
        findings.error(path, f"{text} is a link-local address, from which no mail host can be reached")


def _check_pool(config: Config, pool: SourcePool, path: KeyPath, findings: Findings) -> None:
    names = [source.name for source in config.source]
    if not pool.members and findings.sound((*path, "members")):
        findings.error((*path, "members"), "is empty, so that mail could leave by nothing")
    seen: set[str] = set()
    for number, member in enumerate(pool.members):
        where = findings.element((*path, "members"), number)
        if member.source not in names and findings.whole(("source",)):
            findings.error(where, f'there is no source "{member.source}"', nearest(member.source, names))
        if member.source in seen:
            findings.error(where, f'"{member.source}" stands in this pool twice; for a larger share use weight')
        seen.add(member.source)


def _check_choice(config: Config, pool: str | None, path: KeyPath, findings: Findings) -> None:
    names = [each.name for each in config.source_pool]
    if pool is not None and pool not in names and findings.whole(("source_pool",)):
        findings.error((*path, "source_pool"), f'there is no source pool "{pool}"', nearest(pool, names))


def _check_has_connections(route: Route, path: KeyPath, findings: Findings) -> None:
    if route.source_pool is None or not findings.sound((*path, "next_hop")):
        return
    if route.kind != "mx" and all(hop.to.kind not in SESSION_KINDS or hop.to.path for hop in route.hops):
        message = f'has no effect: no connection over a network leads to "{route.hops[0].to}"'
        findings.error((*path, "source_pool"), message)
