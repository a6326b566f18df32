"""A receiver of batches by HTTP: one POST at a time, over one connection that is kept.

Input: a URL, a body, headers. Output: what it answered; it is the caller's to judge. Redirects are not followed, and
cookies not kept. How long an answer may take is the caller's to say.

Fails: SinkFailure when there is no answer. Bounds: ANSWER_OCTETS of an answer, of which TEXT_OCTETS are told.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from angarium import __version__
from angarium.app.stream.sink import SinkFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """One of them. `ca`: a file of authorities in place of the system's."""

    def __init__(self, ca: str | None) -> None:
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to a POST."""
        try:
            async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as answer:
                said = await answer.content.read(ANSWER_OCTETS)
                retry_after = answer.headers.get("Retry-After", "")
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise SinkFailure(f"cannot be reached: {failure or type(failure).__name__}") from failure
        text = said[:TEXT_OCTETS].decode("utf-8", "replace")
        text = "".join(mark if mark.isprintable() else " " for mark in text).strip()
        return Answer(status, text, float(retry_after) if retry_after.isdigit() else 0.0)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._ca)
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
