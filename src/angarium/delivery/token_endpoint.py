"""One request for an access token by HTTPS: client credentials (RFC 6749 §4.4) or a refresh token (§6).

Input: the OAuth2 settings of a route. Output: a Grant. What a token host may do: JSON of at most ANSWER_OCTETS, within
the time that the settings give, without redirects (a secret goes nowhere else).

Fails: TokenError, with the host's name and its own words, and nothing secret: where it repeats a secret, that is cut
out."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from angarium.config.secret import read_secret
from angarium.delivery.oauth2 import Grant, TokenError

if TYPE_CHECKING:
    from angarium.config.model import OAuth2

__all__ = ["TokenEndpoint"]

OK = 200
CLIENT_ERROR = 4  # first digit of a status that says that the request will not do
UNKNOWN_LIFE_S = 300.0  # RFC 6749 §5.1: expires_in may be left out
LONGEST_LIFE_S = 86400.0
ANSWER_OCTETS = 1 << 16
LONGEST_TEXT = 200


class TokenEndpoint:
    """Asks the token host that the configuration names. Secrets are read for each request, from where they stand.

    A token host that gives a new refresh token with each answer (RFC 6749 §6) is followed while this process lives.
    """

    def __init__(self, oauth2: OAuth2) -> None:
        self._oauth2 = oauth2
        self._host = urlsplit(oauth2.token_url).hostname or ""
        self._rotated: tuple[str, str] | None = None  # the token of the configuration, and its successor

    async def __call__(self) -> Grant:
        """One request."""
        oauth2 = self._oauth2
        try:
            form, known = self._form()
            context: ssl.SSLContext | bool = ssl.create_default_context(cafile=oauth2.ca)
        except (OSError, ValueError) as failure:
            raise TokenError(f"the token host {self._host} cannot be asked: {failure}") from failure
        timeout = aiohttp.ClientTimeout(total=oauth2.timeout_s)
        octets = b""
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(
                    oauth2.token_url,
                    data=form,
                    ssl=context,
                    headers={"Accept": "application/json"},
                    allow_redirects=False,
                ) as answer,
            ):
                status = answer.status
                async for part in answer.content.iter_chunked(ANSWER_OCTETS):
                    octets += part
                    if len(octets) > ANSWER_OCTETS:
                        raise TokenError(f"the token host {self._host} answers with more than {ANSWER_OCTETS} octets")
        except TokenError:
            raise
        except TimeoutError as failure:
            raise TokenError(f"the token host {self._host} timed out") from failure
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise TokenError(f"the token host {self._host} cannot be reached: {failure}") from failure
        return self._grant_of(status, octets, form, known)

    def _form(self) -> tuple[dict[str, str], str]:
        """The fields of the request, and the refresh token of the configuration."""
        oauth2 = self._oauth2
        form = {"grant_type": oauth2.grant, "client_id": oauth2.client_id}
        if oauth2.client_secret or oauth2.client_secret_file or oauth2.client_secret_env:
            form["client_secret"] = read_secret(
                oauth2.client_secret, oauth2.client_secret_file, oauth2.client_secret_env
            )
        if oauth2.scope is not None:
            form["scope"] = oauth2.scope
        known = ""
        if oauth2.grant == "refresh_token":
            known = read_secret(oauth2.refresh_token, oauth2.refresh_token_file, oauth2.refresh_token_env)
            rotated = self._rotated
            form["refresh_token"] = rotated[1] if rotated is not None and rotated[0] == known else known
        return form, known

    def _grant_of(self, status: int, octets: bytes, form: dict[str, str], known: str) -> Grant:
        try:
            said: Any = json.loads(octets)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise TokenError(f"the token host {self._host} answered {status}, and nothing that can be read")
        token = said.get("access_token")
        if status != OK or not isinstance(token, str) or not token or not token.isprintable():
            text = _shown(said.get("error"), said.get("error_description"))
            for name in ("client_secret", "refresh_token"):
                if name in form:
                    text = text.replace(form[name], "***")
            text = f"the token host {self._host} refused ({status}): {text[:LONGEST_TEXT]}"
            raise TokenError(text, refused=status // 100 == CLIENT_ERROR)
        successor = said.get("refresh_token")
        if known and isinstance(successor, str) and successor:
            self._rotated = (known, successor)
        return Grant(token, _lifetime_s(said.get("expires_in")))


def _lifetime_s(said: object) -> float:
    try:
        seconds = float(said)  # type: ignore[arg-type]  # what is no number fails
    except (TypeError, ValueError):
        return UNKNOWN_LIFE_S
    return min(seconds, LONGEST_LIFE_S) if seconds > 0 else UNKNOWN_LIFE_S


def _shown(*words: object) -> str:
    text = ": ".join(word for word in words if isinstance(word, str) and word) or "no reason given"
    return "".join(mark if mark.isprintable() else " " for mark in text)
