"""What must hold of the permissions of a configuration.

Beside the checks that angarium.config.check tells of: whom a permission names is there, its patterns are patterns, what
it grants is something, and a key that would have no effect is said to have none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from angarium._core.address_list import parse_addresses
from angarium.config.model import SENDMAIL
from angarium.config.problem import nearest
from angarium.mail.pattern import AddressPattern

if TYPE_CHECKING:
    from collections.abc import Collection

    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Permission
    from angarium.config.problem import Findings

__all__ = ["check_permissions"]

CONDITIONS = ("log_ins", "networks", "tenants", "listeners")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_permissions(config: Config, findings: Findings) -> None:
    """All of them."""
    names: dict[str, int] = {}
    for index, permission in enumerate(config.permission):
        path = findings.element(("permission",), index)
        if permission.name is not None:
            if not _NAME.fullmatch(permission.name):
                message = f'"{permission.name}" is not a name: letters, digits, ".", "_" and "-", at most 64'
                findings.error((*path, "name"), message)
            if names.setdefault(permission.name, index) != index:
                findings.error((*path, "name"), f'another permission is named "{permission.name}" too')
        _check_whom(config, permission, path, findings)
        _check_addresses(permission, path, findings)
        _check_limits(permission, path, findings)
        _check_legacy(permission, path, findings)
        is_last = index + 1 == len(config.permission)
        conditional = any(getattr(permission, key) for key in CONDITIONS)
        if not is_last and not conditional and findings.sound(*((*path, key) for key in CONDITIONS)):
            findings.warn(path, "is for every client, so that the permissions behind it are for none")


def _check_whom(config: Config, permission: Permission, path: KeyPath, findings: Findings) -> None:
    tenants = [tenant.name for tenant in config.tenant]
    if findings.whole(("tenant",)):
        _check_names(permission.tenants, tenants, (*path, "tenants"), "tenant", findings)
        if permission.tenant is not None and permission.tenant not in tenants:
            message = f'there is no tenant "{permission.tenant}"'
            findings.error((*path, "tenant"), message, nearest(permission.tenant, tenants))
    if findings.whole(("listener",)):
        listeners = [listener.name for listener in config.listener] + ([SENDMAIL] if config.sendmail else [])
        _check_names(permission.listeners, listeners, (*path, "listeners"), "listener", findings)


def _check_names(wanted: Collection[str], known: list[str], path: KeyPath, what: str, findings: Findings) -> None:
    for number, name in enumerate(wanted):
        if name not in known:
            where = findings.element(path, number)
            findings.error(where, f'there is no {what} "{name}"', nearest(name, known))


def _check_addresses(permission: Permission, path: KeyPath, findings: Findings) -> None:
    for key in ("reverse_paths", "from_addresses"):
        patterns: tuple[str, ...] | None = getattr(permission, key)
        where = (*path, key)
        if patterns is None or not findings.sound(where):
            continue
        if not patterns:
            findings.error(where, "is empty, so that nothing may be sent; leave the key out to allow every address")
        for number, pattern in enumerate(patterns):
            problem = _pattern_problem(pattern)
            if problem:
                findings.error(findings.element(where, number), problem)
    if permission.rewrite_from is not None and findings.sound((*path, "rewrite_from")):
        _check_rewriting(permission.rewrite_from, (*path, "rewrite_from"), findings)


def _pattern_problem(pattern: str) -> str:
    try:
        parsed = AddressPattern.parse(pattern.replace("{log_in}", "a"))
        if "{log_in}" not in pattern or pattern == "{log_in}":
            return ""
    except ValueError as error:
        return str(error)
    if parsed.kind != "address":
        return f'"{pattern}": {{log_in}} stands for a whole address, or is part of one, as in "{{log_in}}@example.org"'
    return ""


def _check_rewriting(written: str, path: KeyPath, findings: Findings) -> None:
    octets = written.encode()
    found = parse_addresses(octets) if written.isprintable() else None
    if found is None or len(found) != 1 or not found[0][1]:
        message = f'"{written}" is not one address such as "scanner@example.org" or "Scanner <scanner@example.org>"'
        findings.error(path, message)
    elif not written.isascii():
        findings.error(path, f'"{written}" must be ASCII: write a name as an encoded word (RFC 2047)')


def _check_limits(permission: Permission, path: KeyPath, findings: Findings) -> None:
    hour, day = permission.recipients_per_hour, permission.recipients_per_day
    if hour is not None and day is not None and hour > day:
        findings.warn((*path, "recipients_per_hour"), f"{hour} an hour are never reached with {day} a day")
    if permission.at_limit == "queue" and hour is None and day is None:
        findings.error((*path, "at_limit"), "has no effect without recipients_per_hour or recipients_per_day")
    if permission.counted_by != "sender" and not permission.counts:
        findings.error((*path, "counted_by"), "has no effect: this permission counts nothing")
    if permission.counted_by != "sender" and permission.hold_above is not None:
        message = f'is for single log-ins, and counted_by = "{permission.counted_by}" counts many together'
        findings.error((*path, "hold_above"), message)


def _check_legacy(permission: Permission, path: KeyPath, findings: Findings) -> None:
    if permission.legacy and not permission.networks and findings.sound((*path, "networks")):
        findings.error((*path, "legacy"), "is for named devices only: name their networks in networks")
    if permission.legacy and permission.fix_up is False and findings.sound((*path, "fix_up")):
        findings.error((*path, "fix_up"), "legacy devices need it: leave the key out")
