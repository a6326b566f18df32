"""A receiver of batches by HTTP: one POST at a time, over one connection that is kept.

Input: a URL, a body, headers. Output: what it answered; it is the caller's to judge. Redirects are not followed, and
cookies not kept. How long an answer may take is the caller's to say.

Fails: SinkFailure when there is no answer. Bounds: ANSWER_OCTETS of an answer, of which TEXT_OCTETS are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from angarium import __version__
from angarium.app.stream.cause import CLOSED, words_of
from angarium.app.stream.log_in import context_of
from angarium.app.stream.sink import SinkFailure
from angarium.app.stream.tls_probe import reason_of_tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from angarium.config.model import Stream

__all__ = ["TOO_LARGE", "Answer", "HttpReceiver"]

ANSWER_OCTETS = 65536
TEXT_OCTETS = 200
TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to a POST; `text` is printable, `retry_after_s` 0 where it does not say."""

    status: int
    text: str
    retry_after_s: float

    @property
    def taken(self) -> bool:
        """Whether it is 2xx."""
        return 200 <= self.status < 300


class HttpReceiver:
    """That of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to a POST."""
        try:
            async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as answer:
                said = await answer.content.read(ANSWER_OCTETS)
                retry_after = answer.headers.get("Retry-After", "")
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise SinkFailure(f"cannot be reached: {await self._reason(url, failure)}") from failure
        text = said[:TEXT_OCTETS].decode("utf-8", "replace")
        text = "".join(mark if mark.isprintable() else " " for mark in text).strip()
        return Answer(status, text, _seconds(retry_after))

    async def _reason(self, url: str, failure: Exception) -> str:
        """What is wrong; who closes a connection by TLS without a word is asked why."""
        stream = self._stream
        shows = stream.certificate is not None
        words = words_of(failure, shows)
        parts = urlsplit(url)
        if words == CLOSED and parts.scheme == "https" and parts.hostname:
            context = context_of(stream.ca, stream.certificate, stream.key)
            words = await reason_of_tls(parts.hostname, parts.port or 443, context, shows=shows) or words
        return words

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = context_of(self._stream.ca, self._stream.certificate, self._stream.key)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=1),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"Angarium/{__version__}"},
            )
        return self._session

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _seconds(text: str) -> float:
    """Of a Retry-After; 0 for one that is a date, or nothing."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
