"""What stands in front of every request: the token, the Host check and the security headers.

Job: an ASGI wrapper around the application. With a token, everything but the health checks and the console's own files
(which hold no data) needs `Authorization: Bearer …` (RFC 6750). Without one the relay listens on loopback, where any
web page that the user has open could reach it under a name of its own (DNS rebinding): so Host must then be an address,
localhost or the node's hostname. A request without one (HTTP/1.0) comes from no browser and passes, and the health
checks are answered under any name: who probes the node has names of their own for it. And since a page may send a
request that changes something without being able to read the answer, one whose Origin (RFC 6454 §7) is not the host
that it asks is refused.

HEAD of a health check is answered as GET without its content (RFC 9110 §9.3.2).

Fails: 403 for another Origin, 401 with WWW-Authenticate, 421 for a Host that is not ours (RFC 9110 §15.5.20).
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING

import msgspec
from litestar.enums import ScopeType

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Gate"]

_HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
_OPEN_PATHS = frozenset({"/", "/favicon.ico"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OPEN_PREFIX = "/static/"

# Inline styles are allowed for the sake of mails shown in their sandboxed frame, which inherits this policy; the
# console itself puts no text into the page as markup.
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        b" connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Gate:
    """Lets through what may pass. `token` None: no token is asked for."""

    def __init__(self, app: ASGIApp, token: str | None, hostname: str) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._names = {"localhost", hostname.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                extra = [(name, value) for name, value in _HEADERS if name not in names]
                if b"cache-control" not in names:
                    extra.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        answer: Send = send_with_headers
        headers = dict(scope["headers"])
        path = scope["path"]
        if scope["method"] == "HEAD" and path in _HEALTH_PATHS:
            scope = {**scope, "method": "GET"}
            answer = _without_content(send_with_headers)
        origin = headers.get(b"origin")
        if scope["method"] not in _SAFE_METHODS and origin is not None:
            _, _, place = origin.partition(b"://")
            if place.lower() != headers.get(b"host", b"").lower():
                await _refuse(answer, 403, "the request comes from a page of another origin", [])
                return
        if path in _HEALTH_PATHS:
            pass
        elif self._token is None:
            # a browser always says Host; HTTP/1.0 need not
            if b"host" in headers and not self._is_ours(headers[b"host"].decode("latin-1")):
                await _refuse(answer, 421, "the Host header names no address of this relay", [])
                return
        elif path not in _OPEN_PATHS and not path.startswith(_OPEN_PREFIX):
            scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(credentials.strip(), self._token):
                await _refuse(answer, 401, "a token is needed", [(b"www-authenticate", b"Bearer")])
                return
        await self._app(scope, receive, answer)

    def _is_ours(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _without_content(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message["body"] = b""
        await send(message)

    return send_head


async def _refuse(send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = msgspec.json.encode({"status_code": status, "detail": detail})
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), length, *headers],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
