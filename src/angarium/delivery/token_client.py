"""A worker's end of the tokens that the lookup process has for the whole node.

Input: a LookupClient, and the OAuth2 table of a route. Output: tokens for log-ins (`delivery.login.Tokens`). What the
client keeps of them it keeps no longer than their source says; the last token that a host refused goes along with each
question, so that the answer is not the one from before.

Fails: TokenError, with what the lookup process said, or that it does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.delivery.lookup_protocol import TOKEN
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.oauth2 import TokenError, key_of

if TYPE_CHECKING:
    from angarium.clock import Clock
    from angarium.config.model import OAuth2
    from angarium.delivery.lookup_client import LookupClient

__all__ = ["NodeTokens"]


class NodeTokens:
    """The tokens of one OAuth2 table."""

    def __init__(self, lookup: LookupClient, oauth2: OAuth2, clock: Clock) -> None:
        self._lookup = lookup
        self._key = key_of(oauth2)
        self._clock = clock
        self._refused = ""

    async def token(self, refused: str | None = None) -> str:
        """A token that holds; `refused`: not this one, which a host did not take."""
        if refused is not None:
            self._refused = refused
        try:
            found = await self._lookup.ask(TOKEN, (self._key, self._refused))
        except ResolutionFailure as failure:
            raise TokenError(failure.text) from failure
        if found.holds_until <= self._clock.monotonic():  # the process is away, and this is what was right once
            raise TokenError("the access token has expired, and the lookup process does not answer")
        return found.token
