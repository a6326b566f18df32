"""`/api/v1/bans` and what the node says of its access process, answered by one of the test."""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_server import LookupServer
from angarium.policy.access_protocol import ACCESS_STATUS, BANS, UNBAN, AccessStatus, Ban, BanList, Lifted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx


class Desk:
    """What the access process is asked, and says."""

    def __init__(self) -> None:
        self.bans = [Ban("address", "192.0.2.1", 20, 812.3456), Ban("log_in", "#0f", 50, 12.0)]
        self.lifted: list[str] = []

    async def list(self, _: None) -> BanList:
        return BanList(tuple(self.bans))

    async def lift(self, subject: str) -> Lifted:
        self.lifted.append(subject)
        gone = [ban for ban in self.bans if subject in {"*", ban.of}]
        self.bans = [ban for ban in self.bans if ban not in gone]
        return Lifted(len(gone))

    async def status(self, _: None) -> AccessStatus:
        return AccessStatus(4321, 17.5, 3, len(self.bans))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def access(desk: Desk, tmp_path: Path) -> AsyncIterator[LookupClient]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(tmp_path / "access.sock"))
    sock.listen()
    server = LookupServer()
    server.answer(BANS, desk.list)
    server.answer(UNBAN, desk.lift)
    server.answer(ACCESS_STATUS, desk.status)
    await server.start(sock)
    client = LookupClient(
        str(tmp_path / "access.sock"), monotonic=time.monotonic, random=random.Random(), away_s=0.05, away="it is away"
    )
    yield client
    await client.close()
    await server.close()


async def test_bans_are_listed_and_lifted(
    connect: Callable[..., httpx.AsyncClient], access: LookupClient, desk: Desk
) -> None:
    client = connect([], access=access)
    assert (await client.get("/api/v1/bans")).json() == [
        {"of": "address", "subject": "192.0.2.1", "failures": 20, "left_s": 812.346},
        {"of": "log_in", "subject": "#0f", "failures": 50, "left_s": 12.0},
    ]
    answer = await client.delete("/api/v1/bans", params={"subject": "192.0.2.1"})
    assert (answer.status_code, answer.json()) == (200, {"lifted": 1})
    again = await client.delete("/api/v1/bans", params={"subject": "192.0.2.1"})
    assert (again.status_code, again.json()["detail"]) == (404, "192.0.2.1 is not banned")
    assert (await client.delete("/api/v1/bans", params={"subject": "*"})).json() == {"lifted": 1}
    assert (await client.delete("/api/v1/bans", params={"subject": "*"})).json() == {"lifted": 0}
    assert desk.lifted == ["192.0.2.1", "192.0.2.1", "*", "*"]
    assert (await client.delete("/api/v1/bans")).status_code == 400


async def test_a_node_where_nobody_logs_in(connect: Callable[..., httpx.AsyncClient]) -> None:
    client = connect([])
    answer = await client.get("/api/v1/bans")
    assert answer.status_code == 503
    assert "no [[credentials]]" in answer.json()["detail"]
    assert (await client.get("/api/v1/status")).json()["access"] is None


async def test_the_access_process_is_reported(
    connect: Callable[..., httpx.AsyncClient], access: LookupClient, tmp_path: Path
) -> None:
    client = connect([], access=access)
    told = {"pid": 4321, "under_way": 3, "bans": 2, "uptime_s": 17.5}
    assert (await client.get("/api/v1/status")).json()["access"] == {"answering": True, "error": None, "status": told}
    away = LookupClient(
        str(tmp_path / "none"), monotonic=time.monotonic, random=random.Random(), away_s=0.05, away="it is away"
    )
    client = connect([], access=away)
    report = (await client.get("/api/v1/status")).json()["access"]
    assert (report["answering"], report["error"], report["status"]) == (False, "it is away", None)
    assert (await client.get("/api/v1/bans")).json()["detail"] == "it is away"
    await away.close()
