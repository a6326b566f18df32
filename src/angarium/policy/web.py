"""HTTP calls of back ends: POST a form or JSON, or GET, and read a JSON object of bounded size.

Job: one aiohttp session a back end. Certificates are verified, redirects are not followed (a secret goes nowhere else),
no cookie is kept, no proxy of the environment is used.

Fails: CallFailure, with the host and what happened, and nothing that was sent. Bounds: ANSWER_OCTETS of an answer,
`timeout_s` for a call as a whole, MOST_AT_ONCE connections."""

from __future__ import annotations

import json
import ssl
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from angarium import __version__
from angarium.policy.back_end import MOST_AT_ONCE

__all__ = ["CallFailure", "WebClient"]

ANSWER_OCTETS = 1 << 16
OK = 200


class CallFailure(Exception):
    """A call had no answer that can be used."""


class WebClient:
    """The HTTP client of one back end."""

    def __init__(self, ca: str | None, timeout_s: float) -> None:
        self._ca = ca
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, method: str, url: str, *, headers: dict[str, str], body: Any = None, form: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object that a call is answered with."""
        host = urlsplit(url).hostname or ""
        octets = b""
        try:
            async with self._opened().request(
                method,
                url,
                json=body,
                data=form,
                headers={"Accept": "application/json", **headers},
                allow_redirects=False,
            ) as answer:
                async for part in answer.content.iter_chunked(ANSWER_OCTETS):
                    octets += part
                    if len(octets) > ANSWER_OCTETS:
                        raise CallFailure(f"{host} answers with more than {ANSWER_OCTETS} octets")
                status = answer.status
        except TimeoutError:
            raise CallFailure(f"{host} has no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise CallFailure(f"{host} cannot be asked: {failure}") from None
        if status != OK:
            raise CallFailure(f"{host} answers with HTTP status {status}")
        try:
            said = json.loads(octets)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise CallFailure(f"{host} answers with no JSON object")
        return said

    async def close(self) -> None:
        """End its connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=MOST_AT_ONCE),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"Angarium/{__version__}"},
            )
        return self._session
