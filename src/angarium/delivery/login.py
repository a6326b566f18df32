"""Log in at a next host, behind EHLO and TLS, before the first MAIL command (RFC 4954).

Input: an aiosmtplib client, the Login of its Target, the Host. Output: the client, logged in. The password is read for
each connection, from where the configuration says that it stands; a token is had from a TokenSource. A token that the
host refuses is thrown away and one fresh token is tried, over another connection or this one as the host lets us.

The credentials are this relay's own: whatever is wrong with them, the sender is not to blame, so all of it leaves the
mail waiting (`outcome.classify`, PHASE_AUTH), and the next hop rests as if it could not be reached.

Fails: ConnectFailure of the log-in's phase. Nothing of a secret is in its text: what the host says is cut out of it
where it repeats one."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiosmtplib

from angarium._core.client_session import Phase
from angarium.config.secret import read_secret
from angarium.delivery.failure import ConnectFailure
from angarium.smtp.auth import AuthError, Credentials, begin, choose, decode_challenge

if TYPE_CHECKING:
    from angarium.config.model import Auth
    from angarium.delivery.target import Host

__all__ = ["Login", "Tokens", "log_in"]

CONTINUE = 334
DONE = 235
REFUSED = 535  # RFC 4954 §6: authentication credentials invalid
MOST_CHALLENGES = 4  # more than any mechanism here has
LONGEST_COMMAND = 510  # RFC 5321 §4.5.3.1.4, without CRLF: a longer first response waits for the host's 334


class Tokens(Protocol):
    """Where access tokens come from."""

    async def token(self, refused: str | None = None) -> str:
        """A token that holds for a while; `refused`: not this one, which a host did not take. OSError: none is had."""


@dataclass(frozen=True)
class Login:
    """What a Target's connections log in with."""

    auth: Auth
    tokens: Tokens | None = None


async def log_in(client: aiosmtplib.SMTP, login: Login, host: Host, where: str) -> None:
    """The whole of it; ConnectFailure when the host does not let us in."""
    if not (login.auth.plaintext or host.is_local or client.get_transport_info("sslcontext") is not None):
        text = f"{where}: no log-in, because the connection has no TLS and auth.plaintext is not set"
        raise ConnectFailure(Phase.PHASE_AUTH, text)
    credentials = await _credentials(login, where, None)
    refusal = await _attempt(client, login, credentials, host, where)
    if refusal is not None and refusal.code == REFUSED and login.tokens is not None:
        # revoked before its time: one fresh token, and no more
        fresh = await _credentials(login, where, credentials.secret)
        if fresh != credentials and client.is_connected:
            refusal = await _attempt(client, login, fresh, host, where)
    if refusal is not None:
        raise refusal


async def _credentials(login: Login, where: str, refused: str | None) -> Credentials:
    auth = login.auth
    try:
        if login.tokens is not None:
            return Credentials(auth.user, await login.tokens.token(refused), is_token=True)
        return Credentials(auth.user, read_secret(auth.password, auth.password_file, auth.password_env))
    except (OSError, ValueError) as failure:
        what = "no access token" if login.tokens is not None else "no password"
        raise ConnectFailure(Phase.PHASE_AUTH, f"{where}: {what} for the log-in: {failure}") from failure


async def _attempt(
    client: aiosmtplib.SMTP, login: Login, credentials: Credentials, host: Host, where: str
) -> ConnectFailure | None:
    """One exchange; what the host has against it, None: we are in."""
    try:
        mechanism = choose(client.esmtp_extensions.get("auth", ""), credentials, login.auth.mechanism)
        exchange = begin(mechanism, credentials, "" if host.is_local else host.name, host.port)
        first = None if exchange.first is None else base64.b64encode(exchange.first)
        command = f"AUTH {mechanism}".encode("ascii")
        if first is not None and len(command) + 1 + len(first) <= LONGEST_COMMAND:
            command, first = command + b" " + first, None
        response = await client.execute_command(command)
        for _ in range(MOST_CHALLENGES):
            if response.code != CONTINUE:
                break
            if first is not None:
                answer, first = first, None
            else:
                answer = base64.b64encode(exchange.answer(decode_challenge(response.message)))
            response = await client.execute_command(answer)
    except AuthError as failure:
        return ConnectFailure(Phase.PHASE_AUTH, f"{where}: {failure}")
    if response.code == DONE:
        return None
    said = _without_secrets(response.message, credentials)
    refusal = ConnectFailure.of_reply(Phase.PHASE_AUTH, where, aiosmtplib.SMTPResponseException(response.code, said))
    why = f" ({exchange.refusal})" if exchange.refusal else ""
    refusal.text = refusal.text.replace(f"{where}: ", f"{where}: log-in refused{why}: ", 1)
    return refusal


def _without_secrets(text: str, credentials: Credentials) -> str:
    """What a host says, should it repeat what it was told."""
    plain = credentials.secret
    for secret in (plain, *_encoded(plain), *_encoded(f"\0{credentials.user}\0{plain}")):
        text = text.replace(secret, "***")
    return text


def _encoded(text: str) -> tuple[str, ...]:
    return (base64.b64encode(text.encode("utf-8")).decode("ascii"),)
