"""An HTTPS server on loopback, on a loop and thread of its own: policy files of MTA-STS, and a taker of reports.

    ca = trustme.CA()
    with HttpsServer(ca, "mta-sts.example.test") as server:
        server.publish("mta-sts.example.test", "version: STSv1\\n…")
        …
        server.posts

What a host answers can be changed at any time, and so can the certificate. `stop` and `start` may be called again: the
port stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from tests.support.clients import PATIENCE_S
from tests.support.loop_end import end_tasks
from tests.support.ports import free_port

if TYPE_CHECKING:
    import trustme

WELL_KNOWN = "/.well-known/mta-sts.txt"


@dataclass
class Answer:
    """What is answered to a GET."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain"})


@dataclass(frozen=True)
class Post:
    """What was posted."""

    host: str
    path: str
    content_type: str
    body: bytes


class HttpsServer:
    """The server. `gets` lists (host, path) of what was asked for."""

    def __init__(self, ca: trustme.CA, *names: str, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.host = host
        self.port = port or free_port(host)
        self.gets: list[tuple[str, str]] = []
        self.posts: list[Post] = []
        self.post_status = 201
        self.handshakes: list[str | None] = []  # server names that clients asked for
        self._answers: dict[tuple[str, str], Answer] = {}
        self._held = threading.Event()
        self._held.set()
        self._context: ssl.SSLContext
        self.certify(ca, *names)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def certify(self, ca: trustme.CA, *names: str, expired: bool = False) -> None:
        """From now on, show a certificate of this authority for these names."""
        now = datetime.now(UTC)
        valid = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=2)} if expired else {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*names, **valid).configure_cert(context)
        self._context = context

    def publish(self, host: str, text: str | Answer, path: str = WELL_KNOWN) -> None:
        """What GET of path at host is answered with; without this it is 404."""
        self._answers[host, path] = text if isinstance(text, Answer) else Answer(text.encode())

    def hold(self) -> None:
        """Answers wait until `release`."""
        self._held.clear()

    def release(self) -> None:
        self._held.set()

    # -------------------------------------------------------------- life

    def __enter__(self) -> HttpsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        assert self._thread is None
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, started), name="https server", daemon=True)
        self._thread.start()
        assert started.wait(PATIENCE_S)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Listen no longer."""
        if self._thread is None:
            return
        assert self._loop is not None
        self.release()
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._thread = None

    def _run(self, loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(started))
        except BaseException as failure:
            self._failure = failure
            if started.is_set():
                raise
            started.set()
        finally:
            loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stopped = asyncio.Event()
        application = web.Application(client_max_size=16 << 20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        outer.sni_callback = self._choose
        site = web.TCPSite(runner, self.host, self.port, ssl_context=outer)
        try:
            await site.start()
            started.set()
            await self._stopped.wait()
        finally:
            await runner.cleanup()
            await end_tasks()

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        self.handshakes.append(name)
        connection.context = self._context

    async def _answer(self, request: web.Request) -> web.Response:
        host = request.host.partition(":")[0]
        if request.method == "POST":
            body = await request.read()
            self.posts.append(Post(host, request.path_qs, request.content_type, body))
            return web.Response(status=self.post_status)
        self.gets.append((host, request.path_qs))
        await asyncio.to_thread(self._held.wait)
        answer = self._answers.get((host, request.path_qs), Answer(status=404))
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


@contextlib.contextmanager
def ca_file(*authorities: trustme.CA) -> object:
    """The certificates of authorities in a file, by its path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ca.pem"
        path.write_bytes(b"".join(ca.cert_pem.bytes() for ca in authorities))
        yield path
