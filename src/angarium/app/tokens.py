"""The access tokens of the node, in its lookup process: one source for each OAuth2 table of the configuration.

Input: the configuration; then what workers ask for. Output: tokens, counted and logged. aiohttp is loaded when there is
such a table: who needs no token does not pay for it.

Fails with ResolutionFailure, 451 4.7.0 and what the token host said; so does a question about a table that this process
does not know, which a worker may ask while a reload replaces one process after the other.

Bounds: a source for each table of the configuration."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from angarium._core.counters import Slot
from angarium._core.event_log import EventLog
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.oauth2 import TokenError, TokenSource, key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from angarium._core.counters import Counters
    from angarium.clock import Clock
    from angarium.config.model import Config, OAuth2
    from angarium.delivery.oauth2 import AccessToken, Grant, Result

__all__ = ["TokenDesk"]

log = logging.getLogger(__name__)

TEMPORARY_AUTHENTICATION_FAILURE = (4, 7, 0)  # RFC 4954 §6

_SLOTS = {
    "granted": Slot.DELIVERY_TOKENS_GRANTED,
    "refused": Slot.DELIVERY_TOKENS_REFUSED,
    "failed": Slot.DELIVERY_TOKENS_FAILED,
}


class TokenDesk:
    """Every token of the node."""

    def __init__(self, config: Config, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        tables = {
            route.auth.oauth2 for route in config.route if route.auth is not None and route.auth.oauth2 is not None
        }
        self._events = EventLog(config.event_file if tables else None, counters)
        self._sources = {key_of(oauth2): self._source_of(oauth2) for oauth2 in tables}

    def _source_of(self, oauth2: OAuth2) -> TokenSource:
        host = urlsplit(oauth2.token_url).hostname or ""
        return TokenSource(_endpoint(oauth2), self._clock, partial(self._note, host))

    async def token(self, asked: tuple[str, str]) -> AccessToken:
        """The token of a table, by its key; not the second of the two, which a host refused (empty: none)."""
        key, refused = asked
        source = self._sources.get(key)
        if source is None:
            raise _failure("no access token: the configuration is being changed")
        try:
            return await source.access_token(refused or None)
        except TokenError as failure:
            raise _failure(str(failure)) from failure

    def publish(self) -> None:
        """Write the metric of how long the tokens hold, and the events."""
        if self._sources:
            left = min(source.seconds_left for source in self._sources.values())
            self._counters.set(Slot.DELIVERY_TOKEN_LEFT, int(left))
            self._events.flush()

    def reopen_events(self) -> None:
        """The event log was rotated."""
        try:
            self._events.reopen()
        except OSError as failure:
            log.error("the event log cannot be reopened: %s", failure)

    async def close(self) -> None:
        """Give up requests that are under way."""
        for source in self._sources.values():
            await source.close()
        self._events.close()

    def _note(self, host: str, result: Result, seconds_left: float) -> None:
        self._counters.add(_SLOTS[result], 1)
        self._events.event("token", {"token_host": host, "class": result, "lifetime_s": round(seconds_left, 3)})
        self.publish()


def _endpoint(oauth2: OAuth2) -> Callable[[], Awaitable[Grant]]:
    from angarium.delivery.token_endpoint import TokenEndpoint  # noqa: PLC0415  # it loads aiohttp

    return TokenEndpoint(oauth2)


def _failure(text: str) -> ResolutionFailure:
    return ResolutionFailure(False, 451, TEMPORARY_AUTHENTICATION_FAILURE, text)
