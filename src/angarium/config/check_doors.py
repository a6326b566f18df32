"""What must hold of the ways in: sockets, proxies, hosts in front, certificates for clients and of clients.

Whoever may say who its client is may say that it is one who relays, so a network that holds everybody is an error
everywhere here. A setting without effect is an error, since whoever wrote it relies on it.
"""

from __future__ import annotations

import grp
import re
import ssl
from typing import TYPE_CHECKING

from angarium.config.address import covers_everything, parse_host
from angarium.config.check_tls import check_authorities, check_pair, read_file

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Listener, TlsVersion
    from angarium.config.problem import Findings

__all__ = ["check_certificates", "check_door"]

_MODE = re.compile(r"0?[0-7]{3}")
_OWNER_BITS = 0o600


def check_certificates(config: Config, findings: Findings) -> None:
    """[tls].minimum, and each [[certificate]]: its files, and that no name is in two of them."""
    if config.tls is not None and findings.sound(("tls", "minimum")):
        _check_minimum(config.tls.minimum, ("tls", "minimum"), findings)
    if config.certificate and config.tls is None and findings.sound(("tls",)):
        findings.error(("certificate",), "has no effect without [tls], whose certificate clients get who name no host")
    seen: dict[str, int] = {}
    for index, own in enumerate(config.certificate):
        path = findings.element(("certificate",), index)
        check_pair(own.certificate, (*path, "certificate"), own.key, (*path, "key"), findings)
        for number, name in enumerate(own.names):
            where = findings.element((*path, "names"), number)
            try:
                parse_host(name.removeprefix("*."))
            except ValueError:
                findings.error(where, f'"{name}" is not a name such as "mail.example.org" or "*.example.org"')
            if seen.setdefault(name.lower(), index) != index:
                findings.warn(where, f'another certificate is for "{name}" already, and the first one is shown')


def check_door(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    """One listener."""
    _check_socket(listener, path, findings)
    for key in ("proxy_networks", "xclient_networks"):
        _check_peers(listener, key, path, findings)
    if listener.tls_minimum is not None and findings.sound((*path, "tls_minimum"), (*path, "tls")):
        if listener.tls == "none":
            findings.error((*path, "tls_minimum"), 'has no effect with tls = "none"')
        _check_minimum(listener.tls_minimum, (*path, "tls_minimum"), findings)
    _check_client_certificates(listener, path, findings)


def _check_minimum(version: TlsVersion, path: KeyPath, findings: Findings) -> None:
    if version in ("1.0", "1.1"):
        message = (
            f'TLS {version} is broken (RFC 8996), and its ciphers are the weakest that OpenSSL has; "1.2" is the '
            "default. Keep it to a listener for old devices"
        )
        findings.warn(path, message)
    elif version == "1.3" and not ssl.HAS_TLSv1_3:
        findings.error(path, "the OpenSSL of this Python has no TLS 1.3")


def _check_socket(listener: Listener, path: KeyPath, findings: Findings) -> None:
    is_path = bool(listener.listen.path)
    if not findings.sound((*path, "listen")):
        return
    if not _MODE.fullmatch(listener.socket_mode):
        findings.error((*path, "socket_mode"), f'"{listener.socket_mode}" is not a mode such as "0660"')
    elif int(listener.socket_mode, 8) & _OWNER_BITS != _OWNER_BITS:
        findings.error((*path, "socket_mode"), f'"{listener.socket_mode}" shuts the relay itself out')
    elif listener.socket_mode != "0660" and not is_path:
        findings.error((*path, "socket_mode"), 'has no effect: the listener is no "unix:" socket')
    if listener.socket_group is None or not findings.sound((*path, "socket_group")):
        return
    if not is_path:
        findings.error((*path, "socket_group"), 'has no effect: the listener is no "unix:" socket')
        return
    try:
        grp.getgrnam(listener.socket_group)
    except KeyError:
        findings.error((*path, "socket_group"), f'there is no group "{listener.socket_group}" on this machine')


def _check_peers(listener: Listener, key: str, path: KeyPath, findings: Findings) -> None:
    if not findings.sound((*path, key), (*path, "listen")):
        return
    peers = getattr(listener, key)
    networks = [peer.network for peer in peers if peer.network is not None]
    for version in (4, 6):
        if covers_everything([network for network in networks if network.version == version]):
            message = f"every IPv{version} address in the world could say who its client is; name the hosts in front"
            findings.error((*path, key), message)
    for number, peer in enumerate(peers):
        if peer.network is None and listener.listen.host:
            where = findings.element((*path, key), number)
            findings.error(where, f'"unix" has no effect: {listener.listen} is no Unix socket')


def _check_client_certificates(listener: Listener, path: KeyPath, findings: Findings) -> None:
    if not findings.sound((*path, "client_ca"), (*path, "relay_certificates"), (*path, "tls"), (*path, "role")):
        return
    if listener.client_ca is not None:
        where = (*path, "client_ca")
        if listener.tls == "none":
            findings.error(where, 'has no effect with tls = "none"')
        elif (octets := read_file(listener.client_ca, where, findings)) is not None:
            check_authorities(listener.client_ca, octets, where, findings)
    if not listener.relay_certificates:
        return
    where = (*path, "relay_certificates")
    if listener.client_ca is None:
        findings.error(where, "needs client_ca: a file of the authorities, or of the clients' certificates themselves")
    if listener.role != "relay":
        findings.error(where, f'has no effect on a listener with role = "{listener.role}"')
