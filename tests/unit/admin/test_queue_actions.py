"""Actions on the queue over HTTP: who is meant, what is asked of the workers, how their reports add up."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from angarium.admin.api import UNREACHABLE_HEADER

if TYPE_CHECKING:
    from pathlib import Path

Connect = Callable[..., httpx.AsyncClient]
StartWorkers = Callable[[int], Any]

IDS = ["0123456789ABC", "0123456789ABD", "0123456789ABE", "0123456789ABF"]


def part(operation: str = "op1", **fields: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("selected", "done", "under_way", "unchanged", "others", "failed"), 0)
    return {
        "operation": operation,
        "action": "hold",
        "state": "done",
        "by": "ada",
        "reason": "why",
        "started": "2026-01-02T03:04:05.000Z",
        "ended": "2026-01-02T03:04:06.000Z",
        "errors": [],
        **counts,
        **fields,
    }


def message(message_id: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "state": "ready",
        "reverse_path": "",
        "octets": 1,
        "received": "2026-01-02T03:04:05.678Z",
        "tenant": None,
        "recipients": [],
    }


async def test_an_action_goes_to_every_worker_under_one_id(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results["act"] = part(selected=3, done=2, under_way=1, errors=["0A: why not"])
    second.results["act"] = part(selected=4, done=4, ended="2026-01-02T03:04:09.000Z")
    body = {"to_domain": "example.net", "reason": "why", "by": "ada", "wait_s": 0.25, "before": "2026-01-02T03:04:05Z"}
    answer = await connect([first.path, second.path]).post("/api/v1/queue/hold", json=body)
    assert answer.status_code == 200
    operation = answer.json()
    assert (operation["id"], operation["state"], operation["action"]) == ("op1", "done", "hold")
    assert (operation["selected"], operation["done"], operation["under_way"]) == (7, 6, 1)
    assert operation["ended"] == "2026-01-02T03:04:09.000Z"
    assert operation["errors"] == ["0A: why not"]
    assert first.questions == second.questions
    question = first.questions[0]
    assert len(question.pop("operation")) == 12
    assert question == {
        "op": "act",
        "action": "hold",
        "filter": {"to_domain": "example.net", "before_us": 1767323045000000},
        "reason": "why",
        "by": "ada",
        "wait_s": 0.25,
    }


@pytest.mark.parametrize("action", ["hold", "release", "retry", "delete", "bounce"])
async def test_ids_are_made_canonical(start_workers: StartWorkers, connect: Connect, action: str) -> None:
    (fake,) = await start_workers(1)
    fake.results["act"] = part(action=action)
    answer = await connect([fake.path]).post(f"/api/v1/queue/{action}", json={"ids": [IDS[0].lower()]})
    assert answer.json()["action"] == action
    assert (fake.questions[0]["ids"], fake.questions[0]["action"]) == ([IDS[0]], action)
    assert fake.questions[0]["reason"]


async def test_a_limit_means_the_oldest_of_the_node(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results |= {"select": [IDS[0], IDS[3]], "act": part()}
    second.results |= {"select": [IDS[1], IDS[2]], "act": part()}
    client = connect([first.path, second.path])
    assert (await client.post("/api/v1/queue/delete", json={"all": True, "limit": 3})).status_code == 200
    assert first.questions[0] == {"op": "select", "filter": {"limit": 3}}
    assert first.questions[1]["ids"] == second.questions[1]["ids"] == IDS[:3]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "no message is named"),
        ({"limit": 5}, "no message is named"),
        ({"before": "2026-01-02T03:04:05Z"}, "no message is named"),
        ({"ids": [IDS[0]], "tenant": "shop"}, "not both"),
        ({"ids": [IDS[0]], "all": True}, "not both"),
        ({"ids": ["0A"]}, "not a queue id"),
        ({"all": True, "before": "2026-01-02T03:04:05"}, "offset"),
        ({"all": True, "to_domian": "x"}, "to_domian"),
        ({"all": True, "limit": 0}, ""),
        ({"all": True, "wait_s": 31}, ""),
    ],
)
async def test_an_action_that_names_no_message_is_refused(
    start_workers: StartWorkers, connect: Connect, body: dict[str, Any], detail: str
) -> None:
    (fake,) = await start_workers(1)
    client = connect([fake.path])
    for dry_run in ({}, {"dry_run": True}):
        answer = await client.post("/api/v1/queue/delete", json={**body, **dry_run})
        assert answer.status_code == 400
        assert detail in answer.text
    assert fake.questions == []


async def test_an_unknown_action_is_refused(start_workers: StartWorkers, connect: Connect) -> None:
    (fake,) = await start_workers(1)
    answer = await connect([fake.path]).post("/api/v1/queue/destroy", json={"all": True})
    assert answer.status_code in {400, 404}
    assert fake.questions == []


async def test_a_dry_run_adds_up_previews_and_does_nothing(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    preview = {"messages": 4, "recipients": 6, "octets": 100, "under_way": 1}
    first.results["preview"] = {**preview, "oldest": "2026-01-02T03:04:05.000Z", "samples": [message("0D")]}
    second.results["preview"] = {
        **preview,
        "oldest": "2026-01-01T03:04:05.000Z",
        "samples": [message(f"0{letter}") for letter in "ABCEF"],
    }
    client = connect([first.path, second.path])
    answer = (await client.post("/api/v1/queue/delete", json={"tenant": "shop", "dry_run": True})).json()
    assert (answer["messages"], answer["recipients"], answer["octets"], answer["under_way"]) == (8, 12, 200, 2)
    assert answer["oldest"] == "2026-01-01T03:04:05.000Z"
    assert [sample["id"] for sample in answer["samples"]] == ["0A", "0B", "0C", "0D", "0E"]
    assert answer["before"].endswith("Z")
    assert first.questions == [{"op": "preview", "filter": {"tenant": "shop"}}]


async def test_a_running_operation_is_202_until_it_ends(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results["operation"] = part(state="running", ended=None, selected=10, done=3)
    second.results["operation"] = part(selected=1, done=1)
    client = connect([first.path, second.path])
    answer = await client.get("/api/v1/operations/op1", params={"wait_s": 0.1})
    assert (answer.status_code, answer.json()["state"], answer.json()["ended"]) == (202, "running", None)
    assert first.questions == [{"op": "operation", "operation": "op1", "wait_s": 0.1}]
    first.results["operation"] = part(selected=10, done=10, state="cancelled")
    answer = await client.get("/api/v1/operations/op1")
    assert (answer.status_code, answer.json()["state"], answer.json()["done"]) == (200, "cancelled", 11)


async def test_an_operation_fails_where_a_worker_is_lost(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    first, second = await start_workers(2)
    first.results["operation"] = part(done=3)
    second.results["operation"] = None
    answer = await connect([first.path, second.path, tmp_path / "dead"]).get("/api/v1/operations/op1")
    operation = answer.json()
    assert (operation["state"], operation["done"]) == ("failed", 3)
    assert any("worker 2: No such file" in error for error in operation["errors"])
    assert any("worker 1" in error and "started again" in error for error in operation["errors"])
    assert answer.headers[UNREACHABLE_HEADER] == "2"
    first.results["operation"] = None
    assert (await connect([first.path, second.path]).get("/api/v1/operations/none")).status_code == 404
    assert (await connect([tmp_path / "dead"]).get("/api/v1/operations/op1")).status_code == 503


async def test_operations_are_listed_in_order_and_can_be_cancelled(
    start_workers: StartWorkers, connect: Connect
) -> None:
    first, second = await start_workers(2)
    early, late = part("op1", done=1), part("op2", started="2026-01-03T00:00:00.000Z", done=5)
    first.results["operations"], second.results["operations"] = [late, early], [early]
    client = connect([first.path, second.path])
    listed = (await client.get("/api/v1/operations")).json()
    assert [(operation["id"], operation["done"]) for operation in listed] == [("op1", 2), ("op2", 5)]
    for fake in (first, second):
        fake.results |= {"cancel": early, "operation": part("op1", state="cancelled")}
    answer = await client.delete("/api/v1/operations/op1")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert [question["op"] for question in first.questions] == ["operations", "cancel", "operation"]


async def test_a_page_of_another_origin_cannot_act(start_workers: StartWorkers, connect: Connect) -> None:
    (fake,) = await start_workers(1)
    fake.results |= {"act": part(), "list": []}
    client = connect([fake.path])
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999"):
        answer = await client.post("/api/v1/queue/delete", json={"all": True}, headers={"origin": origin})
        assert answer.status_code == 403
    assert fake.questions == []
    own = {"origin": "http://127.0.0.1:8025"}
    assert (await client.post("/api/v1/queue/delete", json={"all": True}, headers=own)).status_code == 200
    # reading is no danger: the browser does not show the answer to another origin
    assert (await client.get("/api/v1/queue", headers={"origin": "https://evil.example"})).status_code == 200


async def test_a_body_that_is_no_json_is_refused(start_workers: StartWorkers, connect: Connect) -> None:
    (fake,) = await start_workers(1)
    for content in (b"", b"{", b"[]", b'"all"'):
        answer = await connect([fake.path]).post("/api/v1/queue/delete", content=content)
        assert answer.status_code == 400
    assert fake.questions == []


# ------------------------------------------------------------------ export


def exported(message_id: str, content: bytes) -> bytes:
    line = {"id": message_id, "octets": len(content), "message": {"id": message_id, "envelope": {}}}
    return msgspec.json.encode(line) + b"\n" + content


END = b'{"ok":true,"result":{"messages":0,"unreadable":0}}\n'


def members(octets: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(octets)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


async def test_export_is_a_tar_of_all_workers(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results["export"] = exported(IDS[0], b"a" * 512) + exported(IDS[1], b"line\r\n\nother") + END
    second.results["export"] = END
    client = connect([first.path, second.path])
    answer = await client.post("/api/v1/queue/export", json={"state": "held"})
    assert answer.headers["content-type"] == "application/x-tar"
    found = members(answer.content)
    assert found[f"{IDS[0]}.eml"] == b"a" * 512
    assert found[f"{IDS[1]}.eml"] == b"line\r\n\nother"
    assert json.loads(found[f"{IDS[1]}.json"]) == {"id": IDS[1], "envelope": {}}
    assert list(found)[-1] == "export.json"
    assert json.loads(found["export.json"]) == {"messages": 2, "octets": 524, "failures": []}
    assert second.questions == [{"op": "export", "filter": {"state": "held"}}]
    assert (await client.post("/api/v1/queue/export", json={})).status_code == 400


async def test_export_names_the_worker_that_failed(
    start_workers: StartWorkers, connect: Connect, tmp_path: Path
) -> None:
    cut, refusing, good = await start_workers(3)
    cut.results["export"] = exported(IDS[0], b"whole") + exported(IDS[1], b"half of it")[:-4]
    refusing.results["export"] = RuntimeError("not today")
    good.results["export"] = exported(IDS[2], b"good") + END
    paths = [cut.path, refusing.path, tmp_path / "dead", good.path]
    answer = await connect(paths).post("/api/v1/queue/export", json={"all": True})
    found = members(answer.content)
    assert [name for name in found if name.endswith(".eml")] == [f"{IDS[0]}.eml", f"{IDS[2]}.eml"]
    report = json.loads(found["export.json"])
    assert report["messages"] == 2
    assert len(report["failures"]) == 3
    assert report["failures"][0].startswith("worker 0: ")
    assert "not today" in report["failures"][1]
