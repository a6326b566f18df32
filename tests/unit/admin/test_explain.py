"""`/api/v1/explain`: every worker is asked, one of them makes the session."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from angarium.admin.api import UNREACHABLE_HEADER
from angarium.admin.model import Explanation

Connect = Callable[..., httpx.AsyncClient]
StartWorkers = Callable[[int], Any]

ROUTE = {"name": "there", "file": "/etc/x.toml", "position": 0, "next_hop": ["smtp://a.test:25"], "conditions": {}}
TRIAL = {"hosts": [], "tls": None, "dialogue": [], "accepted": True, "failure": None}


def explanation(worker: int, *blocks: str, trial: Any = None) -> dict[str, Any]:
    state = {"open": worker, "connecting": 0, "idle": 0, "ready": 0, "sent": 0, "failures": 0}
    return {
        "address": "you@there.test",
        "route": copy.deepcopy(ROUTE),
        "ahead": [],
        "next_hop": "smtp://a.test:25",
        "site": "a.test",
        "dns": None,
        "hosts": [],
        "tls": {"level": "none", "source": "delivery.tls"},
        "limits": {"connections": 20},
        "workers": [{"worker": worker, **state, "blocked_until": None, "reason": None}],
        "blocks": list(blocks),
        "trial": trial,
    }


async def test_what_the_workers_say_is_put_together(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results["explain"] = explanation(0, "suspended")
    second.results["explain"] = explanation(1, "suspended", "left alone")
    answer = await connect([first.path, second.path]).get(
        "/api/v1/explain", params={"address": "you@there.test", "from": "me@x.test", "tenant": "shop"}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert [worker["open"] for worker in body["workers"]] == [0, 1]
    assert body["blocks"] == ["suspended", "left alone"]
    assert msgspec.json.decode(answer.content, type=Explanation, strict=True).route.name == "there"
    asked = {"address": "you@there.test", "from": "me@x.test", "tenant": "shop"}
    assert {key: first.questions[0]["inquiry"][key] for key in asked} == asked
    assert first.questions == second.questions


async def test_one_worker_makes_the_session(start_workers: StartWorkers, connect: Connect) -> None:
    first, second = await start_workers(2)
    first.results["explain"] = RuntimeError("not now")
    second.results["explain"] = explanation(1, trial=TRIAL)
    client = connect([first.path, second.path])
    answer = await client.post("/api/v1/explain", json={"address": "you@there.test"})
    assert answer.json()["trial"] == TRIAL
    assert answer.headers[UNREACHABLE_HEADER] == "0"
    assert [question["inquiry"]["trial"] for question in second.questions] == [False, True]
    # not for a link, or a page of another origin
    assert (await client.get("/api/v1/explain", params={"address": "a@b", "try": "true"})).json()["trial"] is None
    assert [question["inquiry"]["trial"] for question in second.questions] == [False, True, False]


async def test_what_is_no_address(start_workers: StartWorkers, connect: Connect) -> None:
    (fake,) = await start_workers(1)
    fake.results["explain"] = ValueError("'a>' is not an address")
    client = connect([fake.path])
    answer = await client.get("/api/v1/explain", params={"address": "a>"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "'a>' is not an address")
    assert (await client.get("/api/v1/explain")).status_code == 400
    fake.results["explain"] = RuntimeError("no")
    assert (await client.get("/api/v1/explain", params={"address": "a@b"})).status_code == 503
