"""A program of the operator's own says whether a password is right, and what becomes of it when it does not."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from angarium.config.credentials import Credentials
from angarium.config.secret import Secret
from angarium.policy.access_protocol import PasswordAttempt
from angarium.policy.back_end import Finding
from angarium.policy.http_back_end import HttpBackEnd
from tests.support.ports import free_port
from tests.support.web import WebServer

if TYPE_CHECKING:
    from pathlib import Path

ATTEMPT = PasswordAttempt("alice", "hunter2", "192.0.2.1", "submission", "PLAIN")


def back_end_of(url: str, **settings: Any) -> HttpBackEnd:
    return HttpBackEnd(Credentials(kind="http", url=url, **{"timeout_s": 5.0, **settings}))


@pytest.mark.parametrize(
    ("said", "finding", "log_in"),
    [
        ({"result": "accepted"}, Finding.ACCEPTED, "alice"),
        ({"result": "accepted", "log_in": "alice@example.org"}, Finding.ACCEPTED, "alice@example.org"),
        ({"result": "refused"}, Finding.REFUSED, "alice"),
        ({"result": "unknown"}, Finding.UNKNOWN, "alice"),
    ],
)
async def test_what_it_says(said: dict[str, str], finding: Finding, log_in: str) -> None:
    async with WebServer(lambda _: (200, said)) as server:
        back_end = back_end_of(server.url)
        found = await back_end.password(ATTEMPT)
        await back_end.close()
    assert (found.finding, found.log_in) == (finding, log_in)
    assert json.loads(server.bodies[0]) == {
        "log_in": "alice",
        "password": "hunter2",
        "address": "192.0.2.1",
        "listener": "submission",
        "mechanism": "PLAIN",
    }


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (200, {"result": "perhaps"}, '"result" of the answer is none of'),
        (200, {}, '"result" of the answer is none of'),
        (200, ["accepted"], "no JSON object"),
        (200, b"accepted", "no JSON object"),
        (401, {"result": "accepted"}, "HTTP status 401"),
        (302, {"result": "accepted"}, "HTTP status 302"),
        (200, b'{"result":"accepted"}' + b" " * 70_000, "more than 65536 octets"),
    ],
)
async def test_what_is_no_answer(status: int, said: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    async with WebServer(lambda _: (status, said)) as server:
        back_end = back_end_of(server.url)
        assert (await back_end.password(ATTEMPT)).finding is Finding.UNAVAILABLE
        await back_end.close()
    assert why in caplog.text
    assert "hunter2" not in caplog.text


async def test_an_answer_that_does_not_come(caplog: pytest.LogCaptureFixture) -> None:
    async with WebServer(lambda _: (200, {"result": "accepted"})) as server:
        server.held = asyncio.Event()
        back_end = back_end_of(server.url, timeout_s=0.05)
        assert (await back_end.password(ATTEMPT)).finding is Finding.UNAVAILABLE
        await back_end.close()
    assert "has no answer within 0.05 s" in caplog.text


async def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    back_end = back_end_of(f"http://127.0.0.1:{free_port()}/")
    assert (await back_end.password(ATTEMPT)).finding is Finding.UNAVAILABLE
    await back_end.close()
    assert "127.0.0.1 cannot be asked" in caplog.text
    assert "hunter2" not in caplog.text


async def test_its_token_is_sent_and_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    async with WebServer(lambda _: (200, {"result": "accepted"})) as server:
        back_end = back_end_of(server.url, token_file=str(file))
        await back_end.password(ATTEMPT)
        file.write_text("two\n")
        await back_end.password(ATTEMPT)
        file.unlink()
        assert (await back_end.password(ATTEMPT)).finding is Finding.UNAVAILABLE
        await back_end.close()
        inline = back_end_of(server.url, token=Secret("three"))
        await inline.password(ATTEMPT)
        await inline.close()
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer one", "Bearer two", "Bearer three"]
