"""Access tokens for log-ins: asked for when one is needed, kept until they expire, renewed ahead of that.

Job: `TokenSource.token` gives a token that holds. Input: `fetch`, which makes one request (`token_endpoint` by HTTPS),
and a clock. One request is under way at a time, whoever waits; in the last RENEW_SHARE of a token's life it is still
used while its successor is asked for. A host that refuses a token (`refused`) has it thrown away, and a fresh one asked
for, unless it is so young (YOUNG_S) that the token cannot be the reason.

Fails: TokenError, an OSError, with the token host's own words and nothing secret. After a failure nobody asks again for
a while (BACKOFF_*), which doubles with each in a row; until then the last failure is the answer, or a token that still
holds.

Bounds: one token and one request a source."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from angarium.clock import Clock
    from angarium.config.model import OAuth2

__all__ = ["AccessToken", "Grant", "Result", "TokenError", "TokenSource", "key_of"]

log = logging.getLogger(__name__)

Result = Literal["granted", "refused", "failed"]

RENEW_SHARE = 0.2  # of a token's life, at its end
RENEW_LONGEST_S = 600.0
LEAST_S = 5.0  # a token with less left is none
YOUNG_S = 5.0
BACKOFF_FIRST_S = 1.0
BACKOFF_LONGEST_S = 300.0


class TokenError(OSError):
    """No token. `refused`: the token host said so; else it could not be asked, or said nothing that can be read."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Grant:
    """What one request came to."""

    access_token: str = field(repr=False)
    lifetime_s: float


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token on its way to a worker: it may be used until `holds_until`, and kept without asking until `expires`.

    Both are times of the monotonic clock."""

    token: str = field(repr=False)
    holds_until: float
    expires: float


def key_of(oauth2: OAuth2) -> str:
    """What the processes of a node call the tokens of this table; a table that differs in anything has other tokens."""
    return hashlib.sha256(msgspec.msgpack.encode(oauth2)).hexdigest()


class TokenSource:
    """The token of one log-in."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Grant]],
        clock: Clock,
        on_result: Callable[[Result, float], None] | None = None,
    ) -> None:
        """`on_result` is told of each request: how it went, and for how many seconds its token holds."""
        self._fetch = fetch
        self._clock = clock
        self._on_result = on_result
        self._token: str | None = None
        self._issued = 0.0
        self._expires = 0.0
        self._renew = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._failure: TokenError | None = None
        self._request: asyncio.Task[None] | None = None

    @property
    def seconds_left(self) -> float:
        """How long the token holds; 0 when there is none."""
        return max(0.0, self._expires - self._clock.monotonic()) if self._token is not None else 0.0

    async def access_token(self, refused: str | None = None) -> AccessToken:
        """The same as `token`, with its times."""
        token = await self.token(refused)
        now = self._clock.monotonic()
        # one that was refused, or whose successor is on the way, is to be asked for again
        return AccessToken(token, self._expires, now if token == refused or now >= self._renew else self._renew)

    async def token(self, refused: str | None = None) -> str:
        """A token that holds; `refused`: not this one, which a host did not take."""
        now = self._clock.monotonic()
        if refused is not None and refused == self._token and now - self._issued >= YOUNG_S:
            self._token = None
        if self._token is not None and self.seconds_left > LEAST_S:
            if now >= self._renew:
                self._ask(now)
            return self._token
        request = self._ask(now)
        if request is not None:
            await asyncio.shield(request)  # one who is cancelled must not take it away from the others
        if self._token is not None and self.seconds_left > 0:
            return self._token
        raise self._failure or TokenError("no token")

    async def close(self) -> None:
        """Give up a request that is under way."""
        if self._request is not None:
            self._request.cancel()
            await asyncio.gather(self._request, return_exceptions=True)

    def _ask(self, now: float) -> asyncio.Task[None] | None:
        """The request under way; None: it is too early for another one."""
        if self._request is None and now >= self._not_before:
            self._request = asyncio.get_running_loop().create_task(self._take())
            self._request.add_done_callback(self._done)
        return self._request

    def _done(self, _: asyncio.Task[None]) -> None:
        self._request = None

    async def _take(self) -> None:
        try:
            grant = await self._fetch()
        except TokenError as failure:
            self._failures += 1
            self._failure = failure
            pause_s = min(BACKOFF_FIRST_S * 2.0 ** (self._failures - 1), BACKOFF_LONGEST_S)
            self._not_before = self._clock.monotonic() + pause_s
            log.warning("%s; asked again in %g s", failure, pause_s)
            self._tell("refused" if failure.refused else "failed")
            return
        now = self._clock.monotonic()
        self._failures, self._not_before, self._failure = 0, 0.0, None
        self._token = grant.access_token
        self._issued = now
        self._expires = now + grant.lifetime_s
        self._renew = self._expires - min(grant.lifetime_s * RENEW_SHARE, RENEW_LONGEST_S)
        self._tell("granted")

    def _tell(self, result: Result) -> None:
        if self._on_result is not None:
            self._on_result(result, self.seconds_left)
