"""Suspensions over HTTP: one list, in a file that is whole at any time, and workers that are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from angarium.admin.api import UNREACHABLE_HEADER
from angarium.admin.model import NewSuspension
from angarium.admin.suspensions import SuspensionBook
from angarium.queue.suspension import load

if TYPE_CHECKING:
    from pathlib import Path

Connect = Callable[..., httpx.AsyncClient]
StartWorkers = Callable[[int], Any]

NEW = {"kind": "domain", "name": "Example.NET", "reason": "they asked us to", "for_s": 7200, "by": "ada"}


async def test_suspend_list_resume(start_workers: StartWorkers, connect: Connect, tmp_path: Path) -> None:
    (fake,) = await start_workers(1)
    fake.results["suspensions"] = 1
    client = connect([fake.path])
    assert (await client.get("/api/v1/suspensions")).json() == []
    answer = await client.post("/api/v1/suspensions", json=NEW)
    assert answer.status_code == 200
    made = answer.json()
    assert (made["kind"], made["name"], made["reason"], made["by"]) == (
        "domain",
        "example.net",
        "they asked us to",
        "ada",
    )
    times = [datetime.fromisoformat(made[name]) for name in ("since", "until")]
    assert times[1] - times[0] == timedelta(hours=2)
    assert abs(times[0] - datetime.now(UTC)) < timedelta(minutes=1)
    assert (await client.get("/api/v1/suspensions")).json() == [made]
    assert [suspension.name for suspension in load(tmp_path)] == ["example.net"]
    ended = await client.delete("/api/v1/suspensions", params={"kind": "domain", "name": "EXAMPLE.net"})
    assert ended.json() == made
    assert (await client.get("/api/v1/suspensions")).json() == []
    assert fake.questions == [{"op": "suspensions"}] * 2
    again = await client.delete("/api/v1/suspensions", params={"kind": "domain", "name": "example.net"})
    assert (again.status_code, again.json()["detail"]) == (404, "domain example.net is not suspended")


async def test_the_same_again_replaces(connect: Connect, start_workers: StartWorkers) -> None:
    (fake,) = await start_workers(1)
    fake.results["suspensions"] = 1
    client = connect([fake.path])
    await client.post("/api/v1/suspensions", json=NEW)
    await client.post("/api/v1/suspensions", json={**NEW, "kind": "tenant"})
    await client.post("/api/v1/suspensions", json={**NEW, "name": "example.net.", "kind": "site"})
    await client.post("/api/v1/suspensions", json={**NEW, "reason": "still"})
    listed = (await client.get("/api/v1/suspensions")).json()
    assert [(each["kind"], each["name"], each["reason"]) for each in listed] == [
        ("tenant", "Example.NET", "they asked us to"),
        ("site", "example.net.", "they asked us to"),
        ("domain", "example.net", "still"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "country"},
        {"name": ""},
        {"name": "a\nb"},
        {"reason": ""},
        {"for_s": 0},
        {"for_s": 1e9},
        {"for_s": "2h"},
        {"forever": True},
    ],
)
async def test_what_makes_no_sense_is_refused(connect: Connect, tmp_path: Path, change: dict[str, Any]) -> None:
    answer = await connect([]).post("/api/v1/suspensions", json={**NEW, **change})
    assert answer.status_code == 400
    assert load(tmp_path) == []


async def test_a_worker_that_cannot_be_told_is_named(connect: Connect, tmp_path: Path) -> None:
    answer = await connect([tmp_path / "dead"]).post("/api/v1/suspensions", json=NEW)
    assert (answer.status_code, answer.headers[UNREACHABLE_HEADER]) == (200, "0")


async def test_they_end_by_themselves(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    book = SuspensionBook(tmp_path, lambda: now)
    await book.add(NewSuspension(kind="domain", name="a.test", reason="x", for_s=60))
    await book.add(NewSuspension(kind="domain", name="b.test", reason="x", for_s=600))
    now += timedelta(seconds=61)
    assert [suspension.name for suspension in await book.list()] == ["b.test"]
    assert await book.remove("domain", "a.test") is None
    await book.add(NewSuspension(kind="domain", name="c.test", reason="x", for_s=60))
    assert [suspension.name for suspension in load(tmp_path)] == ["b.test", "c.test"]  # the ended one left the file


async def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    book = SuspensionBook(tmp_path)
    wanted = [NewSuspension(kind="domain", name=f"d{i}.test", reason="x", for_s=60) for i in range(20)]
    await asyncio.gather(*(book.add(each) for each in wanted))
    assert len(load(tmp_path)) == 20


async def test_a_spool_that_cannot_be_written_is_507(connect: Connect, tmp_path: Path) -> None:
    client = connect([], suspensions=SuspensionBook(tmp_path / "nowhere"))
    answer = await client.post("/api/v1/suspensions", json=NEW)
    assert (answer.status_code, "cannot be stored" in answer.json()["detail"]) == (507, True)


async def test_a_file_that_is_none_is_said(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "suspensions.json").write_text("{}")
    answer = await connect([]).get("/api/v1/suspensions")
    assert (answer.status_code, "cannot be read" in answer.json()["detail"]) == (507, True)
