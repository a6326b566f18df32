"""A token host for OAuth2 on loopback: it gives tokens, lets them expire, revokes them, refuses, or fails as told.

It runs on a loop and thread of its own, so that plain blocking tests can use it. `tokens` are those that hold now.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.clients import PATIENCE_S
from tests.support.loop_end import end_tasks
from tests.support.ports import free_port

if TYPE_CHECKING:
    import ssl

CLIENT = {"client_id": "relay", "client_secret": "client words"}
REFRESH_TOKEN = "refresh words"


class TokenServer:
    """The server; `with` starts and stops it.

    `lifetime_s`: of the tokens it gives. `answer`: what it says next instead, (status, JSON or bytes); it stays until
    it is None again. `rotates`: each answer has another refresh token, and the old one is void.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, lifetime_s: float = 3600, rotates: bool = False) -> None:
        self.port = free_port()
        self.lifetime_s: object = lifetime_s
        self.answer: tuple[int, Any] | None = None
        self.rotates = rotates
        self.refresh_token = REFRESH_TOKEN
        self.requests: list[dict[str, str]] = []
        self._tls = tls
        self._expires: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._held: threading.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="token server")
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """For a route's token_url."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/token"

    @property
    def tokens(self) -> set[str]:
        """The access tokens that hold."""
        now = time.monotonic()
        return {token for token, expires in self._expires.items() if expires > now}

    def revoke(self) -> None:
        """No token given so far holds any more."""
        self._expires.clear()

    def __enter__(self) -> TokenServer:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application()
        application.router.add_post("/token", self._give)
        runner = web.AppRunner(application, shutdown_timeout=0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._tls)
        self._loop.run_until_complete(site.start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.run_until_complete(end_tasks())
        self._loop.close()

    async def _give(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append(form)
        if self.answer is not None:
            status, said = self.answer
            if status in {301, 302, 307}:
                raise web.HTTPTemporaryRedirect(said)
            return (
                web.Response(status=status, body=said)
                if isinstance(said, bytes)
                else web.json_response(said, status=status)
            )
        if any(form.get(name) != value for name, value in CLIENT.items()):
            return web.json_response({"error": "invalid_client"}, status=401)
        if form["grant_type"] == "refresh_token" and form.get("refresh_token") != self.refresh_token:
            return web.json_response({"error": "invalid_grant", "error_description": "who are you?"}, status=400)
        number = next(self._numbers)
        token = f"token-{number}"
        said = {"access_token": token, "token_type": "Bearer"}
        if self.lifetime_s is not None:
            said["expires_in"] = self.lifetime_s
        lifetime_s = self.lifetime_s if isinstance(self.lifetime_s, int | float) else 3600
        self._expires[token] = time.monotonic() + lifetime_s
        if self.rotates:
            self.refresh_token = said["refresh_token"] = f"refresh-{number}"
        return web.json_response(said)
