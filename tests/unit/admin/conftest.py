"""Workers that answer what a test tells them to, and a client of the application over them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from angarium._core.counters import Slab
from angarium.admin.api import create_app
from angarium.admin.services import Services
from angarium.admin.suspensions import SuspensionBook
from angarium.admin.workers import Workers
from tests.support.clients import PATIENCE_S
from tests.support.heartbeats import board_of

STATUS = {
    "worker": 0,
    "pid": 1,
    "accepting": True,
    "reason": "",
    "shards": [0, 1],
    "uptime_s": 12.5,
    "watchers": 0,
    "dialogues_lost": 0,
}


class FakeWorker:
    """A worker's socket. `results` maps an op to its result; an exception is an error reply, bytes go out as is."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.questions: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {"status": {**STATUS, "worker": number}}
        self.silent = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = msgspec.json.decode(await reader.readline())
        self.questions.append(question)
        result = self.results.get(question["op"], KeyError(question["op"]))
        if result is self.silent:
            await reader.read()
        elif isinstance(result, bytes):
            writer.write(result)
        elif isinstance(result, Exception):
            writer.write(msgspec.json.encode({"ok": False, "error": str(result)}) + b"\n")
        else:
            writer.write(msgspec.json.encode({"ok": True, "result": result}) + b"\n")
        writer.close()


@pytest.fixture
async def start_workers(tmp_path: Path) -> AsyncIterator[Callable[[int], Any]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(count: int) -> list[FakeWorker]:
            workers = [FakeWorker(tmp_path / f"w{i}", i) for i in range(count)]
            for worker in workers:
                await stack.enter_async_context(await asyncio.start_unix_server(worker.serve, worker.path))
            return workers

        yield start


@pytest.fixture
def slab() -> Slab:
    return Slab.create(3)


@pytest.fixture
async def connect(slab: Slab, tmp_path: Path) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """Make a client of the application over some workers."""
    async with contextlib.AsyncExitStack() as stack:

        def client(paths: list[Path], *, base_url: str = "http://127.0.0.1:8025", **services: Any) -> httpx.AsyncClient:
            services.setdefault("suspensions", SuspensionBook(tmp_path))
            services.setdefault("board", board_of(len(paths)))
            stopped = time.monotonic_ns()
            services.setdefault("monotonic_ns", lambda: stopped)
            workers = Workers(paths, timeout_s=PATIENCE_S)
            app = create_app(Services(hostname="relay.example.org", slab=slab, workers=workers, **services))
            made = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)
            stack.push_async_callback(made.aclose)
            return made

        yield client
