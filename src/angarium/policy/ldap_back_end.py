"""The back end `kind = "ldap"`: a bind at a directory with the log-in's own password (RFC 4513 §5.1.3).

Job: with `user_dn` the name to bind with is made of the log-in; with `base` and `filter` it is searched for first, as
`bind_dn`. What the client says is escaped, for names and for filters. An empty password is never sent: a directory
takes that for a bind without one (§5.1.2), and says yes.

A directory takes many spellings for one log-in. Found by a search, it is called as the directory writes it, in the
attribute that the filter looks in; made of a template, as mail.log_in folds it.

It needs ldap3 (`pip install angarium[ldap]`). ldap3 blocks, so it runs in the pool of verifiers.

Fails: UNAVAILABLE with the reason in the log. Bounds: `timeout_s` for connecting and for each answer; a search that
finds more than one entry has found none."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import re
import ssl
from typing import TYPE_CHECKING, Any

from angarium.config.secret import read_secret
from angarium.mail.log_in import fold_log_in
from angarium.policy.back_end import BackEnd, Finding, Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from angarium.config.credentials import Credentials
    from angarium.policy.access_protocol import PasswordAttempt
    from angarium.policy.back_end import VerifierPool

__all__ = ["LdapBackEnd"]

log = logging.getLogger(__name__)

INVALID_CREDENTIALS = 49  # RFC 4511 §4.1.9
NO_SUCH_OBJECT = 32
MOST_FOUND = 2

_LOOKED_IN = re.compile(r"\(([\w.;-]+)=\{log_in\}\)")


class LdapBackEnd(BackEnd):
    """One directory. ImportError when ldap3 is not installed."""

    def __init__(self, credentials: Credentials, pool: VerifierPool) -> None:
        # an extra: only those who ask for it need it
        self._ldap3: Any = importlib.import_module("ldap3")
        self._settings = credentials
        self._pool = pool
        url = credentials.url or ""
        tls = None
        if url.startswith("ldaps://"):
            tls = self._ldap3.Tls(
                validate=ssl.CERT_REQUIRED, ca_certs_file=credentials.ca, version=ssl.PROTOCOL_TLS_CLIENT
            )
        self._server = self._ldap3.Server(
            url, connect_timeout=credentials.timeout_s, tls=tls, get_info=self._ldap3.NONE
        )

    async def password(self, attempt: PasswordAttempt) -> Found:
        """Bind, in the pool."""
        if not attempt.password:
            return Found(Finding.UNKNOWN)
        return await self._pool.run(lambda: self._verify(attempt.log_in, attempt.password))

    def _verify(self, log_in: str, password: str) -> Found:
        settings = self._settings
        exceptions = self._ldap3.core.exceptions
        try:
            if settings.user_dn is not None:
                name = settings.user_dn.replace("{log_in}", self._ldap3.utils.dn.escape_rdn(log_in))
                return self._bound(name, fold_log_in(log_in), password, wrong=Finding.UNKNOWN)
            found = self._search(log_in)
            return self._bound(*found, password, wrong=Finding.REFUSED) if found else Found(Finding.UNKNOWN)
        except (exceptions.LDAPExceptionError, OSError, ValueError) as failure:
            log.error("log-ins cannot be asked for at %s: %s", settings.url, failure)
            return Found(Finding.UNAVAILABLE)

    def _search(self, log_in: str) -> tuple[str, str] | None:
        """The one entry's name, and what the directory calls the log-in."""
        settings = self._settings
        password = None
        if settings.bind_dn is not None:
            password = read_secret(settings.bind_password, settings.bind_password_file, settings.bind_password_env)
        with self._opened(settings.bind_dn, password) as connection:
            if not connection.bind():
                raise ValueError(f"bind_dn cannot bind: {connection.result['description']}")
            escaped = self._ldap3.utils.conv.escape_filter_chars(log_in)
            connection.search(
                settings.base,
                settings.filter.replace("{log_in}", escaped),
                size_limit=MOST_FOUND,
                attributes=_LOOKED_IN.findall(settings.filter) or None,
            )
            if connection.result["result"] not in {0, NO_SUCH_OBJECT, 4}:
                raise ValueError(f"the search failed: {connection.result['description']}")
            entries = [entry for entry in connection.response if entry["type"] == "searchResEntry"]
        if len(entries) != 1:
            return None
        values = [value for values in entries[0]["raw_attributes"].values() for value in values]
        return entries[0]["dn"], _own_spelling(values, log_in)

    def _bound(self, name: str, log_in: str, password: str, *, wrong: Finding) -> Found:
        with self._opened(name, password) as connection:
            if connection.bind():
                return Found(Finding.ACCEPTED, log_in)
            if connection.result["result"] in {INVALID_CREDENTIALS, NO_SUCH_OBJECT}:
                return Found(wrong, log_in)
            raise ValueError(f"the bind failed: {connection.result['description']}")

    @contextlib.contextmanager
    def _opened(self, name: str | None, password: str | None) -> Iterator[Any]:
        """A connection that is closed afterwards: as a context of its own ldap3's opens some again."""
        connection = self._connection(name, password)
        try:
            yield connection
        finally:
            with contextlib.suppress(self._ldap3.core.exceptions.LDAPExceptionError):
                connection.unbind()
            if connection.socket is not None:  # it could not be opened
                connection.socket.close()

    def _connection(self, name: str | None, password: str | None) -> Any:
        return self._ldap3.Connection(
            self._server,
            user=name,
            password=password,
            receive_timeout=math.ceil(self._settings.timeout_s),  # ldap3 takes whole seconds
            client_strategy=self._ldap3.SYNC,
            read_only=True,
            raise_exceptions=False,
        )


def _own_spelling(values: list[bytes | str], log_in: str) -> str:
    """The value that is the log-in, as it stands there; else the log-in as it compares."""
    same = fold_log_in(log_in)
    texts = (value if isinstance(value, str) else value.decode("utf-8", "replace") for value in values)
    return next((text for text in texts if fold_log_in(text) == same), same)
