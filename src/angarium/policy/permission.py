"""Who may send what: from the [[permission]] tables to what compiled sessions ask.

Input: the configuration, one of its listeners, who the client is (address, log-in, tenant). Output: the Permission of
the core that is part of its ClientTerms, or None where nothing is asked about its mail.

The first permission holds all of whose conditions hold; a condition that is not given always does. A submission
listener tidies what it takes also where no permission says so; elsewhere a client without a permission costs nothing.

Addresses compare as they are delivered: domains without regard to case and in either form of an internationalised one,
local parts without the quoting that means nothing. Local parts are compared without regard to the case of ASCII
letters, since people write their address as they like; who gave two people addresses that differ in case alone should
not rely on that.

Log-ins are the same however they are written (angarium.mail.log_in). `{log_in}` in a pattern stands for the log-in.
A pattern that becomes no address by it (a log-in without a domain in "{log_in}") matches nothing.

Fails: OSError when the table of quotas cannot be opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium._core.address_list import parse_addresses
from angarium._core.permission import Permission as CorePermission
from angarium.mail.address import folded_domain, split_mailbox, unquote_local_part
from angarium.mail.log_in import fold_log_in, fold_pattern
from angarium.mail.pattern import AddressPattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from angarium._core.record import MailBuffer
    from angarium.config.model import Config, Listener, Permission
    from angarium.policy.quota import Quotas

__all__ = ["PermissionIndex", "core_permission", "permission_of"]


class PermissionIndex:
    """The permissions of a configuration, by who they are for."""

    def __init__(self, permissions: tuple[Permission, ...]) -> None:
        self._permissions = permissions
        self._log_ins = [[fold_pattern(pattern) for pattern in permission.log_ins] for permission in permissions]

    def find(self, listener: str, *, address: str, log_in: str, tenant: str) -> tuple[int, Permission] | None:
        """The first that is for this client, and its place from 0; None when none is."""
        name = fold_log_in(log_in).encode()
        for number, permission in enumerate(self._permissions):
            if permission.listeners and listener not in permission.listeners:
                continue
            if permission.tenants and tenant not in permission.tenants:
                continue
            patterns = self._log_ins[number]
            if patterns and not (name and any(pattern.matches(name) for pattern in patterns)):
                continue
            if permission.networks and not _within(address, permission):
                continue
            return number, permission
        return None


def permission_of(config: Config, buffer: MailBuffer) -> Permission | None:
    """The permission under which a queued message was accepted, as the configuration is now; None: under none."""
    if not config.permission:
        return None
    envelope = {
        name: buffer.envelope()[name].decode("utf-8", "replace") for name in ("listener", "client", "login", "tenant")
    }
    found = PermissionIndex(config.permission).find(
        envelope["listener"], address=envelope["client"], log_in=envelope["login"], tenant=envelope["tenant"]
    )
    return None if found is None else found[1]


def _within(address: str, permission: Permission) -> bool:
    try:
        return any(address in network for network in permission.networks)
    except ValueError:
        return False  # a client without an address


def core_permission(
    config: Config,
    listener: Listener,
    found: tuple[int, Permission] | None,
    quotas: Quotas | None,
    *,
    address: str,
    log_in: str,
    tenant: str,
) -> CorePermission | None:
    """What a session asks about the mail of this client; None: nothing."""
    hostname = config.node.hostname.encode("ascii")
    if found is None:
        if listener.role != "submission":
            return None
        return CorePermission(hostname=hostname, fix_up=True, identity=_address_of(log_in, hostname))
    number, permission = found
    paths = _expand(permission.reverse_paths, log_in)
    authors = paths if permission.from_addresses is None else _expand(permission.from_addresses, log_in)
    rewrite_from = rewrite_path = None
    if permission.rewrite_from is not None:
        rewrite_from = permission.rewrite_from.encode()
        ((local, domain, _, _),) = parse_addresses(rewrite_from) or [(b"", b"", 0, False)]
        rewrite_path = local + b"@" + domain
        own = [AddressPattern(kind="address", local=_fold(local), domain=folded_domain(domain))]
        paths = own if paths is None else [*paths, *own]
        authors = own if authors is None else [*authors, *own]
    null = permission.null_reverse_path
    fix_up = permission.fix_up
    return CorePermission(
        name=(permission.name or f"#{number + 1}").encode(),
        hostname=hostname,
        reverse_paths=None if paths is None else _paths_of(paths),
        from_addresses=None if authors is None else _authors_of(authors),
        null_reverse_path=permission.reverse_paths is None if null is None else null,
        recipients=permission.recipients or 0,
        message_octets=permission.message_size_octets or 0,
        quota=None if quotas is None else quotas.of(permission, number, address=address, log_in=log_in, tenant=tenant),
        fix_up=(listener.role == "submission" or permission.legacy) if fix_up is None else fix_up,
        hide_client=permission.hide_client,
        legacy=permission.legacy,
        rewrite_from=rewrite_from,
        rewrite_path=rewrite_path,
        identity=_address_of(log_in, hostname),
    )


def _address_of(log_in: str, hostname: bytes) -> bytes | None:
    """The address that a log-in is, or is at this host; None when it cannot be one."""
    if not log_in or not log_in.isascii():
        return None
    written = log_in.encode()
    for candidate in (written, written + b"@" + hostname):
        match parse_addresses(candidate):
            case [(local, domain, _, False)] if domain:
                return local + b"@" + domain
    return None


def _fold(local: bytes) -> bytes:
    """A local part as it compares here."""
    return unquote_local_part(local).lower()


def _expand(patterns: tuple[str, ...] | None, log_in: str) -> list[AddressPattern] | None:
    """The patterns for one log-in; None: every address is meant."""
    if patterns is None:
        return None
    log_in = fold_log_in(log_in)
    made = []
    for pattern in patterns:
        if "{log_in}" in pattern and not log_in:
            continue
        try:
            parsed = AddressPattern.parse(pattern.replace("{log_in}", log_in))
        except ValueError:
            continue
        if "{log_in}" in pattern and parsed.kind != "address":
            continue  # a log-in may be any text: it must not become a pattern for more than one address
        made.append(AddressPattern(kind=parsed.kind, local=_fold(parsed.local), domain=parsed.domain))
    return made


def _matches(patterns: Iterable[AddressPattern], local: bytes, domain: bytes) -> bool:
    folded = _fold(local)
    return any(pattern.matches(folded, domain) for pattern in patterns)


def _paths_of(patterns: list[AddressPattern]) -> Callable[[bytes], bool]:
    def allowed(reverse_path: bytes) -> bool:
        return _matches(patterns, *split_mailbox(reverse_path))

    return allowed


def _authors_of(patterns: list[AddressPattern]) -> Callable[[bytes, bytes], bool]:
    def allowed(local: bytes, domain: bytes) -> bool:
        return _matches(patterns, local, domain)

    return allowed
