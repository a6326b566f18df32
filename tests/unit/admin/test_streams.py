"""What the node says of its streams, and dead letters sent again, answered by an events process of the test."""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.event_protocol import EVENTS_STATUS, RESEND, EventsStatus, Resent, StreamStatus
from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_server import LookupServer
from angarium.outcome.metrics import STREAM_METRICS
from tests.support.heartbeats import board_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx

CRM = StreamStatus("crm", "https://crm.test/", "failing", 12, 3.5, 100, 10, 4, 7, 2, "HTTP status 503")


async def status(_: None) -> EventsStatus:
    return EventsStatus(4321, 17.5, 3, 4096, (CRM,))


async def resend(name: str) -> Resent:
    return Resent(7 if name == "crm" else -1)


def client_of(path: Path) -> LookupClient:
    return LookupClient(str(path), monotonic=time.monotonic, random=random.Random(), away_s=0.05, away="it is away")


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[LookupClient]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(tmp_path / "events.sock"))
    sock.listen()
    server = LookupServer()
    server.answer(EVENTS_STATUS, status)
    server.answer(RESEND, resend)
    await server.start(sock)
    client = client_of(tmp_path / "events.sock")
    yield client
    await client.close()
    await server.close()


async def test_the_status_has_the_log_and_its_streams(
    connect: Callable[..., httpx.AsyncClient], events: LookupClient
) -> None:
    report = (await connect([], events=events).get("/api/v1/status")).json()["events"]
    (stream,) = report["status"].pop("streams")
    assert report == {
        "answering": True,
        "error": None,
        "status": {"pid": 4321, "uptime_s": 17.5, "files": 3, "octets": 4096},
    }
    assert stream == {name: getattr(CRM, name) for name in CRM.__struct_fields__}


async def test_every_metric_of_a_stream_has_its_value(
    connect: Callable[..., httpx.AsyncClient], events: LookupClient
) -> None:
    text = (await connect([], events=events, board=board_of(0, "events")).get("/metrics")).text
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if '"crm"' in line}
    assert values == dict(zip((spec.name for spec in STREAM_METRICS), (12, 3.5, 1, 7, 100, 10, 4, 2), strict=True))
    assert 'angarium_process_up{process="events"} 1.0' in text


async def test_dead_letters_are_sent_again(connect: Callable[..., httpx.AsyncClient], events: LookupClient) -> None:
    client = connect([], events=events)
    answer = await client.post("/api/v1/streams/crm/resend")
    assert (answer.status_code, answer.json()) == (200, {"events": 7})
    assert (await client.post("/api/v1/streams/other/resend")).status_code == 404


async def test_without_a_log_there_is_nothing_to_ask(connect: Callable[..., httpx.AsyncClient]) -> None:
    client = connect([])
    assert (await client.get("/api/v1/status")).json()["events"] is None
    answer = await client.post("/api/v1/streams/crm/resend")
    assert (answer.status_code, answer.json()["detail"]) == (503, "this node keeps no event log")


async def test_a_process_that_is_away_is_said_to_be(connect: Callable[..., httpx.AsyncClient], tmp_path: Path) -> None:
    away = client_of(tmp_path / "nowhere.sock")
    client = connect([], events=away)
    report = (await client.get("/api/v1/status")).json()["events"]
    assert (report["answering"], report["status"]) == (False, None)
    assert "it is away" in report["error"]
    assert 'stream="crm"' not in (await client.get("/metrics")).text
    await away.close()
