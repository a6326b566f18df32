"""The back ends that a configuration names, made in its order. Each loads what it needs, and nobody else pays for it.

Fails: ImportError with what to install, where an extra is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.policy.file_back_end import FileBackEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from angarium.config.credentials import Credentials
    from angarium.policy.back_end import BackEnd, VerifierPool

__all__ = ["LDAP_MISSING", "make_back_ends"]

LDAP_MISSING = 'kind = "ldap" needs ldap3, which is not installed: pip install "angarium[ldap]"'


def make_back_ends(
    credentials: Iterable[Credentials],
    pool: VerifierPool,
    monotonic: Callable[[], float],
    on_change: Callable[[], None],
) -> list[BackEnd]:
    """`on_change` is called when a file of log-ins was read anew."""
    return [_make(one, pool, monotonic, on_change) for one in credentials]


def _make(
    one: Credentials, pool: VerifierPool, monotonic: Callable[[], float], on_change: Callable[[], None]
) -> BackEnd:
    if one.kind == "file":
        return FileBackEnd(one.file or "", pool, monotonic, on_change)
    if one.kind == "dovecot":
        from angarium.policy.dovecot import DovecotBackEnd  # noqa: PLC0415

        return DovecotBackEnd(one.socket or "", one.service, one.timeout_s)
    if one.kind == "http":
        from angarium.policy.http_back_end import HttpBackEnd  # noqa: PLC0415  # it loads aiohttp

        return HttpBackEnd(one)
    if one.kind == "ldap":
        from angarium.policy.ldap_back_end import LdapBackEnd  # noqa: PLC0415  # an extra

        try:
            return LdapBackEnd(one, pool)
        except ImportError:
            raise ImportError(LDAP_MISSING) from None
    from angarium.policy.oauth2_back_end import OAuth2BackEnd  # noqa: PLC0415  # it loads aiohttp

    return OAuth2BackEnd(one, monotonic)
