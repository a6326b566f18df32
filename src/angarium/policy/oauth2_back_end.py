"""The back end `kind = "oauth2"`: whose an access token is, by introspection (RFC 7662) or by its signature (RFC 7519).

Job: with `introspection_url` the token is shown to the server that made it. With `jwks_file` or `jwks_url` it is a JWT,
verified here by PyJWT with the keys of that set (RFC 7517); the algorithms are those of ALGORITHMS, none that a shared
secret or nobody at all can sign with. Either way the token must be alive, and carry the issuer, the audience and the
scope that the configuration names. Whose it is says the claim `log_in_claim`.

Keys of a URL are fetched when they are first needed, again after KEYS_S, and once more, FETCH_PAUSE_S apart at most,
when a token names a key that is not among them; while they cannot be fetched the old ones hold. Without any they are
asked for every RETRY_S at most.

Fails: UNAVAILABLE with the reason in the log when nobody can be asked; REFUSED for a token that will not do, with the
JSON object that RFC 7628 §3.2.2 gives the client. Bounds: as policy.web; MOST_KEYS keys."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jwt

from angarium.config.secret import read_secret
from angarium.policy.back_end import BackEnd, Finding, Found
from angarium.policy.web import ANSWER_OCTETS, CallFailure, WebClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.config.credentials import Credentials
    from angarium.policy.access_protocol import TokenAttempt

__all__ = ["OAuth2BackEnd"]

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_S = 30.0  # between this machine's clock and the other's
KEYS_S = 3600.0
FETCH_PAUSE_S = 60.0
RETRY_S = 5.0
MOST_KEYS = 64


class OAuth2BackEnd(BackEnd):
    """One authorization server."""

    def __init__(self, credentials: Credentials, monotonic: Callable[[], float]) -> None:
        self._settings = credentials
        self._monotonic = monotonic
        self._client = WebClient(credentials.ca, credentials.timeout_s)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._asked = float("-inf")
        self._state: tuple[int, int] | None = None
        self._fetching = asyncio.Lock()

    async def token(self, attempt: TokenAttempt) -> Found:
        """Whose it is, if it holds here, and if that is whom the client names."""
        try:
            if self._settings.introspection_url is not None:
                claims = await self._introspect(attempt.token)
            else:
                claims = await self._decode(attempt.token)
        except (CallFailure, OSError) as failure:
            log.error("access tokens cannot be looked at: %s", failure)
            return Found(Finding.UNAVAILABLE)
        if claims is None:
            return self._refused("invalid_token")
        scope = claims.get("scope", claims.get("scp", ""))
        granted = scope.split() if isinstance(scope, str) else scope
        wanted = self._settings.scope
        if wanted is not None and (not isinstance(granted, list) or not set(wanted.split()) <= set(map(str, granted))):
            return self._refused("insufficient_scope")
        log_in = claims.get(self._settings.log_in_claim)
        if not isinstance(log_in, str) or not log_in:
            log.error("an access token that holds has no claim %s, so it is nobody's", self._settings.log_in_claim)
            return self._refused("invalid_token")
        if attempt.log_in and attempt.log_in.casefold() != log_in.casefold():
            return self._refused("invalid_token")
        return Found(Finding.ACCEPTED, log_in)

    async def close(self) -> None:
        """End its connections."""
        await self._client.close()

    def _refused(self, status: str) -> Found:
        said = {"status": status}
        if self._settings.scope is not None:
            said["scope"] = self._settings.scope
        return Found(Finding.REFUSED, message=json.dumps(said))

    # ------------------------------------------------------------------ introspection

    async def _introspect(self, token: str) -> dict[str, Any] | None:
        settings = self._settings
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {}
        try:
            if settings.client_secret or settings.client_secret_file or settings.client_secret_env:
                secret = read_secret(settings.client_secret, settings.client_secret_file, settings.client_secret_env)
                pair = f"{quote(settings.client_id or '', safe='')}:{quote(secret, safe='')}"  # RFC 6749 §2.3.1
                headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            elif settings.client_id is not None:
                form["client_id"] = settings.client_id
        except ValueError as failure:
            raise CallFailure(str(failure)) from None
        said = await self._client.call("POST", settings.introspection_url or "", headers=headers, form=form)
        if said.get("active") is not True:
            return None
        if settings.issuer is not None and said.get("iss") != settings.issuer:
            return None
        audience = said.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if settings.audience is not None and settings.audience not in named:
            return None
        return said

    # ------------------------------------------------------------------ signed tokens

    async def _decode(self, token: str) -> dict[str, Any] | None:
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            return None
        key = await self._key(str(header.get("kid", "")))
        if key is None:
            return None
        required = ["exp", *(["iss"] if settings.issuer is not None else []), *(["aud"] if settings.audience else [])]
        try:
            return jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=settings.issuer,
                audience=settings.audience,
                leeway=LEEWAY_S,
                options={"require": required, "verify_aud": settings.audience is not None},
            )
        except jwt.PyJWTError:  # of the token, or of a key that does not go with its algorithm
            return None

    async def _key(self, name: str) -> jwt.PyJWK | None:
        async with self._fetching:
            now = self._monotonic()
            if self._settings.jwks_file is not None:
                self._read(self._settings.jwks_file)
            elif self._due(name, now):
                self._asked = now
                await self._fetch(now)
        if name in self._keys:
            return self._keys[name]
        return next(iter(self._keys.values())) if len(self._keys) == 1 and not name else None

    def _due(self, name: str, now: float) -> bool:
        if not self._keys:
            if now - self._asked < RETRY_S:
                raise CallFailure("the keys of access tokens could not be fetched a moment ago")
            return True
        wanted = now - self._fetched >= KEYS_S or (name not in self._keys and bool(name))
        return wanted and now - self._asked >= FETCH_PAUSE_S

    async def _fetch(self, now: float) -> None:
        try:
            self._keys = _keys_of(await self._client.call("GET", self._settings.jwks_url or "", headers={}))
            self._fetched = now
        except CallFailure:
            if not self._keys:
                raise
            log.warning("the keys of access tokens cannot be fetched; the ones that are known hold")

    def _read(self, file: str) -> None:
        found = os.stat(file)
        state = (found.st_mtime_ns, found.st_size)
        if state == self._state:
            return
        with Path(file).open("rb") as opened:
            octets = opened.read(ANSWER_OCTETS + 1)
        try:
            said = json.loads(octets)
        except ValueError:
            raise CallFailure(f"{file} is no JSON") from None
        self._keys = _keys_of(said)
        self._state = state


def _keys_of(said: Any) -> dict[str, jwt.PyJWK]:
    """The keys of a set by their names; those that this library cannot use are left out."""
    if not isinstance(said, dict) or not isinstance(said.get("keys"), list):
        raise CallFailure('a set of keys is a JSON object with "keys" (RFC 7517 §5)')
    keys: dict[str, jwt.PyJWK] = {}
    for one in said["keys"][:MOST_KEYS]:
        if not isinstance(one, dict) or one.get("kty") == "oct" or one.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(one)
        except jwt.PyJWTError:
            continue
        keys[str(one.get("kid", ""))] = key
    if not keys:
        raise CallFailure("the set of keys has none that can verify a signature")
    return keys
