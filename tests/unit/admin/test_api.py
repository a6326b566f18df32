"""The API: shapes as promised, answers of all workers merged, and honest when some are missing."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from angarium._core.counters import Slab, Slot
from angarium.admin.api import UNREACHABLE_HEADER
from angarium.admin.sandbox_mail import SandboxMail
from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_protocol import STATUS, LookupStatus
from angarium.delivery.lookup_server import LookupServer
from tests.support.heartbeats import board_of

Connect = Callable[..., httpx.AsyncClient]
StartWorkers = Callable[[int], Any]


ID = "0123456789ABC"


def summary(messages: int, oldest_s: float | None, ready: int = 0, in_doubt: int = 0) -> dict[str, Any]:
    return {
        "messages": messages,
        "recipients": 2 * messages,
        "octets": 100 * messages,
        "oldest_s": oldest_s,
        "by_state": {"ready": ready, "scheduled": messages - ready, "held": 0, "suspended": 0, "in_doubt": in_doubt},
    }


def message(message_id: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "state": "scheduled",
        "reverse_path": "",
        "octets": 1200,
        "received": "2026-01-02T03:04:05.678Z",
        "tenant": None,
        "recipients": [
            {
                "address": "b@example.net",
                "state": "deferred",
                "attempts": 2,
                "reply": "451 4.3.0 later",
                "next_attempt": "2026-01-02T03:14:05Z",
            }
        ],
    }


ENVELOPE = {
    "reverse_path": "",
    "recipients": [{"address": "b@example.net", "notify": ["NEVER"], "orcpt": None}],
    "received": "2026-01-02T03:04:05.678Z",
    "durability": "fsync",
    "body": None,
    "ret": None,
    "smtputf8": False,
    "requiretls": False,
    "priority": 0,
    "hold_until": None,
    **dict.fromkeys(("envid", "listener", "client", "greeting", "login", "tenant", "source_pool")),
}


async def test_summary_adds_up_what_the_workers_say(start_workers: StartWorkers, connect: Connect) -> None:
    fakes = await start_workers(3)
    for fake, part in zip(
        fakes, (summary(3, 5.0, ready=1), summary(0, None), summary(4, 90.5, ready=2, in_doubt=1)), strict=True
    ):
        fake.results["summary"] = part
    answer = await connect([fake.path for fake in fakes]).get("/api/v1/queue/summary")
    assert answer.status_code == 200
    assert answer.json() == {
        "messages": 7,
        "recipients": 14,
        "octets": 700,
        "oldest_s": 90.5,
        "by_state": {"ready": 3, "scheduled": 4, "held": 0, "suspended": 0, "in_doubt": 1},
    }
    assert UNREACHABLE_HEADER not in answer.headers


async def test_summary_of_an_empty_queue_has_no_oldest(start_workers: StartWorkers, connect: Connect) -> None:
    (fake,) = await start_workers(1)
    fake.results["summary"] = summary(0, None)
    answer = await connect([fake.path]).get("/api/v1/queue/summary")
    assert answer.json()["oldest_s"] is None


async def test_a_dead_worker_is_named_and_the_rest_is_shown(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    (fake,) = await start_workers(1)
    fake.results |= {"summary": summary(2, 1.0), "list": [message("0A")]}
    client = connect([tmp_path / "dead", fake.path])
    for path in ("/api/v1/queue/summary", "/api/v1/queue"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers[UNREACHABLE_HEADER] == "0"


@pytest.mark.parametrize("path", ["/api/v1/queue/summary", "/api/v1/queue", f"/api/v1/queue/{ID}"])
async def test_no_answer_at_all_is_not_an_empty_queue(connect: Connect, tmp_path: Path, path: str) -> None:
    answer = await connect([tmp_path / "dead"]).get(path)
    assert answer.status_code == 503
    assert "worker 0: No such file or directory" in answer.json()["detail"]


async def test_no_workers_at_all_is_said(connect: Connect) -> None:
    assert (await connect([]).get("/api/v1/queue")).json()["detail"] == "there are no workers"


async def test_list_is_merged_in_order_of_time_and_cut(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results["list"] = [message("0A"), message("0D")]
    second.results["list"] = [message("0B"), message("0C")]
    client = connect([first.path, second.path])
    assert [m["id"] for m in (await client.get("/api/v1/queue")).json()] == ["0A", "0B", "0C", "0D"]
    cut = await client.get("/api/v1/queue", params={"limit": 3})
    assert [m["id"] for m in cut.json()] == ["0A", "0B", "0C"]
    assert cut.json()[0] == message("0A")


async def test_list_hands_its_filters_to_the_workers(start_workers: StartWorkers, connect: Connect) -> None:
    (fake,) = await start_workers(1)
    fake.results["list"] = []
    wanted = {
        "to_domain": "example.net",
        "from": "a@example.org",
        "tenant": "shop",
        "state": "in_doubt",
        "older_than_s": 60.5,
        "limit": 7,
    }
    client = connect([fake.path])
    assert (await client.get("/api/v1/queue", params=wanted)).json() == []
    await client.get("/api/v1/queue")
    assert [question["filter"] for question in fake.questions] == [wanted, {"limit": 100}]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("state", "lost"),
        ("limit", "0"),
        ("limit", "10001"),
        ("limit", "x"),
        ("older_than_s", "-1"),
        ("tenant", "x" * 256),
    ],
)
async def test_list_refuses_filters_that_make_no_sense(
    start_workers: StartWorkers, connect: Connect, parameter: str, value: str
) -> None:
    (fake,) = await start_workers(1)
    answer = await connect([fake.path]).get("/api/v1/queue", params={parameter: value})
    assert answer.status_code == 400
    assert parameter in answer.text or "state" in answer.text
    assert fake.questions == []


async def test_show_finds_the_message_with_whichever_worker_has_it(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    first, second = await start_workers(2)
    detail = {
        **message("0A"),
        "header": "Subject: x\r\n",
        "record": {"shard": 1, "segment": "00000001.seg", "offset": 4096, "octets": 1300},
        "envelope": ENVELOPE,
        "attempts": [
            {
                "number": 1,
                "time": None,
                "next_hop": "mx",
                "host": None,
                "source": "a7",
                "pool": None,
                "recipients": [{"address": "b@example.net", "state": "deferred", "reply": "451 4.3.0 later"}],
            }
        ],
        "waits_for": {"what": "schedule", "text": "the time of its next attempt", "until": "2026-01-02T03:14:05.000Z"},
        "waited": {"connection": 2.5},
    }
    first.results["show"] = None
    second.results["show"] = detail
    answer = await connect([tmp_path / "dead", first.path, second.path]).get(f"/api/v1/queue/{ID.lower()}")
    assert answer.json() == detail
    assert second.questions == [{"op": "show", "id": ID}]


async def test_show_says_not_found_only_when_every_worker_was_asked(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    (fake,) = await start_workers(1)
    fake.results["show"] = None
    assert (await connect([fake.path]).get(f"/api/v1/queue/{ID}")).status_code == 404
    unsure = await connect([fake.path, tmp_path / "dead"]).get(f"/api/v1/queue/{ID}")
    assert unsure.status_code == 503
    assert "worker 1" in unsure.json()["detail"]


@pytest.mark.parametrize("message_id", ["0A", "0123456789ABU", "..%2F..%2Fstatus", "0123456789ABCD", "0000000000000"])
async def test_show_refuses_what_is_no_id(start_workers: StartWorkers, connect: Connect, message_id: str) -> None:
    (fake,) = await start_workers(1)
    answer = await connect([fake.path]).get(f"/api/v1/queue/{message_id}")
    assert answer.status_code in {400, 404}
    assert fake.questions == []


async def test_status_reports_every_worker_and_the_counters(
    start_workers: StartWorkers, connect: Connect, slab: Slab, tmp_path: Path
) -> None:
    first, second = await start_workers(2)
    second.results["status"] |= {"accepting": False, "reason": "disk full", "uptime_s": 99.0}
    slab.region(0).add(Slot.INGRESS_MESSAGES_FSYNC, 2)
    slab.region(1).add(Slot.INGRESS_MESSAGES_MEMORY, 1)
    slab.region(1).add(Slot.INGRESS_REJECTED_SIZE, 4)
    answer = (await connect([first.path, second.path, tmp_path / "dead"]).get("/api/v1/status")).json()
    assert (answer["hostname"], answer["sandbox"], answer["accepting"]) == ("relay.example.org", False, True)
    assert answer["uptime_s"] == 99.0
    assert [worker["answering"] for worker in answer["workers"]] == [True, True, False]
    assert answer["workers"][0]["status"] == first.results["status"]
    assert answer["workers"][2]["status"] is None
    assert answer["workers"][2]["error"] == "No such file or directory"
    assert answer["totals"]["accepted_messages"] == 3
    assert answer["totals"]["rejections"] == 4


async def test_the_supervisor_says_which_configuration_is_in_force(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    (worker,) = await start_workers(1)
    configuration = {
        "file": "/etc/angarium/angarium.toml",
        "sha256": "ab" * 32,
        "since": "2026-01-02T03:04:05.000+00:00",
        "changes": 1,
        "waiting": ["node.spool"],
        "reload": None,
        "last_refused": None,
    }
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        said = {"ok": True, "result": {"draining": True, "configuration": configuration, "pid": 1}}
        writer.write(msgspec.json.encode(said) + b"\n")
        writer.close()

    path = tmp_path / "supervisor.sock"
    client = connect([worker.path], node_socket=path)
    assert (await client.get("/api/v1/status")).json()["configuration"] is None
    async with await asyncio.start_unix_server(answer, path):
        status = (await client.get("/api/v1/status")).json()
    assert status["configuration"] == configuration
    assert status["draining"] is True
    assert asked == [b'{"op": "status"}\n']


async def test_the_lookup_process_is_reported_and_mail_is_accepted_without_it(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    async def status(_: None) -> LookupStatus:
        return LookupStatus(pid=4711, uptime_s=2.5, entries=3, under_way=1)

    (worker,) = await start_workers(1)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(tmp_path / "lookup.sock"))
    sock.listen()
    server = LookupServer()
    server.answer(STATUS, status)
    await server.start(sock)
    lookup = LookupClient(str(tmp_path / "lookup.sock"), monotonic=time.monotonic, random=random.Random())
    client = connect([worker.path], lookup=lookup)
    answer = (await client.get("/api/v1/status")).json()
    told = {"pid": 4711, "entries": 3, "under_way": 1, "uptime_s": 2.5}
    assert answer["lookup"] == {"answering": True, "error": None, "status": told}
    assert answer["reasons"] == []
    lookup._away_s = 0.05
    await server.close()
    answer = (await client.get("/api/v1/status")).json()
    assert (answer["lookup"]["answering"], answer["lookup"]["status"]) == (False, None)
    await lookup.close()


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4", parse_text),
        ("", "text/plain", parse_text),
        (
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
            parse_openmetrics,
        ),
    ],
)
async def test_metrics_in_the_format_that_is_asked_for(
    *,
    start_workers: StartWorkers,
    connect: Connect,
    slab: Slab,
    tmp_path: Path,
    accept: str,
    content_type: str,
    parse: Callable[[str], Any],
) -> None:
    (fake,) = await start_workers(1)
    board = board_of(2, "admin")
    for kind, pid in (("worker", os.getpid()), ("admin", os.getpid()), ("supervisor", os.getppid())):
        board.started(kind, 0, pid)
    board.ended("worker", 1, -9, 0)
    slab.region(2).add(Slot.QUEUE_SYNCS_TOTAL, 5)
    client = connect([fake.path, tmp_path / "dead"], board=board)
    answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(content_type)
    samples = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }
    assert samples["angarium_queue_syncs_total", ()] == 5
    assert samples["angarium_process_up", (("process", "worker-0"),)] == 1
    assert samples["angarium_process_up", (("process", "worker-1"),)] == 0
    for process in ("admin", "supervisor", "worker-0"):
        assert samples["angarium_process_resident_memory_bytes", (("process", process),)] > 1_000_000
        assert samples["angarium_process_open_fds", (("process", process),)] > 0
    assert samples["angarium_process_cpu_seconds_total", (("process", "admin"),)] > 0
    assert ("angarium_process_resident_memory_bytes", (("process", "worker-1"),)) not in samples


async def test_metrics_leave_out_a_process_that_has_ended(connect: Connect, tmp_path: Path) -> None:
    board = board_of(1)
    board.started("worker", 0, 2**22 + 1)
    text = (await connect([tmp_path], board=board).get("/metrics")).text
    assert 'angarium_process_up{process="worker-0"} 1.0' in text
    assert 'memory_bytes{process="worker-0"}' not in text


async def test_the_description_of_the_api_names_every_path(connect: Connect) -> None:
    answer = await connect([]).get("/api/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    description = answer.json()
    assert set(description["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/status",
        "/api/v1/queue",
        "/api/v1/queue/summary",
        "/api/v1/queue/{message_id}",
        "/api/v1/queue/{action}",
        "/api/v1/queue/export",
        "/api/v1/operations",
        "/api/v1/operations/{operation_id}",
        "/api/v1/suspensions",
        "/api/v1/tls-report",
        "/api/v1/bans",
        "/api/v1/streams/{name}/resend",
        "/api/v1/explain",
        "/api/v1/messages/{message_id}/trace",
        "/api/v1/trace/live",
        "/api/v1/sandbox/messages",
        "/api/v1/sandbox/messages/{message_id}",
        "/api/v1/sandbox/messages/{message_id}/raw",
    }
    parameters = {p["name"] for p in description["paths"]["/api/v1/queue"]["get"]["parameters"]}
    assert parameters == {"to_domain", "from", "tenant", "log_in", "state", "older_than_s", "limit"}
    shape = description["components"]["schemas"]["QueueSummary"]["properties"]
    assert set(shape) == {"messages", "recipients", "octets", "oldest_s", "by_state"}


async def test_no_document_pages_that_load_scripts_from_elsewhere(connect: Connect) -> None:
    client = connect([])
    for path in ("/api/swagger", "/api/redoc", "/schema"):
        assert (await client.get(path)).status_code == 404


async def test_the_api_document_describes_every_path(connect: Connect) -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    for path, operations in (await connect([]).get("/api/openapi.json")).json()["paths"].items():
        shown = path.replace("{message_id}", "{id}").replace("{operation_id}", "{id}")
        for method in operations:
            assert f"`{method.upper()} {shown}`" in page


@pytest.mark.parametrize(
    "path", ["/api/v1/sandbox/messages", "/api/v1/sandbox/messages/x", "/api/v1/sandbox/messages/x/raw"]
)
async def test_mail_is_shown_only_in_the_sandbox(connect: Connect, path: str) -> None:
    answer = await connect([]).get(path)
    assert answer.status_code == 404
    assert "sandbox mode" in answer.json()["detail"]


async def test_arrived_mail_is_listed_and_shown(connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "Maildir" / "new"
    folder.mkdir(parents=True)
    octets = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: hello\r\n\r\nbody\r\n"
    (folder / "100.M1P1.host").write_bytes(octets)
    client = connect([], sandbox_mail=SandboxMail(tmp_path / "Maildir"))
    listing = (await client.get("/api/v1/sandbox/messages")).json()
    assert listing["total"] == 1
    (entry,) = listing["messages"]
    assert (entry["from"], entry["to"], entry["subject"]) == ("a@example.org", "b@example.net", "hello")
    assert entry["octets"] == len(octets)
    detail = (await client.get(f"/api/v1/sandbox/messages/{entry['id']}")).json()
    assert detail["text"].strip() == "body"
    raw = await client.get(f"/api/v1/sandbox/messages/{entry['id']}/raw")
    assert raw.content == octets
    assert raw.headers["content-type"].startswith("message/rfc822")
    assert raw.headers["content-disposition"].startswith("attachment")
    assert (await client.get("/api/v1/sandbox/messages/101.M1P1.host")).status_code == 404
    assert (await client.get("/api/v1/sandbox/messages/101.M1P1.host/raw")).status_code == 404
