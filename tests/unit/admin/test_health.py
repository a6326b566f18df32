"""/healthz and /readyz as kubelet, HAProxy, Consul and a person with curl ask for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from angarium.admin.heartbeat import SILENT_S, State
from tests.support.heartbeats import board_of

if TYPE_CHECKING:
    from pathlib import Path

Connect = Callable[..., httpx.AsyncClient]
S = 1_000_000_000


async def test_ready_while_one_worker_accepts(connect: Connect, tmp_path: Path) -> None:
    board = board_of(2)
    client = connect([tmp_path, tmp_path], board=board)
    board.starting("worker", 0, time.monotonic_ns())
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {
            "ready": True,
            "state": "degraded",
            "reasons": ["worker 0: is starting, for 0 s now"],
            "checks": [
                {"name": "supervisor", "ok": True, "why": None},
                {"name": "worker 0", "ok": False, "why": "is starting, for 0 s now"},
                {"name": "worker 1", "ok": True, "why": None},
                {"name": "event log", "ok": True, "why": None},
            ],
        },
    )
    board.heart("worker", 1).say(State.DRAINING)
    unready = await client.get("/readyz")
    assert (unready.status_code, unready.json()["ready"], unready.json()["state"]) == (503, False, "not ready")
    assert unready.json()["reasons"][1] == "worker 1: takes no mail: the node is being drained"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State.DRAINING, "drained"),
        (State.DISK_FULL, "the disk is full"),
        (State.DISK_FAILED, "a write to the disk failed"),
        (State.MEMORY_FULL, "the memory budget is used up"),
        (State.DISK_SILENT, "the disk does not answer"),
        (State.STOPPING, "is stopping"),
    ],
)
async def test_a_worker_that_takes_no_mail_says_why(connect: Connect, tmp_path: Path, state: State, says: str) -> None:
    board = board_of(1)
    board.heart("worker", 0).say(state)
    answer = await connect([tmp_path], board=board).get("/readyz")
    assert answer.status_code == 503
    (reason,) = answer.json()["reasons"]
    assert reason.startswith("worker 0: ")
    assert says in reason


async def test_a_worker_that_hangs_makes_the_node_unready_and_nobody_waits_for_it(
    connect: Connect, tmp_path: Path
) -> None:
    board = board_of(1, "lookup")
    then = time.monotonic_ns() + round((SILENT_S + 8) * S)
    answer = await connect([tmp_path], board=board, monotonic_ns=lambda: then).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == [
        "supervisor: has not answered for 12 s; mail goes on, and no process that ends is started again",
        "worker 0: has not answered for 12 s",
        "lookup: has not answered for 12 s; mail to domains that are not remembered waits",
    ]


async def test_without_the_other_processes_mail_is_taken_and_what_stops_is_said(
    connect: Connect, tmp_path: Path
) -> None:
    board = board_of(1, "lookup", "access", "events")
    now = time.monotonic_ns()
    for kind in ("lookup", "access", "events"):
        board.ended(kind, 0, -11, now)
    answer = await connect([tmp_path], board=board).get("/readyz")
    assert (answer.status_code, answer.json()["state"]) == (200, "degraded")
    assert [reason.rpartition("; ")[2] for reason in answer.json()["reasons"]] == [
        "mail to domains that are not remembered waits",
        "AUTH is answered 454",
        "the event log is neither rotated nor sent on",
    ]


async def test_an_event_log_that_cannot_be_written_is_said(connect: Connect, tmp_path: Path) -> None:
    board = board_of(2)
    board.heart("worker", 1).say(State.SERVING, events_failing=True)
    answer = await connect([tmp_path, tmp_path], board=board).get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["reasons"] == [
        "event log: worker 1: it cannot be written; events are kept for later, then lost"
    ]


async def test_one_check_by_name(connect: Connect, tmp_path: Path) -> None:
    board = board_of(2, "lookup")
    board.heart("worker", 0).say(State.DISK_FULL)
    client = connect([tmp_path, tmp_path], board=board)
    lookup = await client.get("/readyz", params={"check": "lookup"})
    assert (lookup.status_code, lookup.json()["checks"]) == (200, [{"name": "lookup", "ok": True, "why": None}])
    for name in ("worker 0", "worker-0"):
        one = await client.get("/readyz", params={"check": name})
        assert (one.status_code, one.json()["reasons"]) == (503, ["worker 0: takes no mail: the disk is full"])
    both = await client.get("/readyz", params={"check": ["lookup", "worker-0"]})
    assert (both.status_code, len(both.json()["checks"])) == (503, 2)
    unknown = await client.get("/readyz", params={"check": "loookup"})
    assert unknown.status_code == 404
    assert "supervisor, worker 0, worker 1, lookup, event log" in unknown.json()["detail"]


async def test_as_text(connect: Connect, tmp_path: Path) -> None:
    board = board_of(2)
    board.heart("worker", 1).say(State.MEMORY_FULL)
    client = connect([tmp_path, tmp_path], board=board)
    text = "degraded\n[+] supervisor\n[+] worker 0\n[-] worker 1: takes no mail: the memory budget is used up\n"
    for how in ({"params": {"format": "text"}}, {"headers": {"accept": "text/plain"}}):
        answer = await client.get("/readyz", **how)
        assert (answer.status_code, answer.text) == (200, text + "[+] event log\n")
        assert answer.headers["content-type"].startswith("text/plain")
    assert (await client.get("/healthz", params={"format": "text"})).text == "ok\n"
    json = await client.get("/readyz", params={"format": "json"}, headers={"accept": "text/plain"})
    assert json.json()["state"] == "degraded"
    # what browsers, kubelet and Prometheus' blackbox exporter say
    for accept in ("*/*", "text/html,application/xhtml+xml,*/*;q=0.8", ""):
        assert (await client.get("/readyz", headers={"accept": accept})).json()["ready"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("token", [None, "0123456789abcdef"])
async def test_probes_of_every_kind_are_answered(
    connect: Connect, tmp_path: Path, path: str, token: str | None
) -> None:
    """Without a token, under the names that they have for us, by HEAD as well; nothing is kept by a cache."""
    board = board_of(1)
    client = connect([tmp_path], board=board, token=token)
    for host in ("10.1.2.3:8025", "relay.service.consul:8025", "mx-1.mail.svc.cluster.local"):
        answer = await client.get(path, headers={"host": host})
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    head = await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "application/json"


async def test_alive_whatever_the_workers_do(connect: Connect, tmp_path: Path) -> None:
    board = board_of(1)
    board.ended("worker", 0, 1, 0)
    answer = await connect([tmp_path], board=board).get("/healthz")
    assert (answer.status_code, answer.json()["status"], answer.json()["why"]) == (200, "ok", None)


async def test_without_a_supervisor_that_turns_nothing_is_mended(connect: Connect, tmp_path: Path) -> None:
    board = board_of(1)
    beat = board.beat_of("supervisor", 0)
    for silent_s, status in ((29, 200), (31, 503)):
        answer = await connect([tmp_path], board=board, monotonic_ns=lambda s=silent_s: beat + s * S).get("/healthz")
        assert answer.status_code == status
    assert (answer.json()["status"], answer.json()["why"]) == ("failing", "the supervisor has not answered for 31 s")


async def test_metrics_wait_for_nobody_and_say_who_is_up(connect: Connect, tmp_path: Path) -> None:
    board = board_of(2, "lookup", "access", "events", "admin")
    board.ended("worker", 1, -9, 0)
    board.starting("access", 0, time.monotonic_ns())
    board.ended("events", 0, 1, 0)
    text = (await connect([tmp_path, tmp_path], board=board).get("/metrics")).text
    up = {line for line in text.splitlines() if line.startswith("angarium_process_up{")}
    expected = dict.fromkeys(("supervisor", "worker-0", "lookup", "admin"), 1)
    expected |= dict.fromkeys(("worker-1", "access", "events"), 0)
    assert up == {f'angarium_process_up{{process="{name}"}} {value}.0' for name, value in expected.items()}
