"""A small HTTP server on loopback within the test's own loop: one path, one handler, and what it was asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class WebServer:
    """`answer` is called with each request's body: (status, JSON or bytes). `held`: it does not answer."""

    def __init__(self, answer: Callable[[bytes], tuple[int, Any]]) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.held: asyncio.Event | None = None
        self.url = ""
        self._runner: web.AppRunner

    async def __aenter__(self) -> WebServer:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.held is not None:
            self.held.set()
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.held is not None:
            await self.held.wait()
        status, said = self.answer(body)
        octets = said if isinstance(said, bytes) else json.dumps(said).encode()
        return web.Response(status=status, body=octets, content_type="application/json")
